"""MouthFinder: ask the mouth detectors in order about each frame of a source."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from typing import TYPE_CHECKING

from ..errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..bundles.mouth import MouthLandmarks, MouthTracker
    from ..host.host import PluginHost
    from .progress import ProgressFile


class MouthFinder:
    """Locates mouths in the frames of one source. A context manager.

    A detector that raises is not asked again; the next ones are asked for the remaining frames.

    Args:
        host: the plugins.
        detectors: the plugins to ask, in order.
        size: (width, height) of the frames in pixels.
        fps: frames per second.
        progress: where to say which detector is asked.
    """

    def __init__(
        self, host: PluginHost, detectors: Sequence[str], size: tuple[int, int], fps: float, progress: ProgressFile
    ) -> None:
        self._host = host
        self._size = size
        self._fps = fps
        self._detectors = dict(enumerate(detectors))
        self._progress = progress
        self._trackers: dict[str, MouthTracker] = {}
        #: What each detector raised, by plugin.
        self.failures: dict[str, str] = {}
        #: How often each detector found or did not find a mouth.
        self.detections: Counter[tuple[str, str]] = Counter()
        #: The time that the detectors have taken.
        self.seconds = 0.0

    def __enter__(self) -> MouthFinder:
        return self

    def __exit__(self, *exc: object) -> None:
        for tracker in self._trackers.values():
            with contextlib.suppress(PluginError):
                tracker.close()

    def find(self, pixels: NDArray[np.uint8], seconds: float) -> MouthLandmarks | None:
        """Return the mouth in the next frame, with its `source`; None if no detector finds one.

        Args:
            pixels: RGB, uint8, shape (height, width, 3).
            seconds: the frame's time.
        """
        started = time.perf_counter()
        try:
            for position, name in tuple(self._detectors.items()):
                self._progress.asking(position)
                if (mouth := self._ask(position, name, pixels, seconds)) is not None:
                    return dataclasses.replace(mouth, source=mouth.source or name)
            return None
        finally:
            self.seconds += time.perf_counter() - started

    def _ask(self, position: int, name: str, pixels: NDArray[np.uint8], seconds: float) -> MouthLandmarks | None:
        try:
            if name not in self._trackers:
                self._trackers[name] = self._host.open_mouth_tracker(name, *self._size, self._fps)
            mouth = self._trackers[name].track(pixels, seconds)
        except PluginError as error:
            del self._detectors[position]
            self.failures[name] = str(error)
            self.detections[name, "failed"] += 1
            return None
        self.detections[name, "none" if mouth is None else "found"] += 1
        return mouth
