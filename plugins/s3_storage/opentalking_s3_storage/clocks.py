"""The clocks that claims and sweeps go by. Tests replace them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True, slots=True)
class Clocks:
    """The ways to tell time and to wait.

    Args:
        monotonic: seconds by a clock that never goes back, for durations within this process.
        wall: seconds since the epoch, for comparisons with the server's times.
        sleep: waits for a number of seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
