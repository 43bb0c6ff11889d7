"""The chain of mouth detectors: each is asked in turn, in worker processes, until one finds a mouth."""

from __future__ import annotations

import functools
import logging
import multiprocessing.util
from typing import TYPE_CHECKING, NamedTuple

from .errors import PluginError
from .host import PluginChoice, PluginHost

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .metrics import Metrics
    from .mouth import MouthLandmarks
    from .workers import WorkerPool

log = logging.getLogger(__name__)


class DetectedMouth(NamedTuple):
    """Where the mouth is, and the name of the plugin that found it."""

    landmarks: MouthLandmarks
    detector: str


class DetectorChain:
    """Asks the host's detectors in order. Whatever one does wrong is logged and counts as «no mouth found».

    Args:
        host: whose detectors to ask.
        pool: where to run them. Plugins that a program registered as objects run in threads of this process whatever
            the pool, because worker processes can't import them.
        metrics: where detections are counted.
    """

    def __init__(self, host: PluginHost, pool: WorkerPool, metrics: Metrics) -> None:
        self._host = host
        self._outcomes = metrics.detections
        self._pool = pool
        #: what went wrong in the last call of a detector, by its plugin's name; absent if it went well
        self.failures: dict[str, str] = {}

    async def detect(self, image: NDArray[np.uint8]) -> DetectedMouth | None:
        """Locate the mouth in `image` (RGB, uint8, (height, width, 3)); None if no detector finds one."""
        for info in self._host.detectors():
            try:
                if info.origin == "registered" or self._pool.in_threads:
                    landmarks = await self._pool.run_in_thread(_detect, self._host, info.name, image)
                else:
                    landmarks = await self._pool.run(_detect_in_worker, self._host.choice, info.name, image)
            except Exception as error:  # a stranger's code; the upload goes on without a mouth
                self._outcomes.labels(info.name, "failed").inc()
                self.failures[info.name] = f"{type(error).__name__}: {error}"
                log.warning("mouth detector %s failed; its picture counts as one without a mouth", info, exc_info=True)
                continue
            self.failures.pop(info.name, None)
            self._outcomes.labels(info.name, "none" if landmarks is None else "found").inc()
            if landmarks is not None:
                return DetectedMouth(landmarks, info.name)
        return None


def _detect(host: PluginHost, detector: str, image: NDArray[np.uint8]) -> MouthLandmarks | None:
    try:
        host.startup()
        return host.detect_mouth(detector, image)
    except SystemExit as error:  # raised again in the event loop, it would end the server
        raise PluginError(f"plugin {detector} called sys.exit({error.code!r})") from error


def _detect_in_worker(choice: PluginChoice, detector: str, image: NDArray[np.uint8]) -> MouthLandmarks | None:
    return _detect(_worker_host(choice), detector, image)


@functools.cache
def _worker_host(choice: PluginChoice) -> PluginHost:
    """This worker process's own host, made by its first detection."""
    host = PluginHost(choice).load()
    multiprocessing.util.Finalize(host, host.shutdown, exitpriority=10)  # atexit isn't called in such processes
    return host
