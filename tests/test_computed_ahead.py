"""Items that a thread computes ahead of the caller."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from opentalking_core.workers.ahead import computed_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_items_come_in_order() -> None:
    assert list(computed_ahead(range(100), 3)) == list(range(100))
    assert list(computed_ahead([], 3)) == []


def test_item_is_computed_while_the_caller_works_on_the_one_before() -> None:
    computed = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(computed):
            event.set()
            yield number

    for number in computed_ahead(items(), 1):
        if number + 1 < len(computed):
            assert computed[number + 1].wait(10)


def test_no_more_items_are_computed_than_asked_for() -> None:
    seen = []

    def items() -> Iterator[int]:
        for number in range(100):
            seen.append(number)
            yield number

    ahead = computed_ahead(items(), 2)
    for _ in range(10):
        next(ahead)
    ahead.close()
    assert len(seen) <= 12


def test_exception_is_raised_where_its_item_would_be() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no third item")

    ahead = computed_ahead(items(), 3)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="no third item"):
        next(ahead)


def test_thread_ends_when_the_caller_stops_early() -> None:
    before = threading.active_count()
    ahead = computed_ahead(iter(range(1000)), 3)
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
