"""The avatars in the order of their ids, and the lists and pages made of them. No waiting, no clock, no store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from . import Listing, ListingPage, ListingQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, KeysView, Sequence

    from ..bundles.manifest import AvatarManifest, AvatarSummary
    from .event_log import EventKind

#: Above this number of changes, sorting all ids is cheaper than inserting each id in its place.
MAX_SINGLE_CHANGES = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one bundle.

    Args:
        version: the bundle's version when its manifest was read; None if no scan has read it yet.
        summary: None if the avatar is hidden or its manifest can't be read.
        encoded: the summary as JSON; empty if there is none.
        problem: why the manifest could not be read; empty if it could.
        etag: the manifest's entity tag; None if it is not known yet.
    """

    version: str | None
    summary: AvatarSummary | None
    encoded: bytes = b""
    problem: str = ""
    etag: str | None = None

    @classmethod
    def of(cls, avatar_id: str, manifest: AvatarManifest, version: str | None = None, etag: str | None = None) -> Entry:
        """Return the entry of a bundle with this manifest."""
        if manifest.is_hidden:
            return cls(version, None, etag=etag)
        summary = manifest.summary(avatar_id)
        text = json.dumps(dataclasses.asdict(summary), ensure_ascii=False, separators=(",", ":"))
        return cls(version, summary, text.encode(), etag=etag)


def change_between(before: Entry | None, after: Entry | None) -> EventKind | None:
    """Return what a listener of the list is told when what is known of a bundle changes; None if nothing.

    Args:
        before: what was known; None if nothing.
        after: what is known now; None if the bundle is gone.
    """
    was_listed = before is not None and before.summary is not None
    is_listed = after is not None and after.summary is not None
    if before is None or after is None or not (was_listed and is_listed):
        return "created" if is_listed else "deleted" if was_listed else None
    has_other_etag = None not in (before.etag, after.etag) and before.etag != after.etag
    return "changed" if has_other_etag or before.encoded != after.encoded else None


_ID = attrgetter("summary.id")  # of an entry


class Index:
    """All known bundles by id. Those with a summary are listed."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._listed_ids: list[str] | None = []  # sorted; None: to be sorted
        self._snapshot: list[Entry] | None = None  # None: to be built
        self._listed = 0
        #: Grows whenever the encoded list changes.
        self.revision = 0

    def __len__(self) -> int:
        """Return the number of listed avatars."""
        return self._listed

    def ids(self) -> KeysView[str]:
        """Return the ids of all known bundles, listed or not."""
        return self._entries.keys()

    def get(self, avatar_id: str) -> Entry | None:
        """Return what is known of a bundle, or None if the bundle is unknown."""
        return self._entries.get(avatar_id)

    def expect_changes(self, count: int) -> None:
        """Prepare for this number of calls of `put` and `remove`: many changes are sorted once, at their end."""
        if count > MAX_SINGLE_CHANGES:
            self._listed_ids = None

    def put(self, avatar_id: str, entry: Entry) -> None:
        """Add or replace a bundle."""
        before = self._entries.get(avatar_id)
        self._entries[avatar_id] = entry
        self._note_change(avatar_id, before, entry)

    def remove(self, avatar_id: str) -> None:
        """Remove a bundle, if it is known."""
        self._note_change(avatar_id, self._entries.pop(avatar_id, None), None)

    def snapshot(self) -> Sequence[Entry]:
        """Return the listed entries, sorted by id. Later changes make a new sequence, so threads may read this one."""
        if self._snapshot is None:
            if self._listed_ids is None:
                self._listed_ids = sorted(avatar_id for avatar_id, entry in self._entries.items() if entry.summary)
            self._snapshot = list(map(self._entries.__getitem__, self._listed_ids))
        return self._snapshot

    def _note_change(self, avatar_id: str, before: Entry | None, after: Entry | None) -> None:
        was_listed = before is not None and before.summary is not None
        is_listed = after is not None and after.summary is not None
        self._snapshot = None
        self._listed += is_listed - was_listed
        if self._listed_ids is not None and is_listed != was_listed:
            if is_listed:
                insort(self._listed_ids, avatar_id)
            else:
                del self._listed_ids[bisect_left(self._listed_ids, avatar_id)]
        if (before.encoded if before else b"") != (after.encoded if after else b""):
            self.revision += 1


def make_listing(snapshot: Sequence[Entry], modified: float) -> Listing:
    """Return the whole list, encoded; `modified` is the time of its last change."""
    return _encode((entry.encoded for entry in snapshot), modified)


def make_page(snapshot: Sequence[Entry], query: ListingQuery, modified: float) -> ListingPage:
    """Return the part of the list that the query asks for."""
    matching = snapshot
    if query != ListingQuery(query.limit, query.cursor):
        search = query.search.casefold()
        matching = [
            entry
            for entry in snapshot
            if (summary := entry.summary)
            and (query.model_type is None or summary.model_type == query.model_type)
            and (query.is_custom is None or summary.is_custom == query.is_custom)
            and (not search or search in summary.name.casefold() or search in summary.id.casefold())
        ]
    start = bisect_right(matching, query.cursor, key=_ID)
    stop = len(matching) if query.limit is None else start + query.limit
    next_cursor = _ID(matching[stop - 1]) if stop < len(matching) else None
    # After a 304 a cache keeps the headers that it has, so the tag covers the values of these headers, too.
    headers = f"{len(matching)} {next_cursor or ''}"
    listing = _encode((entry.encoded for entry in matching[start:stop]), modified, headers)
    return ListingPage(listing, len(matching), next_cursor)


def _encode(parts: Iterable[bytes], modified: float, headers: str = "") -> Listing:
    body = b"[" + b",".join(parts) + b"]"
    tag = hashlib.blake2b(body, digest_size=16)
    tag.update(headers.encode())
    return Listing(body, tag.hexdigest(), modified)
