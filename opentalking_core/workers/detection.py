"""What is done with an uploaded portrait's pixels: they are prepared for a bundle, and shown to the mouth detectors."""

from __future__ import annotations

import functools
import logging
import multiprocessing.util
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, ParamSpec, TypeVar

from ..errors import InvalidRequest, Overloaded, PluginError
from ..host.host import PluginChoice, PluginHost
from ..portraits.checks import measure_face
from ..portraits.detected_mouth import DetectedMouth
from ..portraits.picture import decode_portrait
from .pool import WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ..host.host import PluginInfo
    from ..metrics import Metrics
    from .pool import WorkerPool

    Picture = tuple[bytes, int, int]  # the arguments of decode_portrait
    Pixels = NDArray[np.uint8]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class _Look(NamedTuple, Generic[T]):
    """What came of showing a picture to one detector.

    Args:
        prepared: what `prepare` returned, if it was called.
        mouth: where the mouth is, if the detector found it.
        failure: what the detector raised, in a line; empty if nothing.
        traceback: of it.
        seconds: that each stage took, by its name.
    """

    prepared: T | None
    mouth: DetectedMouth | None
    failure: str
    traceback: str
    seconds: dict[str, float]


class DetectorChain:
    """Prepares pictures, and asks the host's detectors in order where the mouth is.

    Whatever a detector does wrong is logged and counts as «no mouth found».

    Args:
        host: whose detectors to ask.
        pool: where to run them. Plugins that a program registered as objects run in threads of this process whatever
            the pool, because worker processes can't import them.
        metrics: where detections and stages are counted.
    """

    def __init__(self, host: PluginHost, pool: WorkerPool, metrics: Metrics) -> None:
        self._host = host
        self._metrics = metrics
        self._pool = pool
        #: what went wrong in the last call of a detector, by its plugin's name; absent if it went well
        self.failures: dict[str, str] = {}
        self._running = 0  # calls that look for a mouth

    async def look_at(
        self, data: bytes, max_width: int, max_height: int, prepare: Callable[[Pixels], T]
    ) -> tuple[T, DetectedMouth | None]:
        """Decode an uploaded picture as `decode_portrait` does, prepare it, and locate its mouth.

        The first detector looks at the pixels in the worker that prepares them, at the same time if there are cores to
        spare: they are decoded once, and to hand them to another process would take longer than to decode them again.

        Args:
            data: the picture's bytes.
            max_width: of the pixels that are looked at.
            max_height: likewise.
            prepare: a module-level function; called with the pixels (RGB, uint8, (height, width, 3)), not to change
                them.

        Returns:
            What `prepare` returned, and the mouth if any detector found it.

        Raises:
            InvalidRequest: the picture can't be decoded.
            WorkerCrashed, TimeoutError: it can't be decoded or prepared, and takes a worker along.
            Overloaded: there are no workers at the moment.
        """
        picture = data, max_width, max_height
        prepared: T | None = None
        mouth: DetectedMouth | None = None
        for info in self._host.detectors():
            if prepared is None and self._needs_thread(info):
                prepared = await self._prepare(picture, prepare)
            look = await self._look(info, picture, prepare if prepared is None else None)
            self._note(info, look)
            prepared = look.prepared if prepared is None else prepared
            mouth = look.mouth
            if mouth is not None:
                break
        if prepared is None:  # no detector, then
            prepared = await self._prepare(picture, prepare)
        return prepared, mouth

    async def _prepare(self, picture: Picture, prepare: Callable[[Pixels], T]) -> T:
        prepared, seconds = await self._pool.run_twice(_decode_and_prepare, picture, prepare)
        self._metrics.stages_took(seconds)
        return prepared

    async def _look(self, info: PluginInfo, picture: Picture, prepare: Callable[[Pixels], T] | None) -> _Look[T]:
        self._running += 1
        # A detector and an encoder that share a core take more time than one after the other.
        at_once = 2 * self._running <= (self._pool.workers or os.cpu_count() or 1)
        try:
            if self._pool.in_threads or self._needs_thread(info):
                return await self._pool.run_in_thread(
                    _decode_and_look, self._host, info.name, picture, prepare, at_once
                )
            return await self._pool.run(_look_in_worker, self._host.choice, info.name, picture, prepare, at_once)
        except (InvalidRequest, Overloaded):
            raise
        except Exception as error:  # the detector's fault, its plugin's, or the picture's? Then so does this.
            prepared = await self._prepare(picture, prepare) if prepare else None
            details = "" if isinstance(error, WorkerCrashed | TimeoutError) else _last_traceback()
            return _Look(prepared, None, f"{type(error).__name__}: {error}", details, {})
        finally:
            self._running -= 1

    def _needs_thread(self, info: PluginInfo) -> bool:
        return info.origin == "registered" and not self._pool.in_threads

    def _note(self, info: PluginInfo, look: _Look[T]) -> None:
        self._metrics.stages_took(look.seconds)
        outcome = "failed" if look.failure else "none" if look.mouth is None else "found"
        self._metrics.detections.labels(info.name, outcome).inc()
        if look.failure:
            self.failures[info.name] = look.failure
            message = "mouth detector %s failed; its picture counts as one without a mouth: %s%s"
            log.warning(message, info, look.failure, look.traceback)
        else:
            self.failures.pop(info.name, None)


def _decode_and_prepare(picture: Picture, prepare: Callable[[Pixels], T]) -> tuple[T, dict[str, float]]:
    seconds: dict[str, float] = {}
    pixels = _timed(seconds, "decode", decode_portrait, *picture)
    return _timed(seconds, "encode", prepare, pixels), seconds


def _decode_and_look(
    host: PluginHost, detector: str, picture: Picture, prepare: Callable[[Pixels], T] | None, at_once: bool
) -> _Look[T]:
    seconds: dict[str, float] = {}
    pixels = _timed(seconds, "decode", decode_portrait, *picture)
    if prepare is None:
        return _Look(None, *_ask(seconds, host, detector, pixels), seconds)
    if not at_once:
        return _Look(_timed(seconds, "encode", prepare, pixels), *_ask(seconds, host, detector, pixels), seconds)
    with ThreadPoolExecutor(1) as other_thread:
        preparing = other_thread.submit(_timed, seconds, "encode", prepare, pixels)
        answer = _ask(seconds, host, detector, pixels)
    return _Look(preparing.result(), *answer, seconds)


def _look_in_worker(
    choice: PluginChoice, detector: str, picture: Picture, prepare: Callable[[Pixels], T] | None, at_once: bool
) -> _Look[T]:
    return _decode_and_look(_worker_host(choice), detector, picture, prepare, at_once)


def _ask(
    seconds: dict[str, float], host: PluginHost, detector: str, pixels: Pixels
) -> tuple[DetectedMouth | None, str, str]:
    """The mouth, if it is found, or what the detector raised, and its traceback."""
    try:
        return _timed(seconds, "detect", _detect, host, detector, pixels), "", ""
    except MemoryError:  # this worker is of no more use
        raise
    except PluginError as error:  # a sentence for the operator, who needs no traceback
        return None, str(error), ""
    except (Exception, SystemExit) as error:  # a stranger's code
        return None, f"{type(error).__name__}: {error}", _last_traceback()


def _last_traceback() -> str:
    return "\n" + traceback.format_exc()


def _detect(host: PluginHost, detector: str, pixels: Pixels) -> DetectedMouth | None:
    host.startup()
    landmarks = host.detect_mouth(detector, pixels)
    return DetectedMouth(landmarks, detector, measure_face(pixels, landmarks)) if landmarks else None


def _timed(seconds: dict[str, float], stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    started = time.perf_counter()
    try:
        return function(*args, **kwargs)
    finally:
        seconds[stage] = time.perf_counter() - started


@functools.cache
def _worker_host(choice: PluginChoice) -> PluginHost:
    """This worker process's own host, made by its first detection."""
    host = PluginHost(choice).load()
    multiprocessing.util.Finalize(host, host.shutdown, exitpriority=10)  # atexit isn't called in such processes
    return host
