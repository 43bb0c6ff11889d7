"""Upright pictures with square pixels: orientation and size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    from fractions import Fraction

    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame as DecodedFrame
    from numpy.typing import NDArray

#: Pixels that are said to be wider or higher than this, as a ratio, are an error of the file, and taken as square.
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
    matrix = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if matrix is None:
        return Orientation()
    a, b, _, c, d = (int(value) for value in np.frombuffer(memoryview(matrix), np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, mirrors_x=c < 0, mirrors_y=b < 0)
    return Orientation(False, mirrors_x=a < 0, mirrors_y=d < 0)


def fitted_size(
    stored_size: tuple[int, int], pixel_aspect: Fraction | None, is_transposed: bool, max_size: tuple[int, int]
) -> tuple[int, int]:
    """Return (width, height) of the upright picture with square pixels, shrunk to fit into `max_size`.

    Args:
        stored_size: (width, height) before the picture is turned, in pixels.
        pixel_aspect: width of a stored pixel by its height; None if unknown.
        is_transposed: whether turning swaps the axes.
        max_size: (width, height) in pixels.
    """
    width, height = float(stored_size[0]), float(stored_size[1])
    if pixel_aspect and 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        width *= float(pixel_aspect)
    if is_transposed:
        width, height = height, width
    scale = min(max_size[0] / width, max_size[1] / height, 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))
