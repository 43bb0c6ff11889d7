"""Draw portraits: avatars for the demo, and pictures with a known mouth for testing detectors.

No file is loaded and nothing is random: the same arguments give the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bundles.mouth import Point


class Palette(NamedTuple):
    """The colours of a portrait, as `ImageColor` strings, and whether the hair falls to the shoulders."""

    skin: str
    hair: str
    lips: str
    iris: str
    shirt: str
    background: str
    long_hair: bool


PALETTES = (
    Palette("#f0c3a0", "#7a3f22", "#bf5a55", "#4f7a5c", "#2f5d73", "#cfe0e6", True),
    Palette("#8a5636", "#1d1614", "#6f3430", "#3a2216", "#e0a63a", "#32506b", False),
    Palette("#d9a273", "#241b19", "#a8504a", "#4a2f1d", "#8c3b4a", "#e9dcc6", True),
    Palette("#f3d2b8", "#b8914f", "#c46f68", "#4c76a3", "#54735c", "#dcd3e4", False),
    Palette("#5b3826", "#15100f", "#4f2624", "#2a1812", "#d7dde3", "#9c5b45", True),
    Palette("#e6b48e", "#8f8a86", "#b0605a", "#5d6b74", "#3b3f52", "#b9cbb4", False),
)


@dataclass(frozen=True, slots=True)
class DrawnPortrait:
    """A drawn portrait and where its mouth is.

    Args:
        image: the picture, RGB.
        mouth_center: middle of the lips' bounding box, as fractions of the picture's width and height.
        mouth_rx: half the lips' width, as a fraction of the picture's width.
        mouth_ry: half the lips' height, as a fraction of the picture's height.
    """

    image: Image.Image
    mouth_center: Point
    mouth_rx: float
    mouth_ry: float


# All shapes are in face units: x and y in widths of the face, from the middle of the head, y downwards. Of a symmetric
# shape only the half with x >= 0 is listed, from top to bottom.
_HEAD = [(0, -0.66), (0.3, -0.6), (0.46, -0.36), (0.5, -0.02), (0.45, 0.28), (0.31, 0.52), (0.13, 0.65), (0, 0.67)]
_NECK = [(0.24, 0.2), (0.235, 0.66), (0.27, 0.84), (0.42, 0.96), (0.2, 1.12), (0, 1.17)]
_SHIRT = [(0, 1.07), (0.14, 1.04), (0.24, 0.95), (0.3, 0.855), (0.4, 0.89), (0.72, 0.99), (0.96, 1.17), (1.1, 1.6),
          (1.2, 3), (1.2, 9), (0, 9)]  # fmt: skip
_HAIR_SHORT = [(0, -0.84), (0.34, -0.77), (0.54, -0.52), (0.57, -0.2), (0.53, 0.02), (0.4, 0.02)]
_HAIR_LONG = [
    (0, -0.85),
    (0.36, -0.79),
    (0.59, -0.52),
    (0.66, -0.1),
    (0.67, 0.4),
    (0.72, 0.86),
    (0.6, 1.08),
    (0.3, 1.0),
]
_FRINGE = [(0.1, -0.82), (0.38, -0.72), (0.54, -0.45), (0.53, -0.12), (0.485, -0.05), (0.45, -0.3), (0.3, -0.5),
           (0.05, -0.56), (-0.2, -0.47), (-0.42, -0.28), (-0.485, -0.05), (-0.53, -0.12), (-0.54, -0.45),
           (-0.36, -0.73), (-0.1, -0.83)]  # fmt: skip
_EYE = [(-0.1, 0.012), (-0.05, -0.035), (0.01, -0.047), (0.07, -0.027), (0.105, 0.008), (0.05, 0.033), (-0.04, 0.035)]
_LID = [(-0.11, 0.012), (-0.05, -0.047), (0.01, -0.062), (0.075, -0.042), (0.125, 0.0), (0.075, -0.03), (0.01, -0.045),
        (-0.05, -0.034)]  # fmt: skip
_BROW = [
    (-0.12, -0.012),
    (-0.03, -0.034),
    (0.07, -0.036),
    (0.15, 0.012),
    (0.07, -0.01),
    (-0.03, -0.004),
    (-0.115, 0.016),
]
_NOSE_SHADE = [(0.035, -0.08), (0.06, 0.1), (0.1, 0.2), (0.05, 0.235), (0, 0.242)]
_MOUTH_Y, _MOUTH_RX, _UPPER_LIP, _LOWER_LIP = 0.37, 0.185, 0.058, 0.07


def draw_portrait(
    width: int = 512,
    height: int = 512,
    *,
    face_center: Point = (0.5, 0.45),
    face_width: float = 0.45,
    mouth_open: float = 0.0,
    seed: int = 0,
) -> DrawnPortrait:
    """Draw head and shoulders of a person who looks at you.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        face_center: middle of the head, as fractions of width and height.
        face_width: from cheek to cheek, as a fraction of the picture's width; the head is 1.35 times as high.
        mouth_open: 0 (closed) to 1 (wide open).
        seed: picks one of `PALETTES`, modulo their number.
    """
    palette = PALETTES[seed % len(PALETTES)]
    scale = 3 if max(width, height) <= 1024 else 2  # drawn larger and scaled down: smooth edges
    unit = face_width * width * scale
    left, top = face_center[0] * width * scale, face_center[1] * height * scale
    image = Image.new("RGB", (width * scale, height * scale), palette.background)

    def at(points: Sequence[Point]) -> list[Point]:
        return [(left + x * unit, top + y * unit) for x, y in points]

    def shape(points: Sequence[Point], colour: str, *, blur: float = 0.0, opacity: float = 1.0) -> None:
        """Fill the outline in face units, with edges blurred over `blur` face units."""
        outline, margin = at(points), 3 * blur * unit + 2
        xs, ys = zip(*outline, strict=True)
        box = (  # the part of the picture that the shape can touch
            max(0, int(min(xs) - margin)),
            max(0, int(min(ys) - margin)),
            min(image.width, int(max(xs) + margin)),
            min(image.height, int(max(ys) + margin)),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            return
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        local = [(x - box[0], y - box[1]) for x, y in outline]
        ImageDraw.Draw(mask).polygon(local, fill=round(255 * opacity))
        image.paste(colour, box, mask.filter(ImageFilter.GaussianBlur(blur * unit)) if blur else mask)

    def oval(x: float, y: float, rx: float, ry: float, colour: str, *, blur: float = 0.0, opacity: float = 1.0) -> None:
        # eight points of a spline are round to within half a percent
        around = [(0, -1), (0.707, -0.707), (1, 0), (0.707, 0.707), (0, 1), (-0.707, 0.707), (-1, 0), (-0.707, -0.707)]
        shape(_smooth([(x + rx * px, y + ry * py) for px, py in around]), colour, blur=blur, opacity=opacity)

    dark, light = "#2a1512", "#fff4e8"
    oval(0, -0.1, 1.1, 1.1, "#ffffff", blur=0.35, opacity=0.35)  # a lamp on the wall
    shape(_mirror(_HAIR_LONG if palette.long_hair else _HAIR_SHORT), palette.hair)
    for side in (-1, 1):
        oval(side * 0.5, 0.0, 0.07, 0.13, palette.skin)
        oval(side * 0.505, 0.01, 0.035, 0.08, dark, blur=0.02, opacity=0.25)
    if palette.long_hair:
        oval(0, 0.55, 0.36, 0.3, dark, blur=0.08, opacity=0.5)
    shape(_mirror(_NECK), palette.skin)
    oval(0, 0.64, 0.2, 0.12, dark, blur=0.03, opacity=0.4)  # the chin's shadow
    shirt = _mirror(_SHIRT)
    shape(shirt, palette.shirt)
    shape(shirt, dark, opacity=0.3)  # the neckline's hem
    shape([(x, y + 0.035) for x, y in shirt], palette.shirt)

    head = _mirror(_HEAD)
    shape(head, palette.skin)
    shape(head, dark, opacity=0.16)
    shape([(0.85 * x, 0.87 * y) for x, y in head], palette.skin, blur=0.04)
    for side in (-1, 1):
        oval(side * 0.27, 0.2, 0.11, 0.08, palette.lips, blur=0.05, opacity=0.3)
        eye_x, eye_y = side * 0.215, -0.06
        oval(eye_x, eye_y - 0.02, 0.14, 0.08, dark, blur=0.035, opacity=0.2)
        shape(_smooth([(eye_x + side * x, eye_y + y) for x, y in _EYE]), "#f7f4f0")
        oval(eye_x, eye_y - 0.006, 0.039, 0.04, palette.iris)
        oval(eye_x, eye_y - 0.006, 0.018, 0.019, "#0c0a0a")
        oval(eye_x + 0.014, eye_y - 0.02, 0.009, 0.009, "#ffffff")
        shape(_smooth([(eye_x + side * x, eye_y + y) for x, y in _LID]), dark, opacity=0.9)
        shape(_smooth([(eye_x + side * x, -0.185 + y) for x, y in _BROW]), palette.hair, blur=0.006)
        oval(side * 0.055, 0.208, 0.026, 0.013, dark, blur=0.006, opacity=0.7)  # a nostril
    shape(_smooth(_NOSE_SHADE), dark, blur=0.025, opacity=0.3)
    oval(-0.012, 0.13, 0.022, 0.07, light, blur=0.018, opacity=0.3)
    oval(0, 0.47, 0.11, 0.02, dark, blur=0.02, opacity=0.25)  # under the lower lip

    gap = 0.085 * mouth_open  # half the opening, at its middle
    upper = [(0.0, 0.012 - gap - _UPPER_LIP), (0.05, -gap - _UPPER_LIP), (0.12, -0.6 * gap - 0.032)]
    lower = [(0.12, 0.6 * gap + 0.042), (0.05, gap + 0.066), (0.0, gap + _LOWER_LIP)]
    outer = [*upper, (_MOUTH_RX, 0.0), *lower]
    inner = [(0.0, -gap), (0.09, -0.7 * gap), (0.16, 0.0), (0.09, 0.7 * gap + 0.004), (0.0, gap + 0.006)]
    # corners a little higher than the middle: a smile
    lips, opening = ([(x, _MOUTH_Y + y - 0.5 * x * x) for x, y in _mirror(half)] for half in (outer, inner))
    shape(lips, palette.lips)
    shape(
        [(x, y) for x, y in lips if y < _MOUTH_Y - 0.5 * x * x], dark, blur=0.01, opacity=0.2
    )  # the upper lip lies in the shade
    oval(0, _MOUTH_Y + gap + 0.038, 0.07, 0.014, light, blur=0.014, opacity=0.45)
    shape(opening, "#43181a")
    if gap > 0.02:
        oval(0, _MOUTH_Y - 0.57 * gap, 0.1, 0.28 * gap, "#f4efe8")  # teeth
    parting = 1 if palette.long_hair else -1
    shape(_smooth([(parting * x, y) for x, y in _FRINGE]), palette.hair)
    oval(0.1, -0.7, 0.28, 0.05, light, blur=0.05, opacity=0.22)  # shine on the hair

    xs, ys = zip(*lips, strict=True)
    return DrawnPortrait(
        image=image.resize((width, height), Image.Resampling.LANCZOS),
        mouth_center=(
            face_center[0] + (min(xs) + max(xs)) / 2 * face_width,
            face_center[1] + (min(ys) + max(ys)) / 2 * face_width * width / height,
        ),
        mouth_rx=(max(xs) - min(xs)) / 2 * face_width,
        mouth_ry=(max(ys) - min(ys)) / 2 * face_width * width / height,
    )


def _mirror(half: Sequence[Point]) -> list[Point]:
    """Return the smooth, closed, symmetric outline whose right side is `half`."""
    return _smooth([*half, *((-x, y) for x, y in reversed(half) if x > 0)])


def _smooth(points: Sequence[Point], steps: int = 10) -> list[Point]:
    """Return a closed Catmull-Rom spline through `points`."""
    curve: list[Point] = []
    for i in range(len(points)):
        a, b, c, d = (points[(i + k) % len(points)] for k in (-1, 0, 1, 2))
        for t in (k / steps for k in range(steps)):
            wa, wb = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3
            wc, wd = t + 4 * t**2 - 3 * t**3, t**3 - t**2
            curve.append(
                (
                    (wa * a[0] + wb * b[0] + wc * c[0] + wd * d[0]) / 2,
                    (wa * a[1] + wb * b[1] + wc * c[1] + wd * d[1]) / 2,
                )
            )
    return curve
