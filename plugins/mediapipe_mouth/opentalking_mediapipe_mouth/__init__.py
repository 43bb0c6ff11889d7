"""Locate mouths with MediaPipe's face landmarker. Importing this module loads neither MediaPipe nor OpenCV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

from . import model_file
from .detector import MouthDetector, missing_software

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from opentalking_core import MouthLandmarks, MouthTracker

_detector = MouthDetector()


@hookimpl
def startup() -> None:
    """Load MediaPipe and the model file if the file exists; otherwise `detect_mouth` loads both later."""
    _detector.open()


@hookimpl(tryfirst=True)  # the default detector: others that are installed are asked after this one
def detect_mouth(image: NDArray[np.uint8]) -> MouthLandmarks | None:
    """Return the mouth of the largest face; None if there is no face or no model file."""
    return _detector.detect(image)


@hookimpl
def open_mouth_tracker() -> MouthTracker | None:
    """Return a tracker for the frames of one video; None if there is no model file."""
    return _detector.open_tracker()


@hookimpl
def fetch_models() -> Iterable[Path]:
    """Download face_landmarker.task unless the file exists."""
    return [model_file.fetch()]


@hookimpl
def report_problems() -> Iterable[str]:
    """Return what is missing: MediaPipe, a system library, the model file."""
    return [*missing_software(), *model_file.problems()]


@hookimpl
def shutdown() -> None:
    """Release the landmarker."""
    _detector.close()
