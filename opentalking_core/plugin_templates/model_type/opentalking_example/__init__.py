"""The model type `example`: what its bundles need, and how a portrait becomes a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentalking_core import PortraitRecipe, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentalking_core import AvatarBundle, ModelType

EXPRESSIONS = ("neutral", "smiling")

#: The paths that a portrait's PNG is written to, and the metadata of the new manifest.
RECIPE = PortraitRecipe(("reference.png", "preview.png"), {"expression": "neutral"})


@dataclass(frozen=True)
class ExampleType:
    """A model type that animates one still, `reference.png`, with the expression named in the manifest's metadata.

    Args:
        name: what a manifest's `model_type` says.
        portrait_recipe: how a portrait becomes an avatar; None if a portrait isn't enough.
    """

    name: str = "example"
    portrait_recipe: PortraitRecipe | None = RECIPE

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Yield what keeps this type from driving `bundle`. Expect any content: people write bundles by hand."""
        if "reference.png" not in bundle.files:
            yield Problem("error", "reference.png", "is missing: it is the still that is animated")
        expression = bundle.manifest.metadata.get("expression", "neutral")
        if expression not in EXPRESSIONS:
            known = ", ".join(EXPRESSIONS)
            yield Problem("error", "metadata.expression", f"is {expression!r:.60}; it may be {known}")


@hookimpl
def register_model_types() -> Iterable[ModelType]:
    """Return the model types that this plugin adds."""
    return (ExampleType(),)
