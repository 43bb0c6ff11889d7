"""Worker processes for native code that is fed with strangers' pictures: a crash or a hang costs one call."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import sys
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import pebble

from .errors import Overloaded

try:
    import fcntl
    import resource
except ImportError:  # not on Windows, where neither memory nor what outlives a server is bounded
    fcntl = resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

P = ParamSpec("P")
T = TypeVar("T")

#: A worker is replaced after so many calls, which bounds what leaks in native code can add up to.
CALLS_PER_WORKER = 1000

#: A worker may allocate so many bytes. The worst picture that is accepted (64 megapixels, with transparency) takes
#: 1.6 GB; a call that wants more than this fails, and its worker is replaced.
MEMORY_PER_WORKER = 4 * 1024**3

_EXIT_OUT_OF_MEMORY = 77

#: From glibc's malloc.h: see mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

#: Linux's default for the most that anybody may ask for (/proc/sys/fs/pipe-max-size).
_PIPE_BYTES = 1024 * 1024

#: How many time limits a call may take, from being queued to its result: then the pool itself hangs. A worker's queue
#: is four calls long at most, two uploads and two thumbnails.
_PATIENCE = 5

log = logging.getLogger(__name__)


class WorkerCrashed(Exception):
    """The process that ran the call died: a crash in native code, or somebody killed it."""


class _Pool(NamedTuple):
    processes: pebble.ProcessPool
    lost: asyncio.Future[None]  # done once it hangs: those who wait for their calls needn't find out for themselves


class WorkerPool:
    """Runs functions in worker processes, or in threads of this process; both start with the first call.

    Args:
        workers: how many processes; 0 for threads, one for each call.
        time_limit: seconds that one call may take. A process is killed and replaced then; a thread can't be, so its
            call goes on unseen.
    """

    def __init__(self, workers: int, time_limit: float) -> None:
        self.in_threads = workers == 0
        self.workers = workers
        self._time_limit = time_limit
        self._pool: _Pool | None = None
        self._closed = False
        self._replacing = threading.Lock()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function with picklable arguments, off the event loop.

        If the processes are lost through no fault of the call's, it is called again in new ones.

        Raises:
            WorkerCrashed: its process died.
            TimeoutError: it ran out of time.
            Overloaded: no process could be had.
            Exception: whatever the function raised.
        """
        if self.in_threads:
            return await self.run_in_thread(function, *args, **kwargs)
        for _ in range(2):
            lost = asyncio.get_running_loop().create_future()
            pool, future = await asyncio.to_thread(self._schedule, lost, function, args, kwargs)
            result = asyncio.wrap_future(future)
            either: set[asyncio.Future[Any]] = {result, pool.lost}
            patience = _PATIENCE * self._time_limit
            try:
                await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if result.done():
                    return result.result()
                if not pool.lost.done():  # a worker that dies with the pool's lock takes the pool along
                    pool.lost.set_result(None)
                    log.warning("the worker processes hang, and are replaced")
                    await asyncio.to_thread(self._discard, pool)
            except pebble.ProcessExpired as error:
                raise WorkerCrashed(f"its worker process died with exit code {error.exitcode}") from None
            except BrokenProcessPool:
                log.warning("the worker processes died, and are replaced")
            except TimeoutError:
                raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None
            finally:
                result.cancel()
        raise Overloaded("the worker processes that look at pictures were lost twice; try again")

    async def run_twice(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but once more if the worker died: it may have been killed, or been an earlier call's victim."""
        try:
            return await self.run(function, *args, **kwargs)
        except WorkerCrashed:
            return await self.run(function, *args, **kwargs)

    def _schedule(
        self,
        lost: asyncio.Future[None],
        function: Callable[..., T],
        args: Sequence[object],
        kwargs: Mapping[str, object],
    ) -> tuple[_Pool, pebble.ProcessFuture[T]]:
        """Starts the processes on the first call, which takes tens of milliseconds, and whenever a pool is broken.

        A pool is broken once a worker that was idle is killed: by a system that is out of memory, for one.
        """
        task = (_call, [function, *args], kwargs, self._time_limit)
        problem: Exception | None = None
        with self._replacing:
            for _ in range(0 if self._closed else 2):
                pool = self._pool = self._pool or _Pool(self._new_processes(), lost)
                try:
                    return pool, pool.processes.schedule(*task)
                except (RuntimeError, OSError) as error:
                    problem = error
                    self._stop(pool)
        raise Overloaded(f"worker processes can't be started ({problem or 'the service is ending'}); try again")

    def _new_processes(self) -> pebble.ProcessPool:
        # A fork of a process with threads can inherit locked locks; a fork server has none, and starts in half the
        # time of a fresh interpreter.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        return pebble.ProcessPool(self.workers, CALLS_PER_WORKER, initializer=_start_worker, context=context)

    def _discard(self, pool: _Pool) -> None:
        with self._replacing:
            if self._pool is pool:
                self._stop(pool)

    def _stop(self, pool: _Pool) -> None:
        """Have the next call make new processes, and end these, in a thread: a broken pool may never end."""
        self._pool = None
        pool.processes.stop()  # type: ignore[no-untyped-call]
        threading.Thread(target=pool.processes.join, name="broken-worker-pool", daemon=True).start()

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread of this process; raises TimeoutError, or whatever the function raises.

        The thread is the call's own, so that one that hangs keeps no other from running, nor the process from ending.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def call() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # it is raised again where the call is waited for
                future.set_exception(error)

        threading.Thread(target=call, name="portrait", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._time_limit)
        except TimeoutError:
            raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None

    async def close(self) -> None:
        """Let running calls finish, within the time limit, and end the processes; there are no new ones."""
        pool = await asyncio.to_thread(self._close)
        if pool is not None:
            pool.processes.close()  # type: ignore[no-untyped-call]
            try:
                await asyncio.to_thread(pool.processes.join, self._time_limit)
            except TimeoutError:
                pool.processes.stop()  # type: ignore[no-untyped-call]
                await asyncio.to_thread(pool.processes.join)

    def _close(self) -> _Pool | None:
        with self._replacing:
            self._closed = True
            pool, self._pool = self._pool, None
            return pool


#: In a worker process: whether a call is being run.
_calling = threading.Event()


def _call(function: Callable[..., T], *args: object, **kwargs: object) -> T:
    """What a worker does. One that is full is of no more use: a fresh one does the next call."""
    _calling.set()
    try:
        return function(*args, **kwargs)
    except MemoryError:
        os._exit(_EXIT_OUT_OF_MEMORY)
    finally:
        _calling.clear()


def _start_worker() -> None:
    _die_with_the_server()
    signal.signal(signal.SIGTERM, _end)
    multiprocessing.util.Finalize(None, _end_in_peace, exitpriority=100)
    _widen_pipes()
    _keep_freed_memory()
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = MEMORY_PER_WORKER if hard == resource.RLIM_INFINITY else min(MEMORY_PER_WORKER, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    # Requests come first: a process that answers them preempts one that works on a picture.
    if hasattr(os, "nice"):
        os.nice(5)


def _end(signal_number: int, frame: FrameType | None) -> None:
    """The pool ends this process.

    One that runs a call ends without its finalizers, plugins' `shutdown` among them: they would run on top of the call,
    and what they release may be in use, or locked.
    """
    if _calling.is_set():
        os._exit(128 + signal_number)
    sys.exit(128 + signal_number)


def _end_in_peace() -> None:
    """Called as the first finalizer: the pool closes its pipes, which ends idle workers, and sends the signal, too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _widen_pipes() -> None:
    """Have pictures go through the pool's pipes in a few large pieces: at the usual 64 KiB, each is two wake-ups."""
    server = multiprocessing.parent_process()
    not_the_pools = {0, 1, 2, server.sentinel if server else None}
    for path in Path("/proc/self/fd").glob("*"):  # elsewhere there is no such folder
        with contextlib.suppress(OSError):  # it is closed again, or this user may have no more
            if path.is_fifo() and int(path.name) not in not_the_pools:
                fcntl.fcntl(int(path.name), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _keep_freed_memory() -> None:
    """Have glibc use freed memory for the next picture, not give it back: to get it anew takes 2,500 page faults."""
    with contextlib.suppress(AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # what is larger is given back all the same
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024**2)


def _die_with_the_server() -> None:
    """Have the kernel kill this process when the server ends, however that ends and whatever this process does then.

    An idle worker sees by itself that nobody sends work any more, but one that hangs in native code doesn't, and keeps
    the fork server alive, too. Each worker holds a pipe that only the server can write to: at its end comes a signal.
    """
    server = multiprocessing.parent_process()
    if sys.platform == "linux" and server is not None:
        pipe = server.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([pipe], [], [], 0)[0]:  # it has ended already
            os._exit(1)
