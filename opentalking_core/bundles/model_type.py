"""ModelType: a model that drives avatars, and what it needs of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ..errors import Problem
    from .bundle import AvatarBundle
    from .source import AvatarSource, BundleFile, BundleMetadata, SourceKind


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
        """How to create a bundle of this type by copying a portrait's picture; None if that isn't enough."""
        ...

    def problems(self, bundle: AvatarBundle) -> Iterable[Problem]:
        """Return what keeps this model from driving `bundle`. Never raises, however broken the bundle is."""
        ...


@runtime_checkable
class BundleMaker(Protocol):
    """An optional ability of a model type: to make a bundle's files from what was uploaded.

    A portrait is given to `make_files` only if the type has no `portrait_recipe`.
    """

    @property
    def sources(self) -> Collection[SourceKind]:
        """What `make_files` makes files of: "portrait", "video" or both."""
        ...

    def make_files(self, source: AvatarSource) -> Iterable[BundleFile | BundleMetadata]:
        """Yield the files of a new bundle, and entries for its metadata.

        Called in a worker process, after which everything that was yielded is written at once or not at all. The host
        adds `manifest.json`; the uploaded video; and, unless they are yielded, `preview.png` and `reference.png`, which
        show the first frame with a mouth, or the first frame. The metadata says where the mouth is in that frame.

        Raises:
            InvalidRequest: an avatar can't be made of this source; the client gets the sentence.
        """
        ...


@runtime_checkable
class OwnMetadata(Protocol):
    """An optional ability of a model type: to name metadata that describes a bundle's own files.

    A new avatar inherits the metadata of its base, without these keys and without the keys of the bundle format that
    describe the base's own pictures.
    """

    @property
    def stale_metadata(self) -> Collection[str]:
        """Keys of `metadata` that are wrong for another source."""
        ...
