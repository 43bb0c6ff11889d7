"""ThreadRunner: calls in threads of the server, where worker processes aren't wanted or can't load a plugin."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class ThreadRunner:
    """Runs each call in a thread of its own, so that a call that hangs delays neither other calls nor the server's end.

    Args:
        time_limit: seconds that the caller waits. A thread can't be killed, so a call that takes longer continues.
    """

    def __init__(self, time_limit: float) -> None:
        self.parallelism = os.cpu_count() or 1
        self._time_limit = time_limit

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a new thread.

        Raises:
            TimeoutError: the call ran out of time.
            Exception: the function raised it.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def call() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # raised again where the caller waits
                future.set_exception(error)

        threading.Thread(target=call, name="portrait", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._time_limit)
        except TimeoutError:
            raise TimeoutError(f"it took longer than {self._time_limit:g} s") from None

    async def close(self) -> None:
        """Return at once: the threads are daemons and keep no process alive."""
