"""ModelType: what drives an avatar, what a bundle of it needs, and whether a portrait can become one."""

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
        picture_paths: where the portrait's PNG goes in the bundle; the first is the still that mouths are measured on.
        metadata: what the new manifest's metadata says about these files.
    """

    picture_paths: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ModelType(Protocol):
    """What drives an avatar."""

    @property
    def name(self) -> str:
        """What a manifest's `model_type` says."""
        ...

    @property
    def portrait_recipe(self) -> PortraitRecipe | None:
        """How to make an avatar of this type from a portrait; None if one portrait isn't enough."""
        ...

    def problems(self, bundle: AvatarBundle) -> Iterable[Problem]:
        """What keeps `bundle` from being driven by this type, as values: never raises, whatever the bundle holds."""
        ...
