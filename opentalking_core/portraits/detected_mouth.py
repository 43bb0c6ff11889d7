"""DetectedMouth: what a mouth detector found in a portrait."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..bundles.mouth import MouthLandmarks
    from .checks import FaceQuality


class DetectedMouth(NamedTuple):
    """Where the mouth is, the plugin that found it, and the quality of the face's pixels, if it could be measured."""

    landmarks: MouthLandmarks
    detector: str
    quality: FaceQuality | None
