"""Whether a portrait is fit to be an avatar: named checks with measured values, as commercial services make them.

Geometry comes from what the mouth detector reported; a check that needs more than it reported is «not measured», and
fails nothing. Sharpness and exposure are measured on the pixels of the face. docs/portrait_checks.md tells the reasons
behind the limits at more length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import ceil, floor, hypot, inf, pi
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..bundles.mouth import MouthLandmarks, Point

#: A face must be so many pixels wide, cheek to cheek, in the picture that the avatar will show. Its eyes are then some
#: 90 pixels apart, for which OFIQ, BSI's open implementation of ISO/IEC 29794-5, gives 73 of 100; Yoti asks for 150.
MIN_FACE_WIDTH = 200

#: How far a head may be turned, in degrees. ISO/IEC 19794-5 allows passports 5 (roll: 8), ZEGOCLOUD its talking photos
#: 30; pitch gets more because single-picture estimates take a face near the picture's top for one that looks down.
MAX_YAW = 15.0
MAX_PITCH = 20.0
MAX_ROLL = 15.0

#: A mouth may be open so far: the opening's height by its width. OFIQ gives 90 of 100 where the opening is 0.07 of the
#: way from the eyes to the chin, which is 0.15 of a mouth's width.
MAX_MOUTH_OPENING = 0.15

#: The variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) below which a picture is commonly called blurred.
MIN_SHARPNESS = 100.0

#: It depends on the scale, so faces are measured at this width, between what Wav2Lip (96) and MuseTalk (256) look at.
SHARPNESS_WIDTH = 128

#: Mean luminance of a face, 0 to 255: what Yoti accepts for its face analysis.
MIN_EXPOSURE, MAX_EXPOSURE = 40.0, 215.0

#: A whole face keeps at least so many pixels from the picture's edges; detectors that cut boxes to the picture say 0.
MIN_MARGIN = 1

_MIN_REGION = 16  # pixels; smaller faces have no sharpness to speak of


#: What a value may be: at least `min`, at most `max`, or `equals`.
Limit = dict[Literal["min", "max", "equals"], float | bool]


@dataclass(frozen=True, slots=True)
class PortraitCheck:
    """One check.

    Args:
        name: one of face_found, one_face, face_width, face_inside, yaw, pitch, roll, mouth_closed, sharpness, exposure.
        passed: None if it was not measured, which fails nothing.
        value: what was measured; None if nothing was.
        limit: what it may be: at least `min`, at most `max`, or `equals`.
        unit: of value and limit, if they have one.
        message: one plain sentence; says what to do where the check failed.
    """

    name: str
    passed: bool | None
    value: float | bool | None
    limit: Limit
    unit: str | None
    message: str


@dataclass(frozen=True, slots=True)
class PortraitReport:
    """All checks of one portrait.

    Args:
        passed: none of them failed.
        checks: in the order in which people should read them.
        mouth: where the mouth is, in the words of a manifest's metadata (mouth_polygon_source, animation, face_box);
            None if it was not found.
    """

    passed: bool
    checks: tuple[PortraitCheck, ...]
    mouth: dict[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """What a bundle's manifest keeps of it, as `metadata.portrait_checks`."""
        return {
            "passed": self.passed,
            "checks": {check.name: {"passed": check.passed, "value": check.value} for check in self.checks},
        }


class FaceQuality(NamedTuple):
    """Of a face's pixels: the variance of the Laplacian, and the mean luminance (0 to 255)."""

    sharpness: float
    exposure: float


def face_region(landmarks: MouthLandmarks, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The part of a picture to measure a face's quality in; without a `face_box`, what surrounds its mouth.

    Args:
        landmarks: of the face.
        width: of the picture, in pixels.
        height: likewise.

    Returns:
        (left, top, right, bottom) in pixels, within the picture; None if too little of it is.
    """
    if landmarks.face_box is not None:
        left, top, right, bottom = landmarks.face_box
    else:
        xs, ys = zip(*landmarks.outer_lip, strict=True)
        x, y, mouth = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs)
        left, right = x - 1.25 * mouth, x + 1.25 * mouth
        top, bottom = y - 1.25 * mouth * width / height, y + 1.25 * mouth * width / height
    box = (
        max(0, floor(left * width)),
        max(0, floor(top * height)),
        min(width, ceil(right * width)),
        min(height, ceil(bottom * height)),
    )
    return box if min(box[2] - box[0], box[3] - box[1]) >= _MIN_REGION else None


def measure_face(pixels: NDArray[np.uint8], landmarks: MouthLandmarks) -> FaceQuality | None:
    """Measure the face that `landmarks` are of; None if too little of it is in the picture.

    Args:
        pixels: the picture, RGB, uint8, (height, width, 3).
        landmarks: what the mouth detector found in it.
    """
    region = face_region(landmarks, pixels.shape[1], pixels.shape[0])
    if region is None:
        return None
    left, top, right, bottom = region
    face = Image.fromarray(pixels[top:bottom, left:right]).convert("L")
    exposure = float(np.asarray(face).mean())
    if face.width > SHARPNESS_WIDTH:
        height = max(3, round(face.height * SHARPNESS_WIDTH / face.width))
        face = face.resize((SHARPNESS_WIDTH, height), Image.Resampling.BOX)
    grey = np.asarray(face, dtype=np.float32)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return FaceQuality(float((neighbours - 4 * grey[1:-1, 1:-1]).var()), exposure)


def check_portrait(
    size: tuple[int, int],
    landmarks: MouthLandmarks | None,
    quality: FaceQuality | None,
    *,
    not_found: str = "No face was found: use a photo that shows one face from the front.",
) -> PortraitReport:
    """Check a portrait.

    Args:
        size: (width, height) of the picture in pixels, as the avatar will show it.
        landmarks: what the mouth detector found in it; None if nothing.
        quality: of the face's pixels; None if they were not measured.
        not_found: what to say where nothing was found.
    """
    found = landmarks is not None
    checks = [
        PortraitCheck("face_found", found, found, {"equals": True}, None, "A face was found." if found else not_found),
        _one_face(landmarks.faces if landmarks else None),
        *_box_checks(size, landmarks.face_box if landmarks else None),
        *_pose_checks(landmarks.pose if landmarks else None),
        _mouth_closed(mouth_opening(landmarks, size) if landmarks else None),
        _sharpness(quality.sharpness if quality else None),
        _exposure(quality.exposure if quality else None),
    ]
    return PortraitReport(not any(check.passed is False for check in checks), tuple(checks))


def mouth_opening(landmarks: MouthLandmarks, size: tuple[int, int]) -> float | None:
    """How far a mouth is open: the height by the width of an ellipse with the inner mouth's area and length.

    It doesn't change when the face is tilted or smiles. None if the inner mouth says nothing: it has no length, or is
    the outline of the lips once more.

    Args:
        landmarks: of the mouth.
        size: (width, height) of the picture in pixels.
    """
    if list(landmarks.inner_mouth) == list(landmarks.outer_lip):
        return None
    points = [(x * size[0], y * size[1]) for x, y in landmarks.inner_mouth]
    length = max(hypot(x1 - x2, y1 - y2) for (x1, y1), (x2, y2) in combinations(points, 2))
    return 4 / pi * _area(points) / length**2 if length else None


def _area(points: Sequence[Point]) -> float:
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True))) / 2


def _check(
    name: str, value: float | None, limit: Limit, unit: str | None, good: str, low: str, high: str = ""
) -> PortraitCheck:
    """A check of a number; the sentences are for a good value, and for one below and above the limit."""
    if value is None:
        return PortraitCheck(name, None, None, limit, unit, "Not measured.")
    lowest, highest = limit.get("min", limit.get("equals", -inf)), limit.get("max", limit.get("equals", inf))
    too_low, too_high = value < lowest, value > highest
    return PortraitCheck(
        name, not (too_low or too_high), value, limit, unit, low if too_low else high if too_high else good
    )


def _one_face(faces: int | None) -> PortraitCheck:
    good = "One person is in the picture."
    high = f"There are {faces} faces in the picture: use one that shows a single person."
    return _check("one_face", faces, {"equals": 1}, "faces", good, "", high)


def _box_checks(
    size: tuple[int, int], face_box: tuple[float, float, float, float] | None
) -> tuple[PortraitCheck, PortraitCheck]:
    width = margin = None
    if face_box is not None:
        left, top, right, bottom = face_box
        width = round((right - left) * size[0])
        margin = floor(min(left * size[0], top * size[1], (1 - right) * size[0], (1 - bottom) * size[1]))
    return (
        _check(
            "face_width", width, {"min": MIN_FACE_WIDTH}, "px", f"The face is {width} pixels wide.",
            f"The face is {width} pixels wide, less than {MIN_FACE_WIDTH}: "
            "use a picture with more pixels or come closer.",
        ),
        _check(
            "face_inside", margin, {"min": MIN_MARGIN}, "px", "The whole face is inside the picture.",
            "The face is cut off by the picture's edge: use one that shows the whole head.",
        ),
    )  # fmt: skip


def _pose_checks(pose: tuple[float, float, float] | None) -> tuple[PortraitCheck, ...]:
    yaw, pitch, roll = (round(angle, 1) + 0.0 for angle in pose) if pose else (None, None, None)  # + 0.0: no -0.0
    turned, leans = "turned {:.0f} degrees to the side", "tilted {:.0f} degrees to the side"
    checks = (
        ("yaw", yaw, MAX_YAW, "The head is not turned to a side.", turned, turned, "look straight into the camera"),
        ("pitch", pitch, MAX_PITCH, "The head is level.", "lowered by {:.0f} degrees", "raised by {:.0f} degrees",
         "hold the camera at the height of the eyes"),
        ("roll", roll, MAX_ROLL, "The head is upright.", leans, leans, "hold it upright"),
    )  # fmt: skip
    return tuple(
        _check(
            name, angle, {"min": -most, "max": most}, "degrees", good,
            *(f"The head is {how.format(abs(angle or 0))}, more than {most:.0f}: {remedy}." for how in (low, high)),
        )
        for name, angle, most, good, low, high, remedy in checks
    )  # fmt: skip


def _mouth_closed(opening: float | None) -> PortraitCheck:
    opening = None if opening is None else round(opening, 3)
    high = "The mouth is open: close it, without showing teeth."
    limit: Limit = {"max": MAX_MOUTH_OPENING}
    return _check("mouth_closed", opening, limit, "height by width", "The mouth is closed.", "", high)


def _sharpness(sharpness: float | None) -> PortraitCheck:
    sharpness = None if sharpness is None else round(sharpness, 1)
    low = "The face is blurred, or has too little contrast: use a sharper picture."
    limit: Limit = {"min": MIN_SHARPNESS}
    return _check("sharpness", sharpness, limit, "variance of Laplacian", "The face is sharp.", low)


def _exposure(exposure: float | None) -> PortraitCheck:
    exposure = None if exposure is None else round(exposure, 1)
    low = "The face is too dark: use a picture with more light on it."
    high = "The face is too bright: use a picture with less light on it."
    limit: Limit = {"min": MIN_EXPOSURE, "max": MAX_EXPOSURE}
    return _check("exposure", exposure, limit, "mean luminance", "The face is well lit.", low, high)
