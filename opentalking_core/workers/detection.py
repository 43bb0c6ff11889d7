"""DetectorChain: what is done with an uploaded portrait's pixels. Prepare them for a bundle, and locate the mouth."""

from __future__ import annotations

import logging
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, ParamSpec, TypeVar

from ..errors import InvalidRequest, PluginError, WorkersUnavailable
from ..portraits.checks import measure_face
from ..portraits.detected_mouth import DetectedMouth
from ..portraits.picture import decode_portrait
from .runner import WorkerCrashed, run_with_retry
from .worker_host import WorkerPlugins

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ..host.host import PluginHost, PluginInfo
    from ..metrics import Metrics
    from .runner import Runner
    from .threads import ThreadRunner

    EncodedPicture = tuple[bytes, int, int]  # the arguments of decode_portrait
    PixelArray = NDArray[np.uint8]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class _DetectorResult(NamedTuple, Generic[T]):
    """The result of asking one detector about a picture.

    Args:
        prepared: what `prepare` returned, if it was called.
        mouth: where the mouth is, if the detector found it.
        failure: what the detector raised, in one line; empty if nothing.
        traceback: the traceback of the failure.
        seconds: how long each stage took, by the stage's name.
    """

    prepared: T | None
    mouth: DetectedMouth | None
    failure: str
    traceback: str
    seconds: dict[str, float]


class DetectorChain:
    """Prepares pictures, and asks the host's detectors in order where the mouth is.

    A detector's failure is logged and counts as "no mouth found".

    Args:
        host: whose detectors to ask.
        runner: where to prepare pictures and run detectors.
        threads: where to run detectors that a program registered as objects, because worker processes can't import
            them. The same as `runner` if all work is done in threads.
        metrics: where detections and stages are counted.
    """

    def __init__(self, host: PluginHost, runner: Runner, threads: ThreadRunner, metrics: Metrics) -> None:
        self._host = host
        self._metrics = metrics
        self._runner = runner
        self._threads = threads
        #: The failure of each detector's last call, by its plugin's name; no entry if the call succeeded.
        self.failures: dict[str, str] = {}
        self._running = 0

    async def detect(
        self, data: bytes, max_width: int, max_height: int, prepare: Callable[[PixelArray], T]
    ) -> tuple[T, DetectedMouth | None]:
        """Decode an uploaded picture as `decode_portrait` does, prepare it, and locate its mouth.

        The first detector runs in the worker that prepares the pixels, at the same time if there are cores to spare:
        the picture is decoded once, and sending the pixels to another process would take longer than decoding again.

        Args:
            data: the picture's bytes.
            max_width: of the pixels that the detectors get.
            max_height: of the pixels that the detectors get.
            prepare: a module-level function; called with the pixels (RGB, uint8, (height, width, 3)), which it must
                not change.

        Returns:
            What `prepare` returned, and the mouth if a detector found it.

        Raises:
            InvalidRequest: the picture can't be decoded.
            WorkerCrashed, TimeoutError: decoding or preparing the picture kills its worker or takes too long.
            WorkersUnavailable: there are no workers at the moment.
        """
        picture = data, max_width, max_height
        prepared: T | None = None
        mouth: DetectedMouth | None = None
        for info in self._host.detectors():
            runner = self._threads if info.origin == "registered" else self._runner
            if prepared is None and runner is not self._runner:
                prepared = await self._prepare(picture, prepare)
            result = await self._run_detector(runner, info, picture, prepare if prepared is None else None)
            self._record(info, result)
            prepared = result.prepared if prepared is None else prepared
            mouth = result.mouth
            if mouth is not None:
                break
        if prepared is None:  # there is no detector
            prepared = await self._prepare(picture, prepare)
        return prepared, mouth

    async def _prepare(self, picture: EncodedPicture, prepare: Callable[[PixelArray], T]) -> T:
        prepared, seconds = await run_with_retry(self._runner, _decode_and_prepare, picture, prepare)
        self._metrics.observe_stages(seconds)
        return prepared

    async def _run_detector(
        self, runner: Runner, info: PluginInfo, picture: EncodedPicture, prepare: Callable[[PixelArray], T] | None
    ) -> _DetectorResult[T]:
        self._running += 1
        # A detector and an encoder that share a core take longer than one after the other.
        overlap = 2 * self._running <= self._runner.parallelism
        plugins = WorkerPlugins(self._host.choice, self._host)
        try:
            return await runner.run(_decode_and_detect, plugins, info.name, picture, prepare, overlap)
        except (InvalidRequest, WorkersUnavailable):
            raise
        except Exception as error:
            # Either the detector or the picture is at fault. Prepare the picture without the detector: if that fails
            # too, it was the picture.
            prepared = await self._prepare(picture, prepare) if prepare else None
            details = "" if isinstance(error, WorkerCrashed | TimeoutError) else _last_traceback()
            return _DetectorResult(prepared, None, f"{type(error).__name__}: {error}", details, {})
        finally:
            self._running -= 1

    def _record(self, info: PluginInfo, result: _DetectorResult[T]) -> None:
        self._metrics.observe_stages(result.seconds)
        outcome = "failed" if result.failure else "none" if result.mouth is None else "found"
        self._metrics.detections.labels(info.name, outcome).inc()
        if result.failure:
            self.failures[info.name] = result.failure
            message = "mouth detector %s failed; its picture counts as one without a mouth: %s%s"
            log.warning(message, info, result.failure, result.traceback)
        else:
            self.failures.pop(info.name, None)


def _decode_and_prepare(picture: EncodedPicture, prepare: Callable[[PixelArray], T]) -> tuple[T, dict[str, float]]:
    seconds: dict[str, float] = {}
    pixels = _timed(seconds, "decode", decode_portrait, *picture)
    return _timed(seconds, "encode", prepare, pixels), seconds


def _decode_and_detect(
    plugins: WorkerPlugins,
    detector: str,
    picture: EncodedPicture,
    prepare: Callable[[PixelArray], T] | None,
    overlap: bool,
) -> _DetectorResult[T]:
    host = plugins.load_host()
    seconds: dict[str, float] = {}
    pixels = _timed(seconds, "decode", decode_portrait, *picture)
    if prepare is None:
        return _DetectorResult(None, *_try_detect(seconds, host, detector, pixels), seconds)
    if not overlap:
        prepared = _timed(seconds, "encode", prepare, pixels)
        return _DetectorResult(prepared, *_try_detect(seconds, host, detector, pixels), seconds)
    with ThreadPoolExecutor(1) as other_thread:
        preparing = other_thread.submit(_timed, seconds, "encode", prepare, pixels)
        detected = _try_detect(seconds, host, detector, pixels)
    return _DetectorResult(preparing.result(), *detected, seconds)


def _try_detect(
    seconds: dict[str, float], host: PluginHost, detector: str, pixels: PixelArray
) -> tuple[DetectedMouth | None, str, str]:
    """Return the mouth if it is found, and what the detector raised with its traceback."""
    try:
        return _timed(seconds, "detect", _detect, host, detector, pixels), "", ""
    except MemoryError:  # the worker has to be replaced
        raise
    except PluginError as error:  # a sentence for the operator, who needs no traceback
        return None, str(error), ""
    except (Exception, SystemExit) as error:  # a plugin can raise anything
        return None, f"{type(error).__name__}: {error}", _last_traceback()


def _last_traceback() -> str:
    return "\n" + traceback.format_exc()


def _detect(host: PluginHost, detector: str, pixels: PixelArray) -> DetectedMouth | None:
    host.startup()
    landmarks = host.detect_mouth(detector, pixels)
    return DetectedMouth(landmarks, detector, measure_face(pixels, landmarks)) if landmarks else None


def _timed(seconds: dict[str, float], stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    started = time.perf_counter()
    try:
        return function(*args, **kwargs)
    finally:
        seconds[stage] = time.perf_counter() - started
