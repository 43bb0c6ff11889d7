"""Worker processes for native code that is fed with strangers' pictures: a crash or a hang costs one call."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pebble

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

#: A worker is replaced after so many calls, which bounds what leaks in native code can add up to.
CALLS_PER_WORKER = 1000


class WorkerCrashed(Exception):
    """The process that ran the call died: a crash in native code, or somebody killed it."""


class WorkerPool:
    """Runs functions in worker processes, or in threads of this process; both start with the first call.

    Args:
        workers: how many processes; 0 for threads.
        time_limit: seconds that one call may take. A process is killed and replaced then; a thread can't be, so its
            call goes on unseen.
    """

    def __init__(self, workers: int, time_limit: float) -> None:
        self.in_threads = workers == 0
        self._time_limit = time_limit
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="portrait")
        self._processes: pebble.ProcessPool | None = None
        if workers:
            # A fork of a process with threads can inherit locked locks; a fork server has none, and starts in half the
            # time of a fresh interpreter.
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            self._processes = pebble.ProcessPool(
                workers, CALLS_PER_WORKER, initializer=_start_worker, context=multiprocessing.get_context(method)
            )

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function with picklable arguments, off the event loop.

        Raises:
            WorkerCrashed: its process died.
            TimeoutError: it ran out of time.
            Exception: whatever the function raised.
        """
        if self._processes is None:
            return await self.run_in_thread(function, *args, **kwargs)
        # Scheduling starts the processes on the first call, which takes tens of milliseconds.
        future = await asyncio.to_thread(
            self._processes.schedule, function, args=args, kwargs=kwargs, timeout=self._time_limit
        )
        try:
            return await asyncio.wrap_future(future)
        except pebble.ProcessExpired as error:
            raise WorkerCrashed(f"its worker process died with exit code {error.exitcode}") from None
        except TimeoutError:
            raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread of this process; raises TimeoutError, or whatever the function raises."""
        future = self._threads.submit(function, *args, **kwargs)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._time_limit)
        except TimeoutError:
            raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None

    async def close(self) -> None:
        """Let running calls finish and end the processes."""
        if self._processes is not None:
            self._processes.close()  # type: ignore[no-untyped-call]
            await asyncio.to_thread(self._processes.join)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    # Requests come first: a process that answers them preempts one that works on a picture.
    if hasattr(os, "nice"):
        os.nice(5)
