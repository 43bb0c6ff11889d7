"""A mouth whose outlines a person has drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest
from .mouth import MouthLandmarks, mouth_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .mouth import Point

#: The value of `mouth_polygon_source` where a person has drawn the outlines.
MANUAL = "manual"

#: The keys of `metadata.animation` that a person draws. The others are computed from them.
OUTLINES = ("outer_lip", "inner_mouth")

_MIN_POINTS = 3


def manual_animation(animation: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's `metadata.animation` with the centre and the radii of its outlines.

    Args:
        animation: holds `outer_lip` and `inner_mouth`, polygons of [x, y], fractions of the picture. Other keys are
            kept, except for those that are computed.

    Raises:
        InvalidRequest: an outline is missing or wrong; the message names the field.
    """
    outer_lip, inner_mouth = (_outline(animation, name) for name in OUTLINES)
    computed: dict[str, Any] = mouth_metadata(MouthLandmarks(outer_lip, inner_mouth), MANUAL)["animation"]
    if not (computed["mouth_rx"] and computed["mouth_ry"]):
        raise InvalidRequest("metadata.animation.outer_lip has no area: draw the outline around the lips")
    return {**animation, **computed}


def check_face_box(box: object) -> None:
    """Raise InvalidRequest unless `box` is [left, top, right, bottom] in fractions of the picture."""
    if isinstance(box, list) and len(box) == 4 and all(map(_is_fraction, box)) and box[0] < box[2] and box[1] < box[3]:
        return
    raise InvalidRequest(
        f"metadata.face_box is {box!r:.80}; write [left, top, right, bottom], fractions of the picture from 0 to 1"
    )


def _outline(animation: Mapping[str, Any], name: str) -> list[Point]:
    points = animation.get(name)
    if not isinstance(points, list) or len(points) < _MIN_POINTS:
        raise InvalidRequest(f"metadata.animation.{name} must be a list of at least {_MIN_POINTS} points [x, y]")
    for number, point in enumerate(points):
        if not (isinstance(point, list) and len(point) == 2 and all(map(_is_fraction, point))):
            raise InvalidRequest(
                f"metadata.animation.{name}[{number}] is {point!r:.80}; write [x, y], fractions of the picture from 0"
                " to 1"
            )
    return [(x, y) for x, y in points]


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
