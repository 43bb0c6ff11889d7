"""SourceIntake: have a worker make files of an uploaded portrait or video, while its progress is told."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from .errors import InvalidRequest, StoreFull
from .workers.making import MakingTask, make_files
from .workers.progress import ProgressFile
from .workers.runner import WorkerCrashed
from .workers.worker_host import WorkerPlugins

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from .bundles.source import SourceKind
    from .host.host import PluginHost
    from .metrics import Metrics
    from .settings import Settings
    from .workers.making import MadeFiles
    from .workers.runner import Runner
    from .workers.threads import ThreadRunner

log = logging.getLogger(__name__)

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

#: Seconds between looks at a worker's progress.
_POLL_SECONDS = 0.25

#: Bytes that are read of a made file at once.
_CHUNK_BYTES = 1024 * 1024


class WorkProgress(NamedTuple):
    """How far the work on an upload is.

    Args:
        frames_done: frames that are finished.
        frames: frames that are expected; there may be fewer.
        seconds_left: an estimate; None before the first frame is finished.
    """

    frames_done: int
    frames: int
    seconds_left: float | None


@dataclass(frozen=True)
class FileContent:
    """A file on this machine as content for `BundleStore.create`. Can be read again.

    Args:
        path: the file.
    """

    path: Path

    async def __aiter__(self) -> AsyncIterator[bytes]:
        file, chunk = await asyncio.to_thread(self._open)
        try:
            while chunk:
                yield chunk
                # Most files are smaller than a chunk, and need no second call in a thread.
                chunk = await asyncio.to_thread(file.read, _CHUNK_BYTES) if len(chunk) == _CHUNK_BYTES else b""
        finally:
            file.close()

    def _open(self) -> tuple[BinaryIO, bytes]:
        file = self.path.open("rb")
        return file, file.read(_CHUNK_BYTES)


class SourceIntake:
    """Has workers decode uploads frame by frame, locate the mouths, and make files as a model type wants them.

    Args:
        settings: the limits.
        host: the plugins.
        runner: where to work.
        threads: where to work if plugins are needed that worker processes can't load.
        metrics: where detections and stages are counted.
    """

    def __init__(
        self, settings: Settings, host: PluginHost, runner: Runner, threads: ThreadRunner, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._host = host
        self._runner = runner
        self._threads = threads
        self._metrics = metrics
        #: The failure of each detector at the last source, by its plugin's name; no entry if it worked.
        self.failures: dict[str, str] = {}

    async def process(
        self,
        upload: Path,
        kind: SourceKind,
        folder: Path,
        model_type: str | None,
        on_progress: Callable[[WorkProgress], None] | None = None,
    ) -> MadeFiles:
        """Make a bundle's files of an upload.

        Args:
            upload: the uploaded file.
            kind: what was uploaded.
            folder: where to write the files; it exists and is empty. The caller removes the folder, also to stop work
                in a thread, which can't be cancelled otherwise.
            model_type: whose files to make; None to look at the source only.
            on_progress: called on the event loop a few times a second.

        Raises:
            InvalidRequest: the upload can't be decoded, or the model type refuses it.
            StoreFull: there is no room for the files.
            WorkersUnavailable: try again.
        """
        detectors = self._host.detectors()
        by_hand = any(info.origin == "registered" for info in detectors)
        if model_type is not None:
            by_hand = by_hand or self._host.model_type_owner(model_type).origin == "registered"
        settings = self._settings
        task = MakingTask(
            upload,
            kind,
            folder,
            folder.with_name(folder.name + ".progress"),
            model_type,
            tuple(info.name for info in detectors),
            (settings.custom_avatar_max_width, settings.custom_avatar_max_height),
            settings.video_max_frames,
        )
        made = await self._make(self._threads if by_hand else self._runner, task, on_progress)
        self._record(task, made)
        return made

    async def _make(
        self, runner: Runner, task: MakingTask, on_progress: Callable[[WorkProgress], None] | None
    ) -> MadeFiles:
        """Run the task. If its worker is lost, run it again without the detector that was asked last.

        Either that detector or the upload is at fault. If the work fails without detectors too, it was the upload.
        """
        failures: dict[str, str] = {}
        while True:
            try:
                made = await self._watched(runner, task, on_progress)
            except (WorkerCrashed, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
                if not task.detectors:
                    log.warning("a %s could not be decoded: %s", task.kind, reason)
                    raise InvalidRequest(f"the {task.kind} can't be decoded: {_REMEDIES[task.kind]}") from None
                progress = await asyncio.to_thread(ProgressFile(task.progress).read)
                last = progress.detector if progress is not None else -1
                suspects = task.detectors if last < 0 else task.detectors[last : last + 1]
                log.warning(
                    "work on a %s goes on without mouth detector %s: %s", task.kind, ", ".join(suspects), reason
                )
                failures |= dict.fromkeys(suspects, reason)
                task = task._replace(detectors=tuple(name for name in task.detectors if name not in suspects))
                await asyncio.to_thread(_empty, task)
            except OSError as error:
                if error.errno not in _FULL_ERRNOS:
                    raise
                message = f"there is no room for the files of the {task.kind} in the server's temporary folder"
                raise StoreFull(f"{message}: {error.strerror}") from None
            else:
                failed = {(name, "failed"): 1 for name in failures}
                return made._replace(failures=failures | made.failures, detections=made.detections | failed)

    async def _watched(
        self, runner: Runner, task: MakingTask, on_progress: Callable[[WorkProgress], None] | None
    ) -> MadeFiles:
        """Run the task, tell its progress, and raise TimeoutError if it makes none for a portrait's time limit."""
        plugins = WorkerPlugins(self._host.choice, self._host)
        call = asyncio.ensure_future(runner.run(make_files, plugins, task))
        pace = _Pace(self._settings.portrait_time_limit)
        file = ProgressFile(task.progress)
        try:
            while not (await asyncio.wait([call], timeout=_POLL_SECONDS))[0]:
                if (progress := await asyncio.to_thread(file.read)) is not None:
                    seconds_left = pace.seconds_left(progress.done, progress.total, time.monotonic())
                    if on_progress is not None:
                        on_progress(WorkProgress(progress.done, progress.total, seconds_left))
            return call.result()
        finally:
            call.cancel()
            await asyncio.wait([call])

    def _record(self, task: MakingTask, made: MadeFiles) -> None:
        self._metrics.observe_stages(made.seconds)
        for (detector, outcome), count in made.detections.items():
            self._metrics.detections.labels(detector, outcome).inc(count)
        for detector in task.detectors:
            if detector in made.failures:
                self.failures[detector] = made.failures[detector]
                message = "mouth detector %s failed at a %s; its frames count as frames without a mouth: %s"
                log.warning(message, detector, task.kind, made.failures[detector])
            elif any(name == detector for name, _ in made.detections):
                self.failures.pop(detector, None)


_REMEDIES = {"portrait": "send an ordinary JPEG, PNG or WebP", "video": "send an ordinary MP4, MOV, WebM or MKV"}


class _Pace:
    """Estimates how long work takes, and notices when it stands still.

    Args:
        stall_seconds: for how long work may make no progress.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._started: float | None = None
        self._last_done = 0
        self._last_moved = 0.0

    def seconds_left(self, done: int, total: int, now: float) -> float | None:
        """Return an estimate, or None if it is too early for one. Raise TimeoutError if the work stands still."""
        if self._started is None or done != self._last_done:
            self._started = now if self._started is None else self._started
            self._last_done, self._last_moved = done, now
        elif now - self._last_moved > self._stall_seconds:
            raise TimeoutError(f"it made no progress for {self._stall_seconds:g} s")
        return (now - self._started) / done * max(total - done, 0) if done else None


def _empty(task: MakingTask) -> None:
    """Remove what the task has written."""
    shutil.rmtree(task.folder)
    task.folder.mkdir()
    task.progress.unlink(missing_ok=True)
