"""A face mesh in a picture: its outlines, and the angles of its head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import atan2, cos, degrees, hypot, sin
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .crop import Crop, Cutout

# The lips in MediaPipe's 478-point face mesh: outlines in the order of the bundle format.
OUTER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_MOUTH = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)

_EYE_CORNERS = (33, 133, 362, 263)
_FOREHEAD, _CHIN = 10, 152


class Box(NamedTuple):
    """An upright rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def center(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def size(self) -> float:
        """The length of the longer side."""
        return max(self.right - self.left, self.bottom - self.top)

    def distance(self, other: Box) -> float:
        """Return the distance of the two middles."""
        (x, y), (other_x, other_y) = self.center, other.center
        return hypot(x - other_x, y - other_y)

    def is_same_face(self, other: Box) -> bool:
        """Whether two boxes of faces overlap so much that they must show one face."""
        return self.distance(other) < min(self.size, other.size) / 2


class Pose(NamedTuple):
    """The angles of a head in degrees, as `MouthLandmarks.pose` defines them."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, eq=False)
class FaceMesh:
    """A face that the landmarker found.

    Args:
        points: 478 points in pixels of the picture, shape (478, 2).
        pose: of the head.
    """

    points: NDArray[np.float64]
    pose: Pose

    @cached_property
    def box(self) -> Box:
        """The bounding box of all points."""
        left, top = self.points.min(axis=0)
        right, bottom = self.points.max(axis=0)
        return Box(float(left), float(top), float(right), float(bottom))

    @property
    def eyes(self) -> tuple[float, float]:
        """The middle between the eyes."""
        x, y = self.points[list(_EYE_CORNERS)].mean(axis=0)
        return float(x), float(y)

    @property
    def mouth(self) -> tuple[float, float]:
        """The middle of the lips."""
        x, y = self.points[list(OUTER_LIP)].mean(axis=0)
        return float(x), float(y)

    @property
    def lean(self) -> float:
        """How far the face leans clockwise, in degrees."""
        x, y = self.points[_FOREHEAD] - self.points[_CHIN]
        return degrees(atan2(x, -y))

    def moved(self, crop: Crop | Cutout) -> FaceMesh:
        """Return this mesh in `crop` as a mesh in the picture."""
        yaw, pitch, roll = self.pose
        return FaceMesh(crop.to_picture(self.points), Pose(yaw, pitch, (roll + crop.turn + 180) % 360 - 180))

    def is_plausible(self) -> bool:
        """Return whether the eyes are above the mouth along the axis from the chin to the forehead."""
        axis = self.points[_FOREHEAD] - self.points[_CHIN]
        (eye_x, eye_y), (mouth_x, mouth_y) = self.eyes, self.mouth
        return bool((eye_x - mouth_x) * axis[0] + (eye_y - mouth_y) * axis[1] > 0)


#: How much of the angle between the picture's middle and a face MediaPipe takes for a turn of the head the other way.
#: Frontal faces moved through pictures of 9:16 and 16:9 gave 0.26 to 0.36.
_FRAMING_SHARE = 0.3

#: What MediaPipe measures for a level head, in degrees, once the framing is corrected: portraits of people looking into
#: the camera gave -12 to 3, with a mean between -6.6 and -8.5; drawn faces gave -5.
_LEVEL_PITCH = -7.5


def pose_of_matrix(matrix: NDArray[np.float32]) -> Pose:
    """Return the angles of the head that MediaPipe's 4 x 4 matrix puts before its camera.

    The matrix's columns are the directions of the head's right, top and front, and its position, with x to the
    picture's right, y upwards and z towards the camera. The pose does not depend on where in the picture the face is.
    Yaw and pitch are measured about the head's own axes, so that a tilt does not change them.
    """
    import numpy as np

    x, y, z = (float(value) for value in matrix[:3, 3])
    aside, above = (_FRAMING_SHARE * angle for angle in (atan2(x, -z), atan2(y, hypot(x, z))))
    framing = (-sin(aside) * cos(above), -sin(above), cos(aside) * cos(above))
    turned = _rotation_to_the_camera(*framing) @ np.asarray(matrix[:3, 1:3], np.float64)
    (up_x, x), (up_y, y), (_, z) = turned.tolist()
    roll = atan2(up_x, up_y)
    aside, above = x * cos(roll) - y * sin(roll), x * sin(roll) + y * cos(roll)
    return Pose(degrees(atan2(aside, z)), degrees(atan2(above, hypot(aside, z))) - _LEVEL_PITCH, degrees(roll))


def _rotation_to_the_camera(x: float, y: float, z: float) -> NDArray[np.float64]:
    """Return the smallest rotation that turns the unit vector (x, y, z) into (0, 0, 1) (Rodrigues)."""
    import numpy as np

    share = 1 / max(1e-9, 1 + z)
    mixed = -x * y * share
    return np.array(((1 - x * x * share, mixed, -x), (mixed, 1 - y * y * share, -y), (x, y, z)))
