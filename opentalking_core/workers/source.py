"""An uploaded portrait or video as a model type sees it: frames, one after the other, with their mouths."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from ..portraits.picture import decode_portrait, measure_size
from ..videos.decoding import open_video
from .ahead import computed_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ..bundles.mouth import MouthLandmarks
    from ..bundles.source import SourceKind
    from .mouth_finder import MouthFinder
    from .progress import ProgressFile

#: How many frames are decoded ahead of the mouth detectors, and how many mouths are located ahead of the model type.
_FRAMES_AHEAD = 3

JPEG_QUALITY = 95


class Picture(Protocol):
    """A decoded frame of an upload."""

    @property
    def seconds(self) -> float: ...

    @property
    def pixels(self) -> NDArray[np.uint8]: ...

    def jpeg(self, quality: int) -> bytes: ...


@dataclass(frozen=True)
class OpenedUpload:
    """An upload whose header has been read.

    Args:
        size: (width, height) of the frames in pixels.
        fps: frames per second; None for a portrait.
        expected_frames: how many pictures there are, as far as the header tells.
        source_frames: how many frames the whole upload has, as far as the header tells.
        suffix: of the file's name, by its content: ".mp4"; empty for a portrait.
        pictures: the frames in order.
    """

    size: tuple[int, int]
    fps: float | None
    expected_frames: int
    source_frames: int
    suffix: str
    pictures: Iterator[Picture]


@contextlib.contextmanager
def open_upload(path: Path, kind: SourceKind, max_size: tuple[int, int], max_frames: int) -> Iterator[OpenedUpload]:
    """Open an uploaded file.

    Args:
        path: the file.
        kind: what the file is said to be.
        max_size: (width, height) in pixels into which the frames are fitted.
        max_frames: how many frames of a video to use.

    Raises:
        InvalidRequest: the file can't be decoded; also raised while the pictures are decoded.
    """
    if kind == "portrait":
        pixels = decode_portrait(path.read_bytes(), *max_size)
        yield OpenedUpload(measure_size(pixels), None, 1, 1, "", iter([_Portrait(pixels)]))
        return
    with open_video(path, max_size, max_frames) as video:
        counts = video.expected_frames, video.source_frame_count
        yield OpenedUpload(video.size, video.fps, *counts, video.container_suffix, video.frames())


@dataclass(frozen=True)
class _Portrait:
    pixels: NDArray[np.uint8]
    seconds: float = 0.0

    def jpeg(self, quality: int) -> bytes:
        encoded = io.BytesIO()
        Image.fromarray(self.pixels).save(encoded, "JPEG", quality=quality)
        return encoded.getvalue()


@dataclass(frozen=True)
class SourceFrame:
    """A picture and its mouth; see `bundles.source.Frame`."""

    picture: Picture
    mouth: MouthLandmarks | None

    @property
    def seconds(self) -> float:
        return self.picture.seconds

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return self.picture.pixels

    def jpeg(self) -> bytes:
        return self.picture.jpeg(JPEG_QUALITY)


class LocatedSource:
    """An upload with its mouths; see `bundles.source.AvatarSource`. Remembers what a new manifest says of the frames.

    Args:
        path: the uploaded file.
        kind: what was uploaded.
        opened: the same file, opened.
        mouths: locates the mouths.
        progress: where to say how many frames are finished.
    """

    def __init__(
        self, path: Path, kind: SourceKind, opened: OpenedUpload, mouths: MouthFinder, progress: ProgressFile
    ) -> None:
        self.kind = kind
        self.upload = path
        self.width, self.height = opened.size
        self.fps = opened.fps
        self._opened = opened
        self._mouths = mouths
        self._progress = progress
        self.frame_count = 0
        self.frames_with_mouth = 0
        #: The time that decoding has taken, in seconds.
        self.decoding_seconds = 0.0
        #: The first frame with a mouth; until there is one, the first frame.
        self.reference: SourceFrame | None = None

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the frames in order. Call this once."""
        decoded = computed_ahead(_timed(self._opened.pictures, self._add_decoding), _FRAMES_AHEAD)
        located = (SourceFrame(picture, self._mouths.find(picture.pixels, picture.seconds)) for picture in decoded)
        with contextlib.closing(decoded), contextlib.closing(computed_ahead(located, _FRAMES_AHEAD)) as frames:
            for frame in frames:
                self._remember(frame)
                yield frame
                self._progress.finished(self.frame_count, self._opened.expected_frames)

    def _remember(self, frame: SourceFrame) -> None:
        self.frame_count += 1
        if frame.mouth is not None:
            self.frames_with_mouth += 1
        if self.reference is None or (self.reference.mouth is None and frame.mouth is not None):
            self.reference = frame

    def _add_decoding(self, seconds: float) -> None:
        self.decoding_seconds += seconds


def _timed(pictures: Iterator[Picture], add: Callable[[float], None]) -> Iterator[Picture]:
    """Yield the pictures, and tell how many seconds each of them took."""
    while True:
        started = time.perf_counter()
        try:
            picture = next(pictures)
        except StopIteration:
            return
        finally:
            add(time.perf_counter() - started)
        yield picture
