"""PortraitIntake: what becomes of an uploaded portrait before anything is stored."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING, TypeVar

from .bundles.mouth import mouth_metadata
from .errors import InvalidRequest
from .health import assess_detectors
from .portraits.checks import check_portrait
from .workers.detection import DetectorChain
from .workers.runner import WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .health import DetectorHealth
    from .host.host import PluginHost
    from .metrics import Metrics
    from .portraits.checks import PortraitReport
    from .portraits.detected_mouth import DetectedMouth
    from .settings import Settings
    from .workers.runner import Runner
    from .workers.threads import ThreadRunner

T = TypeVar("T")

log = logging.getLogger(__name__)


class PortraitIntake:
    """Prepares uploaded portraits, locates their mouths, and reports how fit they are.

    Args:
        settings: the limits for portraits.
        host: whose detectors to ask.
        runner: where to decode portraits and run detectors.
        threads: where to run detectors that worker processes can't load.
        slots: how many portraits to work on at the same time.
        metrics: where detections and stages are counted.
    """

    def __init__(
        self,
        settings: Settings,
        host: PluginHost,
        runner: Runner,
        threads: ThreadRunner,
        slots: int,
        metrics: Metrics,
    ) -> None:
        self._limits = settings.custom_avatar_max_width, settings.custom_avatar_max_height
        self._host = host
        self._detectors = DetectorChain(host, runner, threads, metrics)
        self._portrait_slots = asyncio.Semaphore(slots)

    async def process(self, image: bytes, prepare: Callable[[NDArray[np.uint8]], T]) -> tuple[T, DetectedMouth | None]:
        """Decode a portrait, prepare its pixels and locate its mouth; see `DetectorChain.detect`.

        Raises:
            InvalidRequest: the picture can't be read.
            WorkersUnavailable: try again.
        """
        async with self._portrait_slots:
            try:
                return await self._detectors.detect(image, *self._limits, prepare)
            except (WorkerCrashed, TimeoutError) as error:
                log.warning("a portrait of %d bytes could not be decoded: %s", len(image), error)
                raise InvalidRequest("the image can't be decoded: send an ordinary JPEG, PNG or WebP") from None

    async def report(self, size: tuple[int, int], mouth: DetectedMouth | None) -> PortraitReport:
        """Report how fit a portrait of this size (width, height) is."""
        if mouth is not None:
            report = check_portrait(size, mouth.landmarks, mouth.quality, max_size=self._limits)
            if not mouth.landmarks.is_in_picture:
                return report
            return dataclasses.replace(report, mouth=mouth_metadata(mouth.landmarks, mouth.detector))
        reported = await asyncio.to_thread(self._host.reported_problems)
        if any(detector["ok"] for detector in self.assess_detectors(reported)):
            return check_portrait(size, None, None)
        reason = "No mouth detector works at the moment, so no face can be found; /health says more."
        return check_portrait(size, None, None, not_found=reason)

    def assess_detectors(self, reported: Mapping[str, Sequence[str]]) -> list[DetectorHealth]:
        """Return the health of each detector, given the problems that plugins report of themselves."""
        return assess_detectors(self._host.detectors(), reported, self._detectors.failures)
