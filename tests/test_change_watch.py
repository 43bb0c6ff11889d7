"""When a request needs a scan, told by a clock and a stamp that the tests set."""

from __future__ import annotations

import pytest

from opentalking_core.catalog.change_watch import STAMP_PAUSE_SECONDS, ChangeWatch, WatchState


class FakeStore:
    """A clock and a change stamp."""

    def __init__(self) -> None:
        self.time = 100.0
        self.stamp: int | None = 0
        self.stamps_asked = 0
        self.watch = ChangeWatch(self.change_stamp, lambda: self.time)

    def change_stamp(self) -> int | None:
        self.stamps_asked += 1
        return self.stamp

    def change(self) -> None:
        """Add or remove a bundle."""
        assert self.stamp is not None
        self.stamp += 1
        self.time += 1

    def scan(self) -> None:
        self.watch.end_scan(self.watch.begin_scan())
        self.time += 1


@pytest.fixture
def store() -> FakeStore:
    """Return a store that has been scanned once."""
    store = FakeStore()
    store.scan()
    return store


def test_first_scan_is_needed_until_it_succeeds() -> None:
    store = FakeStore()
    assert store.watch.state() is WatchState.UNSCANNED
    store.watch.begin_scan()
    assert store.watch.needs_scan()
    with store.watch.local_change():
        assert store.watch.needs_scan()
    store.scan()
    assert not store.watch.needs_scan()


def test_changed_stamp_needs_a_scan(store: FakeStore) -> None:
    assert store.watch.state() is WatchState.UNCHANGED
    store.change()
    assert store.watch.state() is WatchState.CHANGED
    assert store.watch.needs_scan()
    store.scan()
    assert store.watch.state() is WatchState.UNCHANGED


def test_change_during_a_scan_needs_another_scan(store: FakeStore) -> None:
    scan = store.watch.begin_scan()
    store.change()
    store.watch.end_scan(scan)
    assert store.watch.state() is WatchState.CHANGED


def test_failed_scan_leaves_the_state(store: FakeStore) -> None:
    store.change()
    store.watch.begin_scan()
    assert store.watch.state() is WatchState.CHANGED


def test_store_without_stamp_needs_only_the_first_scan() -> None:
    store = FakeStore()
    store.stamp = None
    assert store.watch.needs_scan()
    store.scan()
    store.time += 1000
    assert not store.watch.needs_scan()


def test_stamp_is_ignored_during_a_local_change(store: FakeStore) -> None:
    with store.watch.local_change():
        store.change()
        store.stamps_asked = 0
        assert store.watch.state() is WatchState.STAMP_IGNORED
        assert not store.watch.needs_scan()
        assert store.stamps_asked == 0


def test_stamp_is_ignored_until_the_last_of_several_local_changes_ends(store: FakeStore) -> None:
    first, second = store.watch.local_change(), store.watch.local_change()
    with first:
        with second:
            store.change()
        store.time += 1000
        assert store.watch.state() is WatchState.STAMP_IGNORED


def test_stamp_counts_again_after_the_pause(store: FakeStore) -> None:
    with store.watch.local_change():
        store.change()
    store.time += STAMP_PAUSE_SECONDS / 2
    assert store.watch.state() is WatchState.STAMP_IGNORED
    store.time += STAMP_PAUSE_SECONDS / 2
    assert store.watch.state() is WatchState.CHANGED


def test_failed_local_change_ends_as_well(store: FakeStore) -> None:
    with pytest.raises(ZeroDivisionError), store.watch.local_change():
        raise ZeroDivisionError
    store.time += STAMP_PAUSE_SECONDS
    assert store.watch.state() is WatchState.UNCHANGED


def test_change_elsewhere_before_a_local_change_needs_a_later_scan(store: FakeStore) -> None:
    scan = store.watch.begin_scan()
    store.change()
    with store.watch.local_change():
        assert store.watch.state() is WatchState.CHANGED_BEFORE
        store.watch.end_scan(scan)
        assert store.watch.needs_scan(), "the scan began before the change was noticed"
        store.time += 1
        store.scan()
        assert store.watch.state() is WatchState.STAMP_IGNORED


def test_local_changes_in_a_row_are_not_taken_for_changes_elsewhere(store: FakeStore) -> None:
    for _ in range(3):
        with store.watch.local_change():
            store.change()
        store.time += STAMP_PAUSE_SECONDS / 2
        assert store.watch.state() is WatchState.STAMP_IGNORED
