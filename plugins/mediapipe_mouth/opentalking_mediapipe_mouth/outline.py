"""Compare the outlines of pictures, to notice when a picture shows something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: An outline has this many blocks in each direction, each of this many pixels in each direction.
_BLOCKS, _BLOCK_PIXELS = 16, 4

#: The least change of a block's brightness, of 255, that isn't noise.
_CHANGE = 10


class Outline:
    """The brightness of a grid of blocks.

    Args:
        picture: RGB, uint8, shape (height, width, 3), of at least one pixel.
    """

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        import numpy as np

        count = _BLOCKS * _BLOCK_PIXELS
        rows, columns = ((np.arange(count) * size) // count for size in picture.shape[:2])
        green = picture[rows[:, None], columns, 1]  # most of the brightness
        blocks = green.reshape(_BLOCKS, _BLOCK_PIXELS, _BLOCKS, _BLOCK_PIXELS).mean(axis=(1, 3))
        contrast = blocks - blocks.mean()
        self._blocks = blocks
        self._contrast = contrast / max(1e-9, float(np.linalg.norm(contrast)))

    def likeness(self, other: Outline) -> float:
        """Return the correlation of two outlines, -1 to 1; 0 if one of them is of a plain surface.

        Brightness and contrast of the whole picture don't count.
        """
        return float((self._contrast * other._contrast).sum())

    def changed_part(self, other: Outline) -> float:
        """Return which part of the picture is brighter or darker in the other outline, 0 to 1."""
        return float((abs(self._blocks - other._blocks) > _CHANGE).mean())
