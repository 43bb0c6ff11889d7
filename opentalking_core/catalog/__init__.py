"""Which avatars there are: what the service asks a catalog, and what a catalog answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractContextManager

    from ..bundles.manifest import AvatarManifest
    from .event_log import EventLog


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
        limit: the largest number of avatars on the page; None means no limit.
        cursor: only avatars whose id sorts after the cursor.
        model_type: only avatars of this type, if given.
        is_custom: only custom (or only built-in) avatars, if given.
        search: only avatars whose name or id contains this text, ignoring case.
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
        total: the number of avatars on all pages.
        next_cursor: the `cursor` of the query for the next page; None on the last page.
    """

    listing: Listing
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class CatalogStatus:
    """How much the catalog knows.

    Args:
        avatars: the number of listed avatars.
        last_error: why the last attempt to read the store failed; None if that attempt succeeded.
        is_complete: the store has been read successfully at least once.
    """

    avatars: int
    last_error: str | None
    is_complete: bool


class Catalog(Protocol):
    """The avatars of one bundle store. The store is entered before `start`.

    A process that creates, changes or deletes a bundle does so inside `local_change()`, and then calls `created`,
    `changed` or `deleted`.
    """

    @property
    def events(self) -> EventLog:
        """The latest changes of the list, also those by others."""
        ...

    def start(self) -> None:
        """Start the catalog's background work."""
        ...

    async def stop(self) -> None:
        """Stop the background work, and wait for its end."""
        ...

    async def listing(self) -> Listing:
        """Return the whole list. Raises StoreUnavailable if the store could never be read."""
        ...

    def current(self) -> Listing | None:
        """Return what `listing` would return, or None if `listing` would have to wait. Takes microseconds."""
        ...

    async def page(self, query: ListingQuery) -> ListingPage:
        """Return a part of the list. Raises StoreUnavailable if the store could never be read."""
        ...

    def status(self) -> CatalogStatus:
        """Return how much the catalog knows, without asking the store."""
        ...

    def change_stamp(self) -> Hashable:
        """Return a value that differs after bundles were added or removed; always None if the store can't tell."""
        ...

    def local_change(self) -> AbstractContextManager[None]:
        """Return a context manager to enter while this process creates, changes or deletes a bundle."""
        ...

    def created(self, avatar_id: str, manifest: AvatarManifest) -> None:
        """Record that this process has created a bundle: the next request lists it."""
        ...

    def changed(self, avatar_id: str, manifest: AvatarManifest, etag: str) -> None:
        """Record that this process has replaced a bundle's manifest: the next request lists it.

        Args:
            avatar_id: the bundle.
            manifest: the new manifest.
            etag: the entity tag of its file.
        """
        ...

    def deleted(self, avatar_id: str) -> None:
        """Record that this process has deleted a bundle: the next request does not list it."""
        ...
