"""What a worker process does to itself: limits on memory and priority, signals, and one call at a time."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, TypeVar

try:
    import fcntl
    import resource
except ImportError:  # Windows, where workers have no memory limit and can outlive the server
    fcntl = resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

T = TypeVar("T")

#: Memory that a worker may allocate. The worst accepted picture (64 megapixels, with transparency) takes 1.6 GB. A call
#: that needs more fails, and its worker is replaced.
MAX_WORKER_MEMORY_BYTES = 4 * 1024**3

#: Added to a worker's niceness, so that the server's requests preempt work on pictures.
WORKER_NICENESS = 5

_EXIT_OUT_OF_MEMORY = 77

#: Options of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

#: Whether a call is running in this worker process.
_is_calling = threading.Event()


def prepare_process() -> None:
    """Set this new worker process up, before its first call."""
    _die_with_the_server()
    signal.signal(signal.SIGTERM, _end)
    _keep_freed_memory()
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = MAX_WORKER_MEMORY_BYTES
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    if hasattr(os, "nice"):
        os.nice(WORKER_NICENESS)


def run_call(function: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Run one call in the worker process.

    If the call runs out of memory, exit, so that the next call gets a fresh process.
    """
    _is_calling.set()
    try:
        return function(*args, **kwargs)
    except MemoryError:
        os._exit(_EXIT_OUT_OF_MEMORY)
    finally:
        _is_calling.clear()


def _end(signal_number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM from the pool.

    During a call, exit at once: finalizers, plugins' `shutdown` among them, could touch state that the call uses or has
    locked. When idle, do nothing: the pool has closed the pipes of this process, which then exits normally and runs its
    finalizers.
    """
    if _is_calling.is_set():
        os._exit(128 + signal_number)


def _keep_freed_memory() -> None:
    """Have glibc use freed memory for the next picture, instead of returning it to the system.

    Without this call an upload of 790x1166 pixels takes 16 % more time (64 uploads, in turn with and without).
    """
    with contextlib.suppress(AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # larger blocks are returned all the same
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024**2)


def _die_with_the_server() -> None:
    """Have the kernel kill this process when the server ends, however the server ends.

    An idle worker notices that its pipes are closed. A worker that hangs in native code doesn't, and keeps the fork
    server alive, too. Each worker holds the reading end of a pipe that only the server can write to; have the kernel
    send SIGKILL when the writing end closes.
    """
    server = multiprocessing.parent_process()
    if sys.platform == "linux" and server is not None:
        pipe = server.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([pipe], [], [], 0)[0]:  # the server has ended already
            os._exit(1)
