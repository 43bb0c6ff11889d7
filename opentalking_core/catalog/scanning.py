"""The in-process index of avatar summaries over one bundle store, and the encoded list that GET /avatars answers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from ..bundles.reading import read_manifest
from ..bundles.store import ChangeStamp
from ..errors import InvalidManifest, NotFound, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from ..bundles.manifest import AvatarManifest, AvatarSummary
    from ..bundles.store import BundleStore
    from ..metrics import Metrics

log = logging.getLogger(__name__)

#: Manifests read at the same time.
_READS = 32

#: Seconds that a request waits for the store; then it gets what is known, for a large folder takes longer to read.
_PATIENCE = 2.0

#: Scans may take this part of the time: of 100,000 bundles in a folder they are seconds apart.
_SCAN_SHARE = 0.2

#: Scans over a network are mostly waiting, and where there is no change stamp they alone tell of changes.
_SCAN_SHARE_WITHOUT_STAMP = 0.5

#: For so many seconds after an own change the store's stamp isn't asked for; it may tell each time for 0.05 s.
_UNASKED = 0.1

#: From so many changes on, sorting all ids is cheaper than putting each in its place.
_FEW = 256


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Listing:
    """The encoded list of avatars.

    Args:
        body: JSON, UTF-8.
        etag: differs whenever the body does, and is the same in every process; ASCII without quotes.
        modified: seconds since the epoch when this process saw the last change.
    """

    body: bytes
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """Which part of the list.

    Args:
        limit: at most so many avatars, if given.
        cursor: only those whose id sorts after it.
        model_type: only those of this type, if given.
        is_custom: only custom (or only built-in) ones, if given.
        search: only those whose name or id contains it, in any case.
    """

    limit: int | None = None
    cursor: str = ""
    model_type: str | None = None
    is_custom: bool | None = None
    search: str = ""


@dataclass(frozen=True, slots=True)
class ListingPage:
    """A part of the list.

    Args:
        listing: the avatars of this page.
        total: how many there are on all pages.
        next_cursor: what the next page's query says as `cursor`; None on the last page.
    """

    listing: Listing
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Entry:
    version: str | None  # None: no scan has read it yet
    summary: AvatarSummary | None  # None: hidden, or its manifest can't be read
    encoded: bytes = b""
    problem: str = ""  # why its manifest could not be read


_ID = attrgetter("summary.id")  # of an entry


class AvatarCatalog:
    """Keeps the summaries of all bundles that can be read and are not hidden, and the list of them encoded.

    A store that has a `change_stamp` is asked for it by each request, so that added and removed bundles are seen at
    once; all else (edited manifests, other stores) shows after the next periodic scan. A scan reads only manifests
    whose version has changed. While the store can't be reached, or not one manifest can be read, the last known list is
    served.

    Args:
        store: where the bundles are; entered before `start`.
        refresh_seconds: from one periodic scan to the next, or longer where scans take long.
        metrics: where scans are counted.
    """

    def __init__(self, store: BundleStore, refresh_seconds: float, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._refresh_seconds = refresh_seconds
        self._scan_share = _SCAN_SHARE if isinstance(store, ChangeStamp) else _SCAN_SHARE_WITHOUT_STAMP
        self._change_stamp: Callable[[], Hashable] = (
            store.change_stamp if isinstance(store, ChangeStamp) else lambda: None
        )
        self._entries: dict[str, _Entry] = {}
        self._order: list[str] | None = []  # the listed ids, sorted; None: to be sorted
        self._listed: list[_Entry] | None = None  # in that order; None: to be built
        self._listing: Listing | None = None  # None: to be built
        self._edits = 0
        self._building = asyncio.Lock()
        self._modified = time.time()
        self._refreshing = asyncio.Lock()
        self._refresh_started = 0.0  # monotonic, as all times but `_modified`
        self._refresh_took = 0.0
        self._seen: Hashable = object()  # the store's stamp when the last refresh started
        self._own_changing = 0  # creations and deletions that are going on here
        self._unasked_until = 0.0
        self._others_changed_at = 0.0  # when it was last seen, before own changes, that others had changed the store
        self._scanned_at = 0.0  # when the last scan that succeeded began
        self._own_changes: set[str] = set()  # created or deleted here since the last scan began, which may not know it
        self._periodic: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        #: a scan has succeeded: but for broken ones, every bundle has been read once
        self.is_complete = False
        #: why the last scan failed; None if it didn't
        self.problem: str | None = None

    def start(self) -> None:
        """Begin the periodic scans."""
        self._periodic = asyncio.create_task(self._scan_periodically())

    async def stop(self) -> None:
        """End them."""
        tasks = [*self._background, *([self._periodic] if self._periodic else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        """How many avatars are listed."""
        return sum(entry.summary is not None for entry in self._entries.values())

    async def listing(self) -> Listing:
        """The whole list. Raises StoreUnavailable if the store could never be read."""
        if self._may_have_changed():
            await self._freshen()
        return self._listing or await self._build()

    def current(self) -> Listing | None:
        """What `listing` would return, if that can be told without waiting."""
        return None if self._may_have_changed() else self._listing

    async def page(self, query: ListingQuery) -> ListingPage:
        """A part of the list. Raises StoreUnavailable if the store could never be read."""
        if self._may_have_changed():
            await self._freshen()
        # In a thread, because looking through 100,000 names takes tens of milliseconds.
        return await asyncio.to_thread(_page, self._in_order(), query, self._modified)

    def stamp(self) -> Hashable:
        """Differs after bundles were added or removed, if the store can tell in microseconds; else always None."""
        return self._change_stamp()

    @contextlib.contextmanager
    def own_change(self) -> Iterator[None]:
        """While this process creates or deletes a bundle, and a moment longer, requests don't ask for the stamp.

        It would differ because of this very change, which `note_created` and `note_deleted` tell of; under constant
        uploads every request would wait for a scan. What others change meanwhile shows after the next periodic one.
        """
        if not self._is_own_time() and self._change_stamp() != self._seen:
            self._others_changed_at = time.monotonic()
        self._own_changing += 1
        try:
            yield
        finally:
            self._own_changing -= 1
            self._unasked_until = time.monotonic() + _UNASKED

    def note_created(self, avatar_id: str, manifest: AvatarManifest) -> None:
        """This process has created a bundle: the next request lists it."""
        self._own_changes.add(avatar_id)
        self._set(avatar_id, _entry(None, manifest, avatar_id))

    def note_deleted(self, avatar_id: str) -> None:
        """This process has deleted a bundle: the next request doesn't list it."""
        self._own_changes.add(avatar_id)
        self._set(avatar_id, None)

    def _may_have_changed(self) -> bool:
        if self._is_own_time():
            return self._others_changed_at > self._scanned_at or not self.is_complete
        return self._change_stamp() != self._seen

    def _is_own_time(self) -> bool:
        return self._own_changing > 0 or time.monotonic() < self._unasked_until

    async def _scan_periodically(self) -> None:
        while True:
            await self._refresh_after(time.monotonic())
            await asyncio.sleep(max(self._refresh_seconds, self._refresh_took / self._scan_share))

    async def _freshen(self) -> None:
        """Have the list fresh, or as fresh as can be had without much waiting."""
        task = asyncio.create_task(self._refresh_after(time.monotonic()))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        await asyncio.wait([task], timeout=_PATIENCE)
        if self.problem and not self.is_complete:
            raise StoreUnavailable(self.problem)
        if not self.is_complete and not any(entry.summary for entry in self._entries.values()):
            raise StoreUnavailable("the avatars are being read for the first time; try again", retry_after=1)

    async def _refresh_after(self, asked: float) -> None:
        """Scan, unless a scan that began after `asked` has been finished by another task."""
        async with self._refreshing:
            if self._refresh_started > asked:
                return
            self._refresh_started = time.monotonic()
            try:
                with self._metrics.store_operation("scan"):
                    await self._refresh()
            except Exception as error:  # a store's bug must not end the scans either
                if self.problem is None:
                    message = "%s can't be scanned; the last known list is served: %s"
                    log.warning(message, self._store.url, error, exc_info=not isinstance(error, StoreUnavailable))
                self.problem = str(error) if isinstance(error, StoreUnavailable) else f"the store has a bug: {error!r}"
            else:
                if self.problem is not None:
                    log.warning("%s can be scanned again", self._store.url)
                self.problem = None
                self.is_complete = True
            self._refresh_took = time.monotonic() - self._refresh_started

    async def _refresh(self) -> None:
        started, stamp = self._refresh_started, self.stamp()
        self._own_changes.clear()
        found = set()
        changed = []
        async for bundle in self._store.scan():
            found.add(bundle.avatar_id)
            entry = self._entries.get(bundle.avatar_id)
            if entry is None or entry.version != bundle.version:
                changed.append((bundle.avatar_id, bundle.version))
        gone = self._entries.keys() - found
        if len(changed) + len(gone) > _FEW:
            self._order = None
        for avatar_id in gone:
            if avatar_id not in self._own_changes:
                self._set(avatar_id, None)
        todo = iter(changed)
        failures: list[Exception] = []

        async def read_changed() -> None:
            for avatar_id, version in todo:
                entry = await self._read(avatar_id, version, failures)
                deleted_here = avatar_id in self._own_changes and avatar_id not in self._entries
                if not deleted_here:
                    self._set(avatar_id, entry)

        await asyncio.gather(*(read_changed() for _ in range(_READS)))
        if failures and len(failures) == len(found):  # that of one is its own trouble, that of all the store's
            first = failures[0]
            reason = str(first) if isinstance(first, StoreUnavailable) else repr(first)
            raise StoreUnavailable(f"not one of the manifests ({len(found)}) can be read: {reason}")
        self._seen = stamp
        self._scanned_at = started

    async def _read(self, avatar_id: str, version: str, failures: list[Exception]) -> _Entry | None:
        """What is known of an avatar after reading its manifest; None: it is gone. Adds to `failures` of the store."""
        try:
            return _entry(version, await read_manifest(self._store, avatar_id), avatar_id)
        except NotFound:  # deleted since the scan
            return None
        except InvalidManifest as error:
            before = self._entries.get(avatar_id)
            if before is None or before.problem != str(error):  # a store may give it a new version at each scan
                log.warning("avatar %r is left out of the list: %s", avatar_id, error)
            return _Entry(version, None, problem=str(error))
        except Exception as error:  # a bug of the store, too: what is known of it stays, and the next scan tries again
            failures.append(error)
            before = self._entries.get(avatar_id, _Entry(None, None))
            if not before.problem:
                message = "the manifest of avatar %r can't be read now: %s"
                log.warning(message, avatar_id, error, exc_info=not isinstance(error, StoreUnavailable))
            return dataclasses.replace(before, problem=repr(error))

    def _set(self, avatar_id: str, entry: _Entry | None) -> None:
        """Replace what is known of an avatar; None: it is gone."""
        before = self._entries.get(avatar_id)
        was_listed = before is not None and before.summary is not None
        is_listed = entry is not None and entry.summary is not None
        if entry is None:
            self._entries.pop(avatar_id, None)
        else:
            self._entries[avatar_id] = entry
        self._listed = None
        if self._order is not None and is_listed != was_listed:
            if is_listed:
                insort(self._order, avatar_id)
            else:
                del self._order[bisect_left(self._order, avatar_id)]
        if (before.encoded if before else b"") != (entry.encoded if entry else b""):
            self._listing = None
            self._edits += 1
            self._modified = time.time()

    def _in_order(self) -> list[_Entry]:
        """The listed entries, by id. Threads look through this list, so it is replaced and never changed."""
        if self._listed is None:
            if self._order is None:
                self._order = sorted(avatar_id for avatar_id, entry in self._entries.items() if entry.summary)
            self._listed = list(map(self._entries.__getitem__, self._order))
        return self._listed

    async def _build(self) -> Listing:
        async with self._building:
            if self._listing is not None:  # another request has built it meanwhile
                return self._listing
            parts = [entry.encoded for entry in self._in_order()]
            edits, modified = self._edits, self._modified
            body, etag = await asyncio.to_thread(_encode_list, parts)
            listing = Listing(body, etag, modified)
            if self._edits == edits:
                self._listing = listing
            return listing


def _entry(version: str | None, manifest: AvatarManifest, avatar_id: str) -> _Entry:
    if manifest.is_hidden:
        return _Entry(version, None)
    summary = manifest.summary(avatar_id)
    text = json.dumps(dataclasses.asdict(summary), ensure_ascii=False, separators=(",", ":"))
    return _Entry(version, summary, text.encode())


def _encode_list(parts: Iterable[bytes], headers: str = "") -> tuple[bytes, str]:
    """A list's body, and the entity tag of it and of what its headers say of it."""
    body = b"[" + b",".join(parts) + b"]"
    tag = hashlib.blake2b(body, digest_size=16)
    tag.update(headers.encode())
    return body, tag.hexdigest()


def _page(listed: list[_Entry], query: ListingQuery, modified: float) -> ListingPage:
    matching = listed
    if query != ListingQuery(query.limit, query.cursor):
        search = query.search.casefold()
        matching = [
            entry
            for entry in listed
            if (summary := entry.summary)
            and (query.model_type is None or summary.model_type == query.model_type)
            and (query.is_custom is None or summary.is_custom == query.is_custom)
            and (not search or search in summary.name.casefold() or search in summary.id.casefold())
        ]
    start = bisect_right(matching, query.cursor, key=_ID)
    stop = len(matching) if query.limit is None else start + query.limit
    next_cursor = _ID(matching[stop - 1]) if stop < len(matching) else None
    # A 304 leaves caches with the headers that they have, so the tag is of what those say, too.
    body, etag = _encode_list((entry.encoded for entry in matching[start:stop]), f"{len(matching)} {next_cursor or ''}")
    return ListingPage(Listing(body, etag, modified), len(matching), next_cursor)
