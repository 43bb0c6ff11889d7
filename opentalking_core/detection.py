"""The chain of mouth detectors: each is asked in turn, in worker processes, until one finds a mouth."""

from __future__ import annotations

import functools
import logging
import multiprocessing.util
from typing import TYPE_CHECKING, NamedTuple

from .errors import InvalidRequest, PluginError
from .host import PluginChoice, PluginHost
from .portrait import decode_portrait
from .portrait_checks import measure_face

if TYPE_CHECKING:
    from .metrics import Metrics
    from .mouth import MouthLandmarks
    from .portrait_checks import FaceQuality
    from .workers import WorkerPool

log = logging.getLogger(__name__)


class DetectedMouth(NamedTuple):
    """Where the mouth is, the plugin that found it, and the quality of the face's pixels, if it could be measured."""

    landmarks: MouthLandmarks
    detector: str
    quality: FaceQuality | None


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

    async def detect(self, data: bytes, max_width: int, max_height: int) -> DetectedMouth | None:
        """Locate the mouth in an uploaded picture, fitted as `decode_portrait` does; None if no detector finds one."""
        picture = (data, max_width, max_height)
        for info in self._host.detectors():
            try:
                if info.origin == "registered" or self._pool.in_threads:
                    mouth = await self._pool.run_in_thread(_detect, self._host, info.name, *picture)
                else:
                    mouth = await self._pool.run(_detect_in_worker, self._host.choice, info.name, *picture)
            except InvalidRequest:  # nothing to look at, which is not the detector's fault
                return None
            except Exception as error:  # a stranger's code; the upload goes on without a mouth
                self._outcomes.labels(info.name, "failed").inc()
                self.failures[info.name] = f"{type(error).__name__}: {error}"
                log.warning("mouth detector %s failed; its picture counts as one without a mouth", info, exc_info=True)
                continue
            self.failures.pop(info.name, None)
            self._outcomes.labels(info.name, "none" if mouth is None else "found").inc()
            if mouth is not None:
                return mouth
        return None


def _detect(host: PluginHost, detector: str, data: bytes, max_width: int, max_height: int) -> DetectedMouth | None:
    image = decode_portrait(data, max_width, max_height)
    try:
        host.startup()
        landmarks = host.detect_mouth(detector, image)
    except SystemExit as error:  # raised again in the event loop, it would end the server
        raise PluginError(f"plugin {detector} called sys.exit({error.code!r})") from error
    return DetectedMouth(landmarks, detector, measure_face(image, landmarks)) if landmarks else None


def _detect_in_worker(
    choice: PluginChoice, detector: str, data: bytes, max_width: int, max_height: int
) -> DetectedMouth | None:
    return _detect(_worker_host(choice), detector, data, max_width, max_height)


@functools.cache
def _worker_host(choice: PluginChoice) -> PluginHost:
    """This worker process's own host, made by its first detection."""
    host = PluginHost(choice).load()
    multiprocessing.util.Finalize(host, host.shutdown, exitpriority=10)  # atexit isn't called in such processes
    return host
