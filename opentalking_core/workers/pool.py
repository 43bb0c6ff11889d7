"""Worker processes for native code that is fed with strangers' pictures: a crash or a hang costs one call."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pebble

from ..errors import Overloaded

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

#: A process that begins no call for so many seconds is lost: it was stopped, for one. To start takes a second or two.
_SECONDS_TO_START = 30.0


class WorkerCrashed(Exception):
    """The process that ran the call died: a crash in native code, or somebody killed it."""


class WorkerPool:
    """Runs functions in worker processes, or in threads of this process; both start with the first calls.

    Each process is a pool of pebble's by itself, and thrown away after any mishap: processes that share pipes and locks
    are all stuck when one is killed while it holds them.

    Args:
        workers: how many processes; 0 for threads, one for each call.
        time_limit: seconds that one call may take. A process is killed and replaced then; a thread can't be, so its
            call goes on unseen.
    """

    def __init__(self, workers: int, time_limit: float) -> None:
        self.in_threads = workers == 0
        self.workers = workers
        self._time_limit = time_limit
        self._places = asyncio.Semaphore(workers)
        self._processes: set[pebble.ProcessPool] = set()
        self._idle: list[pebble.ProcessPool] = []
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function with picklable arguments, off the event loop.

        Raises:
            WorkerCrashed: its process died.
            TimeoutError: it ran out of time.
            Overloaded: no process could be had.
            Exception: whatever the function raised.
        """
        if self.in_threads:
            return await self.run_in_thread(function, *args, **kwargs)
        problem: BrokenProcessPool | None = None
        async with self._places:
            for _ in range(2):
                if self._closed:
                    raise Overloaded("the service is ending; try again")
                try:
                    return await self._run_in_process(function, args, kwargs)
                except BrokenProcessPool as error:  # no fault of the call's
                    problem = error
        raise Overloaded(f"worker processes can't be started ({problem}); try again")

    async def _run_in_process(
        self, function: Callable[..., T], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> T:
        """Raises BrokenProcessPool if the process can't be started, or was lost before it began the call."""
        process = self._idle.pop() if self._idle else self._new_process()
        usable = False
        future: Future[T] = Future()
        try:
            task = process, [function, *args], kwargs, self._time_limit
            if process in self._processes:
                future = _schedule(*task)
            else:
                self._processes.add(process)
                future = await asyncio.to_thread(_schedule, *task)  # it is started, which takes tens of milliseconds
            result = await asyncio.wait_for(asyncio.wrap_future(future), self._time_limit + _SECONDS_TO_START)
            usable = True
            return result
        except pebble.ProcessExpired as error:
            raise WorkerCrashed(f"its worker process died with exit code {error.exitcode}") from None
        except TimeoutError:
            if not future.done() or future.cancelled():
                raise BrokenProcessPool("it doesn't begin") from None
            raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None
        except BrokenProcessPool:
            raise
        except Exception:  # the function's own
            usable = True
            raise
        finally:
            if usable:
                self._idle.append(process)
            else:
                self._discard(process)

    async def run_twice(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but once more if the worker died: somebody may have killed it."""
        try:
            return await self.run(function, *args, **kwargs)
        except WorkerCrashed:
            return await self.run(function, *args, **kwargs)

    def _new_process(self) -> pebble.ProcessPool:
        # A fork of a process with threads can inherit locked locks; a fork server has none, and starts in half the
        # time of a fresh interpreter.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        return pebble.ProcessPool(1, CALLS_PER_WORKER, initializer=_start_worker, context=context)

    def _discard(self, process: pebble.ProcessPool) -> None:
        """End it in a thread: with a broken pipe that may take for ever."""
        self._processes.discard(process)
        process.stop()  # type: ignore[no-untyped-call]
        threading.Thread(target=process.join, name="broken-worker", daemon=True).start()

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
        self._closed = True
        await asyncio.gather(*(asyncio.to_thread(_finish, process, self._time_limit) for process in self._processes))


def _schedule(
    process: pebble.ProcessPool, call: list[Any], kwargs: Mapping[str, object], time_limit: float
) -> Future[Any]:
    try:
        return process.schedule(_call, call, kwargs, time_limit)
    except (RuntimeError, OSError) as error:  # it was killed, as by a system that is out of memory, or can't be started
        raise BrokenProcessPool(str(error)) from error


def _finish(process: pebble.ProcessPool, seconds: float) -> None:
    process.close()  # type: ignore[no-untyped-call]
    try:
        process.join(seconds)
    except TimeoutError:
        process.stop()  # type: ignore[no-untyped-call]
        process.join()


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
    """The pool ends this process: at once if it runs a call; else its pipes are closed already, which it will notice.

    Its finalizers, plugins' `shutdown` among them, are for the latter: here they would run on top of the call, and what
    they release may be in use, or locked.
    """
    if _calling.is_set():
        os._exit(128 + signal_number)


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
