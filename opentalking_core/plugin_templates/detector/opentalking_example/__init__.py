"""A mouth detector. Every plugin is imported at every start, so import heavy packages inside the hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opentalking_core import MouthLandmarks


@hookimpl
def startup() -> None:
    """Load what is slow, once in each process that detects mouths."""
    from .detector import patterns

    patterns()


@hookimpl
def detect_mouth(image: NDArray[np.uint8]) -> MouthLandmarks | None:
    """Return the mouth of the largest face in `image` (RGB, (height, width, 3)); None without one."""
    from .detector import find_mouth

    return find_mouth(image)
