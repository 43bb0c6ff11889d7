"""Parts of a picture whose points can be mapped back: a square, turned and shrunk, and a rectangle of whole pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, floor, radians, sin
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Crop:
    """A square part of a picture.

    Args:
        center: of the square, in pixels of the picture.
        side: of the square, in pixels of the picture.
        turn: how far the square is turned clockwise, in degrees. A face that leans this far is upright in the crop.
        max_size: the crop is shrunk to at most this many pixels in width and height.
    """

    center: tuple[float, float]
    side: float
    turn: float = 0.0
    max_size: int = 512

    @property
    def size(self) -> int:
        """The crop's width and height in pixels."""
        return max(1, min(self.max_size, round(self.side)))

    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the crop of `picture` (RGB, uint8, (height, width, 3)). What lies outside the picture is black."""
        import numpy as np

        angle = radians(self.turn)
        reach = self.side / 2 * (abs(cos(angle)) + abs(sin(angle))) + 2
        height, width = picture.shape[:2]
        left, top = (max(0, floor(middle - reach)) for middle in self.center)
        right, bottom = (min(end, ceil(at + reach)) for end, at in zip((width, height), self.center, strict=True))
        if left >= right or top >= bottom:
            return np.zeros((self.size, self.size, 3), np.uint8)
        part = Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))
        factor = max(1, int(self.side / self.size))  # bilinear interpolation alone would skip pixels
        if factor > 1:
            part = part.reduce(factor)
        (a, b, c), (d, e, f) = self._matrix()
        x, y = c - left, f - top
        data = tuple(value / factor for value in (a, b, x, d, e, y))
        turned = part.transform((self.size, self.size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        return np.asarray(turned)

    def to_picture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where `points` of the crop, in pixels, shape (..., 2), lie in the picture."""
        import numpy as np

        matrix = np.array(self._matrix())
        moved: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
        return moved

    def _matrix(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return the affine map from pixels of the crop to pixels of the picture."""
        scale, angle = self.side / self.size, radians(self.turn)
        along, across = scale * cos(angle), scale * sin(angle)
        middle = self.size / 2
        x = self.center[0] - along * middle + across * middle
        y = self.center[1] - across * middle - along * middle
        return (along, -across, x), (across, along, y)


@dataclass(frozen=True, slots=True)
class Cutout:
    """A rectangle of whole pixels, turned by quarter turns: nothing is interpolated.

    Args:
        left, top, right, bottom: in pixels of the picture, inside the picture.
        turn: how far the rectangle is turned clockwise, in degrees: 0, 90, 180 or 270.
    """

    left: int
    top: int
    right: int
    bottom: int
    turn: int = 0

    @classmethod
    def around(cls, center: tuple[float, float], side: float, turn: int, picture: NDArray[np.uint8]) -> Cutout:
        """Return the part of a square that lies inside `picture`, which holds at least one pixel."""
        ends = picture.shape[1::-1]
        left, top = (min(max(0, floor(middle - side / 2)), end - 1) for middle, end in zip(center, ends, strict=True))
        right, bottom = (max(1, min(end, ceil(middle + side / 2))) for middle, end in zip(center, ends, strict=True))
        return cls(left, top, max(right, left + 1), max(bottom, top + 1), turn)

    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of this part of `picture`."""
        import numpy as np

        return np.rot90(picture[self.top : self.bottom, self.left : self.right], self.turn // 90)

    def cut_inside(self, inner: Cutout, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return this part of `picture`, black outside of `inner`, which lies inside this part."""
        import numpy as np

        part = np.zeros((self.bottom - self.top, self.right - self.left, 3), np.uint8)
        rows = slice(inner.top - self.top, inner.bottom - self.top)
        columns = slice(inner.left - self.left, inner.right - self.left)
        part[rows, columns] = picture[inner.top : inner.bottom, inner.left : inner.right]
        return np.rot90(part, self.turn // 90)

    def to_picture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where `points` of the cutout, in pixels, shape (..., 2), lie in the picture."""
        import numpy as np

        x, y = points[..., 0], points[..., 1]
        width, height = self.right - self.left, self.bottom - self.top
        turned = {0: (x, y), 90: (width - y, x), 180: (width - x, height - y), 270: (y, height - x)}[self.turn]
        moved: NDArray[np.float64] = np.stack(turned, axis=-1) + (self.left, self.top)  # noqa: RUF005
        return moved
