"""The scanning catalog without HTTP, with a clock that the store moves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from opentalking_core import StoreUnavailable
from opentalking_core.catalog.scanning import ScanningCatalog
from opentalking_core.metrics import Metrics

from .helpers.stores import StampedStore, WatchedStore

if TYPE_CHECKING:
    from collections.abc import Callable


def catalog_over(store: WatchedStore, clock: Callable[[], float]) -> ScanningCatalog:
    return ScanningCatalog(store, 0.01, Metrics(), clock)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, for at most 20 seconds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - stores and catalogs have no events for this
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("store_type", [StampedStore, WatchedStore], ids=["stamp", "no stamp"])
def test_pause_between_scans_does_not_count_the_reading_of_manifests(store_type: type[WatchedStore]) -> None:
    store = store_type()
    store.put("anna")

    async def scan_twice() -> None:
        # The clock jumps 1,000 s when a manifest is opened.
        catalog = catalog_over(store, lambda: time.monotonic() + 1000 * len(store.opened))
        catalog.start()
        try:
            await until(lambda: store.scans > 1)
        finally:
            await catalog.stop()

    asyncio.run(scan_twice())
    assert store.opened == ["anna/manifest.json"]


async def scan_until_complete(store: WatchedStore, clock: Callable[[], float]) -> None:
    """Scan periodically until the list is complete, and for a moment longer."""
    catalog = catalog_over(store, clock)
    catalog.start()
    try:
        await until(lambda: catalog.status().is_complete)
        await asyncio.sleep(0.1)
    finally:
        await catalog.stop()


def test_pause_between_scans_grows_with_the_time_to_list_the_bundles() -> None:
    store = WatchedStore()
    # The clock jumps 1,000 s when a scan begins, so the next scan is due 2,000 s later.
    asyncio.run(scan_until_complete(store, lambda: time.monotonic() + 1000 * store.scans))
    assert store.scans == 1


def test_pause_between_scans_counts_reads_that_fail() -> None:
    store = WatchedStore()
    store.put("anna", "ben")
    store.broken["open anna/manifest.json"] = StoreUnavailable("the server is down")
    # The clock jumps 1,000 s when a manifest is opened, so the next scan is due 2,000 s later.
    asyncio.run(scan_until_complete(store, lambda: time.monotonic() + 1000 * len(store.opened)))
    assert store.scans == 1
