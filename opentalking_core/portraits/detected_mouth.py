"""What a mouth detector found in a portrait."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..bundles.mouth import MouthLandmarks
    from .checks import FaceQuality


class DetectedMouth(NamedTuple):
    """What a mouth detector found in a portrait.

    Args:
        landmarks: where the mouth is.
        detector: the name of the plugin that found the mouth.
        quality: of the face's pixels; None if they could not be measured.
    """

    landmarks: MouthLandmarks
    detector: str
    quality: FaceQuality | None
