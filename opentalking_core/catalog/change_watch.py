"""When the store has to be scanned before a request can be answered."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

#: For this long after a local change the store's stamp is ignored: it can keep reporting that change for 0.05 s.
STAMP_PAUSE_SECONDS = 0.1


class WatchState(Enum):
    """What is known about changes since the last successful scan."""

    UNSCANNED = auto()  #: no scan has succeeded yet
    UNCHANGED = auto()  #: the stamp is that of the last scan
    CHANGED = auto()  #: the stamp differs from that of the last scan
    STAMP_IGNORED = auto()  #: a local change runs or has just ended; the scan before it was up to date
    CHANGED_BEFORE = auto()  #: the stamp is ignored, too, but another process had changed the store before that


_UP_TO_DATE = (WatchState.UNCHANGED, WatchState.STAMP_IGNORED)


@dataclass(frozen=True, slots=True)
class ScanStart:
    """The time (of the watch's clock) and the store's stamp when a scan began."""

    time: float
    stamp: Hashable


class ChangeWatch:
    """Decides whether a request needs a new scan, from the store's change stamp.

    A stamp that differs from the one at the start of the last scan says that some process changed the store. A local
    change (a bundle that this process creates, changes or deletes) makes the stamp differ as well, although the catalog
    already knows about it. Under constant uploads every request would then wait for a scan. So while a local change
    runs, and for STAMP_PAUSE_SECONDS after it, the stamp is ignored; what other processes change meanwhile shows after
    the next periodic scan. A change by another process that was visible just before the local one is remembered: it
    needs a scan that starts later.

    Args:
        change_stamp: the store's; a function that always returns None if the store has no stamp.
        clock: seconds, never going back.
    """

    def __init__(self, change_stamp: Callable[[], Hashable], clock: Callable[[], float] = time.monotonic) -> None:
        self._change_stamp = change_stamp
        self._clock = clock
        self._last_scan: ScanStart | None = None
        self._local_changes_running = 0
        self._stamp_ignored_until = float("-inf")
        self._changed_elsewhere_at = float("-inf")

    def state(self) -> WatchState:
        """Return what is known now. Asks the store for its stamp unless the stamp is ignored."""
        scan = self._last_scan
        if scan is None:
            return WatchState.UNSCANNED
        if self._ignores_stamp():
            changed_before = self._changed_elsewhere_at > scan.time
            return WatchState.CHANGED_BEFORE if changed_before else WatchState.STAMP_IGNORED
        return WatchState.UNCHANGED if self._change_stamp() == scan.stamp else WatchState.CHANGED

    def needs_scan(self) -> bool:
        """Return whether bundles may have been added or removed that the last scan did not see."""
        return self.state() not in _UP_TO_DATE

    def begin_scan(self) -> ScanStart:
        """Return what `end_scan` needs if the scan succeeds. Call this before the scan."""
        return ScanStart(self._clock(), self._change_stamp())

    def end_scan(self, scan: ScanStart) -> None:
        """Record that the scan succeeded."""
        self._last_scan = scan

    @contextlib.contextmanager
    def local_change(self) -> Iterator[None]:
        """Ignore the stamp while this process changes the store, and STAMP_PAUSE_SECONDS longer."""
        if not self._ignores_stamp() and (self._last_scan is None or self._change_stamp() != self._last_scan.stamp):
            self._changed_elsewhere_at = self._clock()
        self._local_changes_running += 1
        try:
            yield
        finally:
            self._local_changes_running -= 1
            self._stamp_ignored_until = self._clock() + STAMP_PAUSE_SECONDS

    def _ignores_stamp(self) -> bool:
        return self._local_changes_running > 0 or self._clock() < self._stamp_ignored_until
