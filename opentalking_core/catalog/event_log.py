"""EventLog: the latest changes of the list of avatars, for any number of listeners."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

EventKind = Literal["created", "changed", "deleted"]

#: Changes that are kept. A listener that comes back later than this has to read the list again, which costs less than
#: that number of events: they take about 400 KB of a stream.
MAX_EVENTS = 4096


class AvatarEvent(NamedTuple):
    """A change of one listed avatar.

    Args:
        number: grows by one with each event.
        kind: the avatar is new in the list, its manifest was replaced, or the avatar is no longer listed.
        avatar_id: the avatar.
        etag: the manifest's entity tag; None if the avatar is gone, or if the tag is not known yet.
    """

    number: int
    kind: EventKind
    avatar_id: str
    etag: str | None


class EventLog:
    """The latest changes, numbered. Not safe to share by threads.

    Args:
        max_events: how many events are kept.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: deque[AvatarEvent] = deque(maxlen=max_events)
        self._next = 0
        self._token = secrets.token_hex(4)
        self._changed = asyncio.Event()
        self.is_closed = False

    def add(self, kind: EventKind, avatar_id: str, etag: str | None) -> None:
        """Add an event, and wake the listeners."""
        self._events.append(AvatarEvent(self._next, kind, avatar_id, etag))
        self._next += 1
        self._wake()

    def restart(self) -> None:
        """Forget all events: every listener has to read the list again."""
        self._events.clear()
        self._token = secrets.token_hex(4)
        self._wake()

    def close(self) -> None:
        """End all listeners."""
        self.is_closed = True
        self._wake()

    def id_after(self, number: int) -> str:
        """Return the id of the position after the event with this number. The id is unique to this log."""
        return f"{self._token}-{number + 1}"

    @property
    def position(self) -> str:
        """The id of the position after the latest event."""
        return self.id_after(self._next - 1)

    def since(self, position: str) -> Sequence[AvatarEvent] | None:
        """Return the events after a position, or None if the log doesn't know the position any more."""
        token, _, number = position.partition("-")
        if token != self._token or not number.isascii() or not number.isdecimal() or len(number) > 20:
            return None
        first = self._next - len(self._events)
        if not first <= int(number) <= self._next:
            return None
        return list(islice(self._events, int(number) - first, None))

    async def wait(self) -> None:
        """Return when there is a new event, or when the log is restarted or closed."""
        if not self.is_closed:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
