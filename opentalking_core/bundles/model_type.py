"""ModelType: a model that drives avatars, and what it needs of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..errors import Problem
    from .bundle import AvatarBundle


@dataclass(frozen=True, slots=True)
class PortraitRecipe:
    """How a portrait becomes a bundle of a model type.

    Args:
        picture_paths: where to put the portrait's PNG in the bundle. Mouths are located in the first of these files.
        metadata: entries for the new manifest's metadata.
    """

    picture_paths: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ModelType(Protocol):
    """A model that drives avatars."""

    @property
    def name(self) -> str:
        """The value of `model_type` in manifests."""
        ...

    @property
    def portrait_recipe(self) -> PortraitRecipe | None:
        """How to create a bundle of this type from a portrait; None if one portrait isn't enough."""
        ...

    def problems(self, bundle: AvatarBundle) -> Iterable[Problem]:
        """Return what keeps this model from driving `bundle`. Never raises, however broken the bundle is."""
        ...
