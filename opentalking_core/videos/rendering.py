"""From a decoded frame to upright RGB pixels."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .container import errors_as_sentences
from .tone_map import HLG, PQ, sdr_filter

if TYPE_CHECKING:
    from types import ModuleType

    from av.video.frame import VideoFrame as DecodedFrame
    from numpy.typing import NDArray

    from .geometry import Orientation


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
        """Return RGB, uint8, shape (height, width, 3), C-contiguous, read-only.

        Raises:
            InvalidRequest: FFmpeg can't convert the frame's pixels.
            MemoryError: the picture needs more memory than this process may use.
        """
        pixels = self._converted(frame, "rgba" if _is_transparent(frame) else "rgb24")
        if frame.color_trc in (PQ, HLG):
            pixels = np.asarray(Image.fromarray(pixels).filter(sdr_filter(frame.color_trc)))
        if pixels.shape[-1] == 4:
            pixels = _on_white(pixels)
        upright = np.ascontiguousarray(self._orientation.turn(pixels))
        upright.flags.writeable = False
        return upright

    def _converted(self, frame: DecodedFrame, pixel_format: str) -> NDArray[np.uint8]:
        """Return the pixels with the matrix and range that the frame is tagged with; without tags, those of BT.601."""
        width, height = self._stored_size
        with self._lock, errors_as_sentences():
            converted = self._reformatter.reformat(
                frame, width, height, pixel_format, interpolation="BICUBIC", threads=1
            )
            pixels: NDArray[np.uint8] = converted.to_ndarray()
            return pixels


def _is_transparent(frame: DecodedFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(pixels)
    opaque = Image.new("RGB", picture.size, "white")
    opaque.paste(picture, mask=picture.getchannel("A"))
    return np.asarray(opaque)


class Picture:
    """One picture of the video, which is rendered when its pixels are first asked for.

    Args:
        renderer: which makes the pixels.
        frame: kept until then.
    """

    def __init__(self, renderer: Renderer, frame: DecodedFrame) -> None:
        self._renderer = renderer
        self._source: DecodedFrame | NDArray[np.uint8] = frame
        self._lock = threading.Lock()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8, shape (height, width, 3), C-contiguous, read-only."""
        with self._lock:
            if not isinstance(self._source, np.ndarray):
                self._source = self._renderer.render(self._source)
            return self._source
