"""From a decoded frame to upright RGB with square pixels, and to JPEG."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction
    from types import ModuleType

    from av.video.frame import VideoFrame as DecodedFrame
    from numpy.typing import NDArray

#: Pixels that are narrower or wider than this are an error of the file: such pixels are taken as square.
_MAX_PIXEL_ASPECT = 4


class Orientation(NamedTuple):
    """How to turn a stored picture upright: swap its axes, then mirror it."""

    is_transposed: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def turn(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of `pixels`, shape (height, width, channels), with the picture upright."""
        upright = pixels.transpose(1, 0, 2) if self.is_transposed else pixels
        return upright[:: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1]


def orientation_of(frame: DecodedFrame) -> Orientation:
    """Return the orientation that the frame's display matrix asks for, to the nearest quarter turn."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(int).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, mirrors_x=c < 0, mirrors_y=b < 0)
    return Orientation(False, mirrors_x=a < 0, mirrors_y=d < 0)


def fitted_size(
    stored_size: tuple[int, int], pixel_aspect: Fraction | None, is_transposed: bool, max_size: tuple[int, int]
) -> tuple[int, int]:
    """Return (width, height) of the upright picture with square pixels, shrunk to fit into `max_size`."""
    width, height = float(stored_size[0]), float(stored_size[1])
    if pixel_aspect and 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        width *= float(pixel_aspect)
    if is_transposed:
        width, height = height, width
    scale = min(max_size[0] / width, max_size[1] / height, 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


class Renderer:
    """Converts decoded frames to RGB pictures of one size. Several threads may use it at once.

    Args:
        av: PyAV.
        size: (width, height) of the upright pictures.
        orientation: how to turn each frame.
    """

    def __init__(self, av: ModuleType, size: tuple[int, int], orientation: Orientation) -> None:
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._stored_size = size[::-1] if orientation.is_transposed else size
        self._orientation = orientation
        self._lock = threading.Lock()

    def render(self, frame: DecodedFrame) -> NDArray[np.uint8]:
        """Return RGB, uint8, shape (height, width, 3), C-contiguous, read-only."""
        width, height = self._stored_size
        with self._lock:
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
        pixels = np.ascontiguousarray(self._orientation.turn(rgb.to_ndarray()))
        pixels.flags.writeable = False
        return pixels


class Picture:
    """One picture of the video, which is converted when somebody first asks for its pixels."""

    def __init__(self, render: Callable[[], NDArray[np.uint8]]) -> None:
        self._render: Callable[[], NDArray[np.uint8]] | None = render
        self._pixels: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8, shape (height, width, 3), C-contiguous, read-only."""
        with self._lock:
            if self._pixels is None and self._render is not None:
                self._pixels = self._render()
                self._render = None  # frees the decoded frame
            assert self._pixels is not None
            return self._pixels


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encode RGB pixels with chroma at half the resolution, byte for byte as OpenCV's `imwrite` does."""
    image = Image.fromarray(pixels)
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return buffer.getvalue()
    # Into a file descriptor, Pillow encodes without the interpreter's lock, so that another thread can locate mouths.
    with open(os.memfd_create("frame"), "w+b", buffering=0) as file:
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        file.seek(0)
        return file.readall()
