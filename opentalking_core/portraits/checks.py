"""Check whether a portrait is fit to be an avatar: named checks with measured values.

The geometry comes from the mouth detector. A check that needs more than the detector reports is not measured, and fails
nothing. Sharpness and exposure are measured on the pixels of the face. docs/portrait_checks.md explains the limits.
"""

from __future__ import annotations

import dataclasses
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

#: Least width of a face, cheek to cheek, in the picture that the avatar will show. Faces are 1.3 times as high as wide,
#: so a face of this width has as many pixels as the smallest crop of a lip-sync model: Wav2Lip's, of 96 x 96 pixels.
MIN_FACE_WIDTH_PIXELS = 84

#: How far a head may be turned. ISO/IEC 19794-5 allows passports 5 degrees (roll: 8), ZEGOCLOUD its talking photos 30.
#: Pitch gets more, because estimates for people who look straight into the camera differ by 5 degrees.
MAX_YAW_DEGREES = 15.0
MAX_PITCH_DEGREES = 20.0
MAX_ROLL_DEGREES = 15.0

#: How far a mouth may be open: the opening's height by its width. OFIQ gives 90 of 100 where the opening is 0.07 of the
#: distance from the eyes to the chin, which is 0.15 of a mouth's width.
MAX_MOUTH_OPENING = 0.15

#: Least sharpness, see `_sharpness_of`. Sharp portraits gave 2.9 and more at any skin tone. Blurred with a radius of a
#: hundredth of the face's width they gave 2.5 at most.
MIN_SHARPNESS = 2.6

#: Sharpness depends on the scale. Faces are measured at this width at most, between the crops of Wav2Lip (96) and
#: MuseTalk (256).
SHARPNESS_WIDTH_PIXELS = 128

#: Mean luminance of a face, 0 to 255: what Yoti accepts for its face analysis.
MIN_EXPOSURE, MAX_EXPOSURE = 40.0, 215.0

#: Share of a video's frames in which the mouth must be found. A runtime shows the other frames without moving lips: at
#: 25 frames per second, a tenth of them is a tenth of a second without lips in each second.
MIN_SHARE_WITH_MOUTH = 0.9

#: Distance of a whole face from the picture's edges. Detectors that clamp boxes to the picture report 0 for a cut face.
MIN_MARGIN_PIXELS = 1

_MIN_REGION_PIXELS = 16  # a smaller face is too small to measure its sharpness

# Radii of the Gaussians that separate fine from coarse detail, in pixels at SHARPNESS_WIDTH_PIXELS.
_FINE_RADIUS, _COARSE_RADIUS = 0.8, 1.5

# Variance of the rounding to whole levels.
_ROUNDING_NOISE = 1 / 12

# Variance of the Laplacian of white noise of variance 1: as it is, and after each Gaussian.
_NOISE, _FINE_NOISE, _COARSE_NOISE = 20.0, 0.368, 0.0118

#: Highest ratio, in noiseless pictures, of the variance of the Laplacian to the same after the finer Gaussian. What is
#: above must be noise.
_NOISELESS_RATIO = 6.0


#: The values that pass: at least `min`, at most `max`, or `equals`.
Limit = dict[Literal["min", "max", "equals"], float | bool]


@dataclass(frozen=True, slots=True)
class PortraitCheck:
    """The result of one check.

    Args:
        name: one of face_found, one_face, face_width, face_inside, yaw, pitch, roll, mouth_closed, sharpness, exposure;
            and for a video frames_with_mouth.
        passed: None if the check was not measured, which fails nothing.
        value: the measured value; None if nothing was measured.
        limit: the values that pass: at least `min`, at most `max`, or `equals`.
        unit: of value and limit, if they have one.
        message: one plain sentence; for a failed check it says what to do.
    """

    name: str
    passed: bool | None
    value: float | bool | None
    limit: Limit
    unit: str | None
    message: str


@dataclass(frozen=True, slots=True)
class PortraitReport:
    """The results of all checks of one portrait.

    Args:
        passed: whether no check failed.
        checks: in the order in which people should read them.
        mouth: where the mouth is, with the keys of a manifest's metadata (mouth_polygon_source, animation, face_box);
            None if no mouth was found in the picture.
    """

    passed: bool
    checks: tuple[PortraitCheck, ...]
    mouth: dict[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """Return what a bundle's manifest keeps as `metadata.portrait_checks`."""
        return {
            "passed": self.passed,
            "checks": {check.name: {"passed": check.passed, "value": check.value} for check in self.checks},
        }


class FaceQuality(NamedTuple):
    """What was measured on the pixels of a face.

    Args:
        sharpness: fine detail by coarse detail.
        exposure: the mean luminance, 0 to 255.
    """

    sharpness: float
    exposure: float


def face_region(landmarks: MouthLandmarks, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the part of a picture in which to measure a face; without a `face_box`, the surroundings of its mouth.

    Args:
        landmarks: of the face.
        width: of the picture, in pixels.
        height: of the picture, in pixels.

    Returns:
        (left, top, right, bottom) in pixels, within the picture; None if too little of the face is in the picture.
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
    return box if min(box[2] - box[0], box[3] - box[1]) >= _MIN_REGION_PIXELS else None


def measure_face(pixels: NDArray[np.uint8], landmarks: MouthLandmarks) -> FaceQuality | None:
    """Measure the face that `landmarks` describe; return None if too little of the face is in the picture.

    Args:
        pixels: the picture, RGB, uint8, (height, width, 3).
        landmarks: what the mouth detector found in the picture.
    """
    region = face_region(landmarks, pixels.shape[1], pixels.shape[0])
    if region is None:
        return None
    left, top, right, bottom = region
    face = Image.fromarray(pixels[top:bottom, left:right]).convert("L")
    exposure = float(np.asarray(face).mean())
    if face.width > SHARPNESS_WIDTH_PIXELS:
        height = max(_MIN_REGION_PIXELS, round(face.height * SHARPNESS_WIDTH_PIXELS / face.width))
        face = face.resize((SHARPNESS_WIDTH_PIXELS, height), Image.Resampling.BOX)
    return FaceQuality(_sharpness_of(np.asarray(face, dtype=np.float32)), exposure)


def _sharpness_of(grey: NDArray[np.float32]) -> float:
    """Return how much fine detail a face has by its coarse detail: variances of the Laplacian after two Gaussians.

    Blur takes away fine detail first. Less light or less contrast takes away both alike, so that the ratio is the same
    for all skin tones. Noise adds fine detail: its variance is estimated from what only noise can show, and subtracted.
    """
    fine, coarse = (_laplacian_variance(_blurred(grey, radius)) for radius in (_FINE_RADIUS, _COARSE_RADIUS))
    excess = _laplacian_variance(grey) - _NOISELESS_RATIO * fine
    noise = max(_ROUNDING_NOISE, excess / (_NOISE - _NOISELESS_RATIO * _FINE_NOISE))
    fine -= _FINE_NOISE * noise
    coarse_noise = _COARSE_NOISE * noise
    if coarse <= 2 * coarse_noise or fine <= 0:  # there is more noise than face
        return 0.0
    return fine / (coarse - coarse_noise)


def _laplacian_variance(grey: NDArray[np.float32]) -> float:
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((neighbours - 4 * grey[1:-1, 1:-1]).var())


def _blurred(grey: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Return the picture after a Gaussian, without the edge that the Gaussian reaches beyond."""
    reach = int(3 * radius + 1)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * radius**2)).astype(np.float32)
    weights /= weights.sum()
    rows, columns = grey.shape[0] - 2 * reach, grey.shape[1] - 2 * reach
    down = sum(weight * grey[i : i + rows] for i, weight in enumerate(weights))
    blurred: NDArray[np.float32] = sum(weight * down[:, i : i + columns] for i, weight in enumerate(weights))
    return blurred


def check_portrait(
    size: tuple[int, int],
    landmarks: MouthLandmarks | None,
    quality: FaceQuality | None,
    *,
    max_size: tuple[int, int] | None = None,
    not_found: str = "No face was found: use a photo that shows one face from the front.",
) -> PortraitReport:
    """Check a portrait.

    Args:
        size: (width, height) of the picture in pixels, as the avatar will show it.
        landmarks: what the mouth detector found in the picture; None if nothing.
        quality: of the face's pixels; None if they were not measured.
        max_size: (width, height) into which pictures are fitted; None if they are not.
        not_found: the message if nothing was found.
    """
    found = landmarks is not None
    checks = [
        PortraitCheck("face_found", found, found, {"equals": True}, None, "A face was found." if found else not_found),
        _one_face(landmarks.faces if landmarks else None),
        *_box_checks(size, max_size, landmarks.face_box if landmarks else None),
        *_pose_checks(landmarks.pose if landmarks else None),
        _mouth_closed(mouth_opening(landmarks, size) if landmarks else None),
        _sharpness(quality.sharpness if quality else None),
        _exposure(quality.exposure if quality else None),
    ]
    return PortraitReport(not any(check.passed is False for check in checks), tuple(checks))


def with_frame_check(report: PortraitReport, frames_with_mouth: int, frames: int) -> PortraitReport:
    """Return the report on a video's reference frame, with one more check: in how many frames a mouth was found."""
    least = ceil(MIN_SHARE_WITH_MOUTH * frames)
    good = f"The mouth was found in {frames_with_mouth} of {frames} frames."
    low = f"{good} Use a video that shows the face throughout."
    check = _check("frames_with_mouth", frames_with_mouth, {"min": least}, "frames", good, low)
    return dataclasses.replace(report, passed=report.passed and check.passed is True, checks=(*report.checks, check))


def mouth_opening(landmarks: MouthLandmarks, size: tuple[int, int]) -> float | None:
    """Return how far a mouth is open: the height by the width of an ellipse with the inner mouth's area and length.

    The value doesn't change when the face is tilted or smiles. None if the inner mouth can't tell: it has no length, or
    repeats the outline of the lips.

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
    """Check a number; the sentences are for a good value, a value below the limit and a value above the limit."""
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
    size: tuple[int, int], max_size: tuple[int, int] | None, face_box: tuple[float, float, float, float] | None
) -> tuple[PortraitCheck, PortraitCheck]:
    width = margin = None
    if face_box is not None:
        left, top, right, bottom = face_box
        width = round((right - left) * size[0])
        margin = floor(min(left * size[0], top * size[1], (1 - right) * size[0], (1 - bottom) * size[1]))
    fills_limit = max_size is not None and (size[0] >= max_size[0] or size[1] >= max_size[1])
    # Larger pictures would be shrunk to the same size.
    remedy = "crop the picture or come closer" if fills_limit else "use a picture with more pixels or come closer"
    return (
        _check(
            "face_width", width, {"min": MIN_FACE_WIDTH_PIXELS}, "px", f"The face is {width} pixels wide.",
            f"The face is {width} pixels wide, less than {MIN_FACE_WIDTH_PIXELS}: {remedy}.",
        ),
        _check(
            "face_inside", margin, {"min": MIN_MARGIN_PIXELS}, "px", "The whole face is inside the picture.",
            "The face is cut off by the picture's edge: use one that shows the whole head.",
        ),
    )  # fmt: skip


def _pose_checks(pose: tuple[float, float, float] | None) -> tuple[PortraitCheck, ...]:
    yaw, pitch, roll = (round(angle, 1) + 0.0 for angle in pose) if pose else (None, None, None)  # + 0.0: no -0.0
    turned, leans = "turned {:.0f} degrees to the side", "tilted {:.0f} degrees to the side"
    checks = (
        ("yaw", yaw, MAX_YAW_DEGREES, "The head is not turned to a side.", turned, turned,
         "look straight into the camera"),
        ("pitch", pitch, MAX_PITCH_DEGREES, "The head is level.",
         "lowered by {:.0f} degrees", "raised by {:.0f} degrees", "hold the camera at the height of the eyes"),
        ("roll", roll, MAX_ROLL_DEGREES, "The head is upright.", leans, leans, "hold it upright"),
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
    sharpness = None if sharpness is None else round(sharpness, 2)
    low = "The face is blurred: use a sharper picture."
    limit: Limit = {"min": MIN_SHARPNESS}
    return _check("sharpness", sharpness, limit, "fine by coarse detail", "The face is sharp.", low)


def _exposure(exposure: float | None) -> PortraitCheck:
    exposure = None if exposure is None else round(exposure, 1)
    low = "The face is too dark: use a picture with more light on it."
    high = "The face is too bright: use a picture with less light on it."
    limit: Limit = {"min": MIN_EXPOSURE, "max": MAX_EXPOSURE}
    return _check("exposure", exposure, limit, "mean luminance", "The face is well lit.", low, high)
