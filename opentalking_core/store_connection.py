"""StoreConnection: enters a bundle store when it is first needed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from .errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .bundles.store import BundleStore


class StoreConnection:
    """Enters a store once, and exits it. After a failure, the next call tries again.

    Args:
        store: the store.
        on_connect: called when the store has been entered.
    """

    def __init__(self, store: BundleStore, on_connect: Callable[[], None]) -> None:
        self._store = store
        self._on_connect = on_connect
        self._connecting = asyncio.Lock()
        self._failed_at = 0.0  # monotonic
        self._failure = StoreUnavailable("")
        self.is_open = False

    async def open(self) -> None:
        """Enter the store, unless it has been entered. Raise StoreUnavailable if that fails.

        Calls that waited for an attempt share its failure. Otherwise they would try again one after another.
        """
        if self.is_open:
            return
        asked_at = time.monotonic()
        async with self._connecting:
            if self.is_open:
                return
            if self._failed_at > asked_at:
                raise StoreUnavailable(str(self._failure), retry_after=self._failure.retry_after)
            try:
                await self._store.__aenter__()
            except StoreUnavailable as error:
                self._failed_at, self._failure = time.monotonic(), error
                raise
            self.is_open = True
            self._on_connect()

    async def close(self) -> None:
        """Exit the store, if it has been entered."""
        if self.is_open:
            await self._store.__aexit__(None, None, None)
