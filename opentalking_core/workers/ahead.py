"""Compute the next items of an iterator in a thread, while the caller works on the last one."""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

T = TypeVar("T")

_END = object()


def computed_ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """Yield `items` in order; a thread computes up to `count` items ahead of the caller.

    An exception is raised where its item would be yielded. If the caller stops early, the thread ends with the item
    that it is computing.
    """
    iterator = iter(items)
    pending: deque[Future[T | object]] = deque()
    with contextlib.ExitStack() as stack:
        thread = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(thread.shutdown, cancel_futures=True)
        pending.extend(thread.submit(next, iterator, _END) for _ in range(count))
        while (item := pending.popleft().result()) is not _END:
            pending.append(thread.submit(next, iterator, _END))
            yield item  # type: ignore[misc]  # not the end, so it is one of the items
