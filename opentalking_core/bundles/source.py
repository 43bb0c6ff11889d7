"""What an avatar is made from, a portrait or a video, and the files that a model type makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .mouth import MouthLandmarks

SourceKind = Literal["portrait", "video"]


class Frame(Protocol):
    """One picture of a source."""

    @property
    def seconds(self) -> float:
        """The time since the first frame, in seconds."""
        ...

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The upright picture: RGB, uint8, shape (height, width, 3), not to be changed."""
        ...

    @property
    def mouth(self) -> MouthLandmarks | None:
        """Where the mouth is, with a `source`; None if no mouth was found in this frame."""
        ...

    def jpeg(self) -> bytes:
        """Return the picture as a JPEG of quality 95."""
        ...


class AvatarSource(Protocol):
    """An uploaded portrait or video, while an avatar is made from it."""

    @property
    def kind(self) -> SourceKind:
        """Whether a portrait or a video was uploaded."""
        ...

    @property
    def upload(self) -> Path:
        """The uploaded file as it was, on this machine."""
        ...

    @property
    def width(self) -> int:
        """Width of every frame in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height of every frame in pixels."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second of a video; None for a portrait."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in order: one of a portrait, at least one of a video. Call this once.

        Frames are decoded, and their mouths located, while the caller works on earlier frames. Release each frame
        before the next ones: a frame takes several MB, and there may be hundreds.
        """
        ...


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file for a new bundle.

    Args:
        path: inside the bundle, separated by `/`: "frames/frame_00000.jpg".
        content: the file's content.
    """

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class BundleMetadata:
    """Entries for a new manifest's `metadata`.

    Args:
        entries: JSON values by key.
    """

    entries: Mapping[str, Any]
