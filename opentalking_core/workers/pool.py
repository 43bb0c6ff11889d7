"""WorkerPool: worker processes for native code that reads strangers' pictures. A crash or a hang costs one call."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pebble

from ..errors import WorkersUnavailable
from .runner import WorkerCrashed
from .worker_process import prepare_process, run_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

P = ParamSpec("P")
T = TypeVar("T")

#: A worker process is replaced after this many calls, which bounds what leaks in native code can add up to.
MAX_CALLS_PER_PROCESS = 1000

#: A worker that doesn't begin its call for this long is lost; it may have been stopped. A start takes a second or two.
MAX_START_SECONDS = 30.0


class WorkerPool:
    """Runs functions in worker processes, which start with the first calls.

    A worker is thrown away after any mishap. Workers share no pipes and no locks: if a worker were killed while it
    holds a shared lock, all others would be stuck.

    Args:
        workers: how many processes to use.
        time_limit: seconds that one call may take. Then its process is killed and replaced.
        begin_limit: seconds until a worker that has run calls before must begin the next one.
    """

    def __init__(self, workers: int, time_limit: float, begin_limit: float = MAX_START_SECONDS) -> None:
        self.parallelism = workers
        self._time_limit = time_limit
        self._begin_limit = begin_limit
        self._slots = asyncio.Semaphore(workers)
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function with picklable arguments in a worker.

        Raises:
            WorkerCrashed: the worker died.
            TimeoutError: the call ran out of time.
            WorkersUnavailable: no worker could begin the call.
            Exception: the function raised it.
        """
        problem: BrokenProcessPool | None = None
        async with self._slots:
            for _ in range(2):
                if self._closed:
                    raise WorkersUnavailable("the service is ending; try again")
                try:
                    return await self._run_in_worker(function, args, kwargs)
                except BrokenProcessPool as error:  # the call never began, so it can be made again
                    problem = error
                    self._discard_idle()  # what killed one idle worker may have killed the others
        raise WorkersUnavailable(f"worker processes can't be started ({problem}); try again")

    async def _run_in_worker(
        self, function: Callable[..., T], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> T:
        """Raise BrokenProcessPool if the worker can't be started, or was lost before it began the call."""
        worker = self._idle.pop() if self._idle else _Worker()
        start_limit = self._begin_limit if worker in self._workers else MAX_START_SECONDS
        self._workers.add(worker)
        is_usable = False
        future: Future[T] = Future()
        try:
            future = await worker.schedule(function, args, kwargs, self._time_limit)
            result = await asyncio.wait_for(asyncio.wrap_future(future), start_limit + self._time_limit)
            is_usable = True
            return result
        except pebble.ProcessExpired as error:
            raise WorkerCrashed(f"its worker process died with exit code {error.exitcode}") from None
        except TimeoutError:
            if not future.done() or future.cancelled():
                raise BrokenProcessPool("the worker doesn't begin") from None
            raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None
        except BrokenProcessPool:
            raise
        except Exception:  # the function's own
            is_usable = True
            raise
        finally:
            if is_usable:
                self._idle.append(worker)
            else:
                self._workers.discard(worker)
                worker.discard()

    def _discard_idle(self) -> None:
        while self._idle:
            worker = self._idle.pop()
            self._workers.discard(worker)
            worker.discard()

    async def close(self) -> None:
        """Let running calls finish within the time limit, end the workers, and refuse new calls."""
        self._closed = True
        await asyncio.gather(*(asyncio.to_thread(worker.finish, self._time_limit) for worker in self._workers))


class _Worker:
    """One worker process: a pool of pebble with a single process."""

    def __init__(self) -> None:
        # A fork of a process with threads can inherit locked locks. A fork server has no threads, and starts a process
        # in half the time that a fresh interpreter takes.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._pool = pebble.ProcessPool(
            1, MAX_CALLS_PER_PROCESS, initializer=prepare_process, context=multiprocessing.get_context(method)
        )
        self._is_started = False

    async def schedule(
        self, function: Callable[..., T], args: Sequence[object], kwargs: Mapping[str, object], time_limit: float
    ) -> Future[T]:
        """Send a call to the process. Raise BrokenProcessPool if the process was killed or can't be started."""
        call = [function, *args], kwargs, time_limit
        if self._is_started:
            return self._schedule(*call)
        self._is_started = True
        return await asyncio.to_thread(self._schedule, *call)  # the process starts, which takes tens of milliseconds

    def _schedule(self, args: list[Any], kwargs: Mapping[str, object], time_limit: float) -> Future[Any]:
        try:
            return self._pool.schedule(run_call, args, kwargs, time_limit)
        except (RuntimeError, OSError) as error:  # killed, as by a system out of memory, or not started
            raise BrokenProcessPool(str(error)) from error

    def discard(self) -> None:
        """End the process in a thread, because that can hang if a pipe is broken."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        threading.Thread(target=self._pool.join, name="broken-worker", daemon=True).start()

    def finish(self, seconds: float) -> None:
        """Let a running call finish within this time, then end the process."""
        self._pool.close()  # type: ignore[no-untyped-call]
        try:
            self._pool.join(seconds)
        except TimeoutError:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
