"""UploadSlots: how many uploads the service takes in at the same time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Gauge


class UploadSlots:
    """A bounded number of uploads at the same time; more are refused instead of queued.

    Args:
        limit: the number of uploads.
        running: shows how many uploads hold a slot.
    """

    def __init__(self, limit: int, running: Gauge) -> None:
        self._limit = limit
        self._taken = 0
        self._running = running

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Hold a slot for an upload. Raise Overloaded if all are taken."""
        if self._taken >= self._limit:
            raise Overloaded(f"{self._taken} uploads are being worked on already; try again", retry_after=2)
        self._taken += 1
        self._running.inc()
        try:
            yield
        finally:
            self._taken -= 1
            self._running.dec()
