"""The model type `example`: what its bundles need, and how a portrait becomes a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from opentalking_core import BundleFile, BundleMetadata, InvalidRequest, PortraitRecipe, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentalking_core import AvatarBundle, AvatarSource, ModelType, SourceKind

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

    #: What `make_files` makes files of. A portrait is copied, as RECIPE says.
    sources: ClassVar[tuple[SourceKind, ...]] = ("video",)

    #: Metadata that a new avatar does not inherit from its base.
    stale_metadata: ClassVar[tuple[str, ...]] = ("frame_count",)

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Yield what keeps this type from driving `bundle`. Expect any content: people write bundles by hand."""
        if "reference.png" not in bundle.files:
            yield Problem("error", "reference.png", "is missing: it is the still that is animated")
        count, frames = bundle.manifest.metadata.get("frame_count", 0), len(bundle.images_in("frames"))
        if count != frames:
            yield Problem("error", "frames/", f"holds {frames} frames, but metadata.frame_count is {count!r:.60}")
        expression = bundle.manifest.metadata.get("expression", "neutral")
        if expression not in EXPRESSIONS:
            known = ", ".join(EXPRESSIONS)
            yield Problem("error", "metadata.expression", f"is {expression!r:.60}; it may be {known}")

    def make_files(self, source: AvatarSource) -> Iterator[BundleFile | BundleMetadata]:
        """Yield the frames of a video from the first mouth on. The host adds reference.png and preview.png."""
        count = 0
        for frame in source.frames():  # one after the other: there may be hundreds, of several MB each
            if count or frame.mouth:
                yield BundleFile(f"frames/{count:05d}.jpg", frame.jpeg())
                count += 1
        if not count:
            raise InvalidRequest("the video shows no mouth: use one that shows a face from the front")
        yield BundleMetadata({"expression": "neutral", "frame_count": count})


@hookimpl
def register_model_types() -> Iterable[ModelType]:
    """Return the model types that this plugin adds."""
    return (ExampleType(),)
