"""Runner: what runs a portrait's work off the event loop, in processes or in threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class WorkerCrashed(Exception):
    """The process that ran the call died: native code crashed, or the process was killed."""


class Runner(Protocol):
    """Runs functions off the event loop, each call within a time limit.

    Args:
        parallelism: how many calls can compute at the same time.
    """

    parallelism: int

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function, with picklable arguments unless the runner is known to use threads.

        Raises:
            WorkerCrashed: the process that ran the call died.
            TimeoutError: the call ran out of time.
            WorkersUnavailable: no process could begin the call.
            Exception: the function raised it.
        """

    async def close(self) -> None:
        """Let running calls finish within the time limit, and refuse new ones."""


async def run_with_retry(runner: Runner, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `runner.run`, and call it again if the process dies, because something else may have killed the process."""
    try:
        return await runner.run(function, *args, **kwargs)
    except WorkerCrashed:
        return await runner.run(function, *args, **kwargs)
