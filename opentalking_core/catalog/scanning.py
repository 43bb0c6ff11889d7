"""A catalog that scans its bundle store, and keeps what it finds in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from ..bundles.reading import read_stored_manifest
from ..bundles.store import ChangeStamp
from ..bundles.store_helpers import concurrently
from ..errors import InvalidManifest, NotFound, StoreUnavailable
from . import CatalogStatus
from .change_watch import ChangeWatch
from .event_log import EventLog
from .index import Entry, Index, change_between, make_listing, make_page

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from contextlib import AbstractContextManager

    from ..bundles.manifest import AvatarManifest
    from ..bundles.store import BundleStore, BundleVersion
    from ..metrics import Metrics
    from . import Listing, ListingPage, ListingQuery

log = logging.getLogger(__name__)

MAX_CONCURRENT_READS = 32

#: Longest time a request waits for a refresh. After that it gets the last known list: a large folder can take longer.
REFRESH_WAIT_SECONDS = 2.0

#: Listing the bundles may take this share of the time: with 100,000 bundles in a folder, scans are seconds apart.
MAX_SCAN_SHARE = 0.2

#: Without a change stamp only scans show what other processes do, and scans over a network are mostly waiting.
MAX_SCAN_SHARE_WITHOUT_STAMP = 0.5


class ScanningCatalog:
    """Keeps the summaries of all bundles that can be read and are not hidden, and the encoded list of them.

    Each request asks a store that has a `change_stamp` for it, so that added and removed bundles are seen at once. All
    other changes (edited manifests, stores without a stamp) show after the next periodic scan. A scan reads only
    manifests whose version has changed. While the store can't be reached, or none of its manifests can be read, the
    last known list is served.

    Args:
        store: where the bundles are; entered before `start`.
        refresh_seconds: pause between two periodic scans; longer where listing the bundles takes long.
        metrics: where scans are counted.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        store: BundleStore,
        refresh_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        has_stamp = isinstance(store, ChangeStamp)
        self._max_scan_share = MAX_SCAN_SHARE if has_stamp else MAX_SCAN_SHARE_WITHOUT_STAMP
        self._change_stamp: Callable[[], Hashable] = (
            store.change_stamp if isinstance(store, ChangeStamp) else lambda: None
        )
        self._watch = ChangeWatch(self._change_stamp, clock)
        self._index = Index()
        self.events = EventLog()
        self._listing: Listing | None = None  # None: to be built
        self._building = asyncio.Lock()
        self._modified = time.time()
        self._refreshing = asyncio.Lock()
        self._refresh_started = float("-inf")
        self._store_seconds = 0.0  # how long the last scan took to list the bundles; with the reads, if any failed
        self._changed_during_scan: set[str] = set()  # ids created, changed or deleted here since the last scan began
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_complete = False
        self._last_error: str | None = None

    def start(self) -> None:
        """Start the periodic scans."""
        self._start_task(self._scan_periodically())

    async def stop(self) -> None:
        """Stop all scans, and wait for their end."""
        tasks = list(self._tasks)
        self.events.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> CatalogStatus:
        """Return how much the catalog knows."""
        return CatalogStatus(len(self._index), self._last_error, self._is_complete)

    async def listing(self) -> Listing:
        """Return the whole list. Raises StoreUnavailable if the store could never be read."""
        if self._watch.needs_scan():
            await self._freshen()
        return self._listing or await self._build()

    def current(self) -> Listing | None:
        """Return what `listing` would return, or None if `listing` would have to wait."""
        return None if self._watch.needs_scan() else self._listing

    async def page(self, query: ListingQuery) -> ListingPage:
        """Return a part of the list. Raises StoreUnavailable if the store could never be read."""
        if self._watch.needs_scan():
            await self._freshen()
        # In a thread, because searching 100,000 names takes tens of milliseconds.
        return await asyncio.to_thread(make_page, self._index.snapshot(), query, self._modified)

    def change_stamp(self) -> Hashable:
        """Return the store's change stamp; always None if the store has none."""
        return self._change_stamp()

    def local_change(self) -> AbstractContextManager[None]:
        """Return a context manager to enter while this process changes the store; see `ChangeWatch`."""
        return self._watch.local_change()

    def created(self, avatar_id: str, manifest: AvatarManifest) -> None:
        """Record that this process has created a bundle: the next request lists it."""
        self._changed_during_scan.add(avatar_id)
        self._set(avatar_id, Entry.of(avatar_id, manifest))

    def changed(self, avatar_id: str, manifest: AvatarManifest, etag: str) -> None:
        """Record that this process has replaced a bundle's manifest: the next request lists it."""
        self._changed_during_scan.add(avatar_id)
        self._set(avatar_id, Entry.of(avatar_id, manifest, etag=etag))

    def deleted(self, avatar_id: str) -> None:
        """Record that this process has deleted a bundle: the next request does not list it."""
        self._changed_during_scan.add(avatar_id)
        self._set(avatar_id, None)

    async def refresh(self) -> None:
        """Scan the store now, or wait for the end of a scan that another task has begun since this call."""
        await self._refresh_after(self._clock())

    def _start_task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _scan_periodically(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(max(self._refresh_seconds, self._store_seconds / self._max_scan_share))

    async def _freshen(self) -> None:
        """Wait for a scan that begins now, but for no longer than REFRESH_WAIT_SECONDS."""
        task = self._start_task(self._refresh_after(self._clock()))
        await asyncio.wait([task], timeout=REFRESH_WAIT_SECONDS)
        if self._last_error and not self._is_complete:
            raise StoreUnavailable(self._last_error)
        if not self._is_complete and not len(self._index):
            raise StoreUnavailable("the avatars are being read for the first time; try again", retry_after=1)

    async def _refresh_after(self, asked: float) -> None:
        """Scan, unless another task has finished a scan that began after `asked`."""
        async with self._refreshing:
            if self._refresh_started > asked:
                return
            self._refresh_started = self._clock()
            try:
                with self._metrics.store_operation("scan"):
                    await self._scan()
            except Exception as error:  # a bug of the store must not end the periodic scans
                if self._last_error is None:
                    message = "%s can't be scanned; the last known list is served: %s"
                    log.warning(message, self._store.url, error, exc_info=not isinstance(error, StoreUnavailable))
                known = isinstance(error, StoreUnavailable)
                self._last_error = str(error) if known else f"the store has a bug: {error!r}"
            else:
                if self._last_error is not None:
                    log.warning("%s can be scanned again", self._store.url)
                self._last_error = None
                if not self._is_complete:
                    self._is_complete = True
                    self.events.restart()  # avatars that were found meanwhile were not told

    async def _scan(self) -> None:
        """Bring the index up to date. Raises what the store raises, and StoreUnavailable if no manifest can be read."""
        scan = self._watch.begin_scan()
        self._changed_during_scan.clear()
        found, changed = await self._list_bundles()
        gone = self._index.ids() - found
        self._index.expect_changes(len(changed) + len(gone))
        for avatar_id in gone - self._changed_during_scan:
            self._set(avatar_id, None)
        failures: list[Exception] = []

        async def update(bundle: BundleVersion) -> None:
            entry = await self._read(bundle, failures)
            if bundle.avatar_id not in self._changed_during_scan:  # otherwise the scan may have read it before that
                self._set(bundle.avatar_id, entry)

        await concurrently(changed, update, MAX_CONCURRENT_READS)
        if failures:  # the next scan reads these manifests again, and a store in trouble needs the pause
            self._store_seconds = self._clock() - self._refresh_started
        # If one manifest can't be read, that avatar is broken. If none can be read, the store is.
        if failures and len(failures) == len(found):
            first = failures[0]
            reason = str(first) if isinstance(first, StoreUnavailable) else repr(first)
            raise StoreUnavailable(f"not one of the manifests ({len(found)}) can be read: {reason}")
        self._watch.end_scan(scan)

    async def _list_bundles(self) -> tuple[set[str], list[BundleVersion]]:
        """Return the ids of all bundles in the store, and those whose manifest has to be read."""
        found, changed = set(), []
        started = self._clock()
        try:
            async for bundle in self._store.scan():
                found.add(bundle.avatar_id)
                entry = self._index.get(bundle.avatar_id)
                if entry is None or entry.version != bundle.version:
                    changed.append(bundle)
        finally:
            self._store_seconds = self._clock() - started
        return found, changed

    async def _read(self, bundle: BundleVersion, failures: list[Exception]) -> Entry | None:
        """Return what is known of a bundle after reading its manifest, or None if the bundle is gone.

        Appends the exception to `failures` if the store, not the manifest, is at fault.
        """
        avatar_id = bundle.avatar_id
        try:
            stored = await read_stored_manifest(self._store, avatar_id)
            return Entry.of(avatar_id, stored.manifest, bundle.version, stored.etag)
        except NotFound:  # deleted since the bundles were listed
            return None
        except InvalidManifest as error:
            before = self._index.get(avatar_id)
            if before is None or before.problem != str(error):  # a store may report a new version at each scan
                log.warning("avatar %r is left out of the list: %s", avatar_id, error)
            return Entry(bundle.version, None, problem=str(error))
        except Exception as error:  # a bug of the store, too: keep what is known, and let the next scan try again
            failures.append(error)
            before = self._index.get(avatar_id) or Entry(None, None)
            if not before.problem:
                message = "the manifest of avatar %r can't be read now: %s"
                log.warning(message, avatar_id, error, exc_info=not isinstance(error, StoreUnavailable))
            return dataclasses.replace(before, problem=repr(error))

    def _set(self, avatar_id: str, entry: Entry | None) -> None:
        """Replace what is known of a bundle; None means that the bundle is gone."""
        revision = self._index.revision
        change = change_between(self._index.get(avatar_id), entry)
        if change is not None and self._is_complete:
            self.events.add(change, avatar_id, entry.etag if entry else None)
        if entry is None:
            self._index.remove(avatar_id)
        else:
            self._index.put(avatar_id, entry)
        if self._index.revision != revision:
            self._listing = None
            self._modified = time.time()

    async def _build(self) -> Listing:
        async with self._building:
            if self._listing is not None:  # another request has built it meanwhile
                return self._listing
            revision = self._index.revision
            listing = await asyncio.to_thread(make_listing, self._index.snapshot(), self._modified)
            if self._index.revision == revision:
                self._listing = listing
            return listing
