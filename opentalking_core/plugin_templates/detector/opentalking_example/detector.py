"""Find mouths in drawn portraits. Replace this module with your own model: photos need one.

The picture is compared with patterns of a drawn face at many sizes (normalized cross-correlation).
"""

from __future__ import annotations

import functools
from math import cos, pi, sin
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from opentalking_core import MouthLandmarks
from opentalking_core.portraits.drawn import PALETTES, draw_portrait

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opentalking_core import Point

    Grey = NDArray[np.float64]

#: The longer side of the shrunk picture, in pixels. The smallest face that is found has a seventh of this width.
_SIZE = 112

#: The ratio of one size of the patterns to the next smaller one.
_STEP = 1.05

#: The least correlation of a face. Noise reaches 0.45; drawn faces reach 0.6 to 0.9.
_LIKE_A_FACE = 0.5

#: The pattern, from brows to chin: left, top, right and bottom, from the middle of a face of width 1.
_PATTERN = (-0.36, -0.28, 0.36, 0.60)

#: The whole face without hair, in the same units.
_FACE = (-0.5, -0.55, 0.5, 0.68)


class Pattern(NamedTuple):
    """A picture of a face, and where the mouth is in it, as fractions of the pattern's width and height."""

    image: Image.Image
    mouth: Point
    rx: float
    ry: float
    opening: float  #: of the mouth, as a fraction of its height


class _Found(NamedTuple):
    """The place in the shrunk picture, in pixels, that is most like a pattern, and how like the pattern it is."""

    likeness: float
    pattern: Pattern
    x: int
    y: int
    width: int
    height: int


@functools.cache
def patterns() -> tuple[Pattern, ...]:
    """Return faces with the mouth closed, half open and open."""
    return tuple(_draw(mouth_open, opening) for mouth_open, opening in ((0.0, 0.1), (0.5, 0.5), (1.0, 0.7)))


def _draw(mouth_open: float, opening: float) -> Pattern:
    size, face = 160, 80
    portraits = [
        draw_portrait(size, size, face_center=(0.5, 0.5), face_width=face / size, mouth_open=mouth_open, seed=seed)
        for seed in range(len(PALETTES))
    ]
    left, top, right, bottom = (round(size / 2 + edge * face) for edge in _PATTERN)
    grey = np.mean([_unit(np.asarray(portrait.image.convert("L"), float)) for portrait in portraits], axis=0)
    truth = portraits[0]
    width, height = right - left, bottom - top
    mouth = (truth.mouth_center[0] * size - left) / width, (truth.mouth_center[1] * size - top) / height
    image = Image.fromarray(grey[top:bottom, left:right].astype(np.float32))
    return Pattern(image, mouth, truth.mouth_rx * size / width, truth.mouth_ry * size / height, opening)


def find_mouth(image: NDArray[np.uint8]) -> MouthLandmarks | None:
    """Return the mouth of the largest face in `image` (RGB, (height, width, 3)), or None if there is no face."""
    height, width, _ = image.shape
    scale = min(1.0, _SIZE / max(height, width))
    small = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    small = small.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    margin = small.width // 8, small.height // 8  # so that faces are found that the picture's edge cuts off
    grey = np.pad(np.asarray(small, float), ((margin[1],) * 2, (margin[0],) * 2), mode="edge")
    spectrum = np.fft.rfft2(grey)
    shape = (_PATTERN[3] - _PATTERN[1]) / (_PATTERN[2] - _PATTERN[0])
    pattern_width = min(grey.shape[1], grey.shape[0] / shape)
    found: list[_Found] = []
    while pattern_width >= 0.1 * _SIZE:
        size = int(pattern_width), int(pattern_width * shape)
        contrast = _contrast(grey, size)
        for pattern in patterns():
            scaled = np.asarray(pattern.image.resize(size, Image.Resampling.BOX), float)
            likeness = _products(spectrum, _unit(scaled), grey.shape) / contrast
            y, x = np.unravel_index(likeness.argmax(), likeness.shape)
            found.append(_Found(float(likeness[y, x]), pattern, int(x) - margin[0], int(y) - margin[1], *size))
        pattern_width /= _STEP
    best = max((face.likeness for face in found), default=0.0)
    if best < _LIKE_A_FACE:
        return None
    clear = [face for face in found if face.likeness > 0.7 * best]
    largest = max(clear, key=lambda face: face.likeness * face.width**0.5)
    return _landmarks(largest, small.width, small.height)


def _landmarks(face: _Found, width: int, height: int) -> MouthLandmarks:
    """Return the landmarks of a face that was found in a shrunk picture of `width` x `height` pixels."""
    pattern = face.pattern
    x, y = (face.x + pattern.mouth[0] * face.width) / width, (face.y + pattern.mouth[1] * face.height) / height
    rx, ry = pattern.rx * face.width / width, pattern.ry * face.height / height

    def ellipse(rx: float, ry: float) -> tuple[Point, ...]:
        return tuple((x - rx * cos(n * pi / 10), y + ry * sin(n * pi / 10)) for n in range(20))

    unit = face.width / (_PATTERN[2] - _PATTERN[0])
    middle_x, middle_y = face.x - _PATTERN[0] * unit, face.y - _PATTERN[1] * unit
    box = (
        (middle_x + _FACE[0] * unit) / width,
        (middle_y + _FACE[1] * unit) / height,
        (middle_x + _FACE[2] * unit) / width,
        (middle_y + _FACE[3] * unit) / height,
    )
    return MouthLandmarks(ellipse(rx, ry), ellipse(0.85 * rx, pattern.opening * ry), face_box=box)


def _products(spectrum: NDArray[np.complex128], pattern: Grey, shape: tuple[int, ...]) -> Grey:
    """Return the sum of the products with the pattern at each place of a picture, given the picture's transform."""
    rows, columns = (big - little + 1 for big, little in zip(shape, pattern.shape, strict=True))
    products: Grey = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(pattern, shape)), shape)[:rows, :columns]
    return products


def _contrast(grey: Grey, size: tuple[int, int]) -> Grey:
    """Return the divisor of the products at each place. The quotient is 1 if the place equals the pattern."""
    width, height = size

    def sums(values: Grey) -> Grey:
        total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        right: Grey = total[:, width:] - total[:, :-width]
        return right[height:] - right[:-height]

    count = width * height
    variance = sums(grey**2) / count - (sums(grey) / count) ** 2
    contrast: Grey = count * np.sqrt(np.maximum(variance, 9.0))  # a plain surface resembles no pattern
    return contrast


def _unit(values: Grey) -> Grey:
    """Return the values, shifted and scaled to mean 0 and standard deviation 1."""
    unit: Grey = (values - values.mean()) / (values.std() or 1.0)
    return unit
