"""Mouth landmarks, and the keys that a manifest's `metadata` holds about them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

#: A position in the picture as fractions of its width (x, to the right) and height (y, downwards).
Point = tuple[float, float]

#: The value of `mouth_polygon_source` where no mouth was located in the picture.
UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class MouthLandmarks:
    """What a mouth detector returns for the largest face of a picture. Coordinates are fractions of the picture's size.

    Args:
        outer_lip: the outer outline of the lips, a closed polygon of at least 3 points; MediaPipe-based detectors give
            20, in the order of the bundle format.
        inner_mouth: the outline of the mouth's opening, as a closed polygon too.
        face_box: (left, top, right, bottom) around the face, or None if the detector can't tell.
        source: the value of a manifest's `mouth_polygon_source`, such as "mediapipe"; the plugin's name if None.
        faces: the number of faces in the picture, including this face, or None if the detector can't tell.
        pose: (yaw, pitch, roll) of the head in degrees, or None if the detector can't tell. (0, 0, 0) looks into the
            camera; yaw above 0 is turned to the picture's right, pitch above 0 looks up, roll above 0 leans clockwise.

    Where the picture's edge cuts a face off, coordinates lie outside 0..1. Detectors must not clamp them: the portrait
    checks recognise a cut face by them.

    Raises:
        ValueError: fewer than 3 points, a coordinate or an angle that is not a finite number, less than 1 face.
    """

    outer_lip: Sequence[Point]
    inner_mouth: Sequence[Point]
    face_box: tuple[float, float, float, float] | None = None
    source: str | None = None
    faces: int | None = None
    pose: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("outer_lip", "inner_mouth"):
            points = getattr(self, name)
            if len(points) < 3:
                raise ValueError(f"{name} has {len(points)} points; a polygon needs at least 3")
            if not all(isfinite(x) and isfinite(y) for x, y in points):
                raise ValueError(f"{name} holds a coordinate that is not a finite number")
        if self.face_box is not None and not all(map(isfinite, self.face_box)):
            raise ValueError(f"face_box {self.face_box} holds a coordinate that is not a finite number")
        if self.faces is not None and self.faces < 1:
            raise ValueError(f"faces is {self.faces}; without a face, detect_mouth returns None")
        if self.pose is not None and (len(self.pose) != 3 or not all(map(isfinite, self.pose))):
            raise ValueError(f"pose is {self.pose}, not three finite angles: yaw, pitch, roll")

    @property
    def is_in_picture(self) -> bool:
        """Whether the middle of the outer lip lies inside the picture."""
        xs, ys = zip(*self.outer_lip, strict=True)
        return bool(0 <= sum(xs) / len(xs) <= 1 and 0 <= sum(ys) / len(ys) <= 1)


class MouthTracker(Protocol):
    """Locates one person's mouth in the frames of one video, in order. Used by one thread at a time."""

    def track(self, image: NDArray[np.uint8], seconds: float) -> MouthLandmarks | None:
        """Return the mouth of the tracked person in the next frame, or None if the frame does not show that mouth.

        The person is the one with the largest face at first, and again after a cut to another scene. Coordinates are
        those of this frame: they are neither predicted from other frames nor smoothed so that they lag behind the lips.

        Args:
            image: the frame: RGB, uint8, shape (height, width, 3), of the size that the tracker was opened for, not
                yours to change or to keep.
            seconds: the frame's time; later than that of the frame before.
        """
        ...

    def close(self) -> None:
        """Release what the tracker holds. Called once, after the last frame or a failure."""
        ...


def _fraction(value: float) -> float:
    """Return `value` clamped to the picture, in the precision of the bundle format."""
    return round(min(max(float(value), 0.0), 1.0), 5)


def mouth_metadata(landmarks: MouthLandmarks, detector: str = "") -> dict[str, Any]:
    """Return the keys that a located mouth adds to a manifest's `metadata`.

    Args:
        landmarks: what the detector returned.
        detector: the name of its plugin; needed for landmarks without a `source`.

    Returns:
        `mouth_polygon_source`, `animation` (centre, half width, half height, outlines) and, if known, `face_box`;
        every coordinate is a fraction of the picture, clamped to 0..1 and rounded to 5 places. For a mouth outside the
        picture, only `mouth_polygon_source`, which is `UNAVAILABLE`.
    """
    if not landmarks.is_in_picture:
        return {"mouth_polygon_source": UNAVAILABLE}
    outer = [(_fraction(x), _fraction(y)) for x, y in landmarks.outer_lip]
    xs, ys = [x for x, _ in outer], [y for _, y in outer]
    metadata: dict[str, Any] = {
        "mouth_polygon_source": landmarks.source or detector,
        "animation": {
            "mouth_center": [_fraction(sum(xs) / len(xs)), _fraction(sum(ys) / len(ys))],
            "mouth_rx": _fraction((max(xs) - min(xs)) / 2),
            "mouth_ry": _fraction((max(ys) - min(ys)) / 2),
            "outer_lip": [list(point) for point in outer],
            "inner_mouth": [[_fraction(x), _fraction(y)] for x, y in landmarks.inner_mouth],
        },
    }
    if landmarks.face_box is not None:
        metadata["face_box"] = [_fraction(edge) for edge in landmarks.face_box]
    return metadata


def mouth_problem(metadata: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the mouth in a manifest's `metadata`; None if nothing is.

    A mouth outside the picture, clamped to 0..1, has half of its points or more on an edge of the picture.
    """
    match metadata.get("animation"):
        case {"outer_lip": list(outline)} if outline:
            points = [point for point in outline if isinstance(point, list) and len(point) == 2]
            on_an_edge = max(sum(point[axis] == edge for point in points) for axis in (0, 1) for edge in (0, 1))
            if 2 * on_an_edge >= len(outline):
                return "the mouth lies outside the picture: make the avatar again from a picture that shows the mouth"
        case _:
            pass
    return None
