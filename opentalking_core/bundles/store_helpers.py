"""Helpers for bundle stores: the check of a new bundle, ranges of a file, and waiting that survives cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from .manifest import is_avatar_id, is_bundle_path
from .store import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

T = TypeVar("T")


def check_new_bundle(avatar_id: str, files: Iterable[str]) -> None:
    """Check what `BundleStore.create` was given, before anything is written.

    Args:
        avatar_id: the id of the new bundle.
        files: the paths of its files; a mapping by path is fine.

    Raises:
        ValueError: the id or a path is malformed, or manifest.json is missing.
    """
    paths = list(files)
    if not (is_avatar_id(avatar_id) and MANIFEST in paths and all(map(is_bundle_path, paths))):
        raise ValueError(f"not a bundle: id {avatar_id!r}, files {', '.join(map(repr, paths))}")


def chunk_ranges(size: int, start: int, stop: int | None, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of each chunk that `FileReader.chunks` yields, in order.

    Args:
        size: size of the file, in bytes.
        start: offset of the first byte to read.
        stop: offset after the last byte to read; None or an offset beyond the end means the end of the file.
        chunk_bytes: largest length of a chunk.
    """
    stop = size if stop is None else min(stop, size)
    for offset in range(start, stop, chunk_bytes):
        yield offset, min(chunk_bytes, stop - offset)


async def finish(awaitable: Awaitable[T]) -> T:
    """Await `awaitable` to its end, even if the caller is cancelled meanwhile, and return its result.

    A thread or a request can't be stopped halfway, and cleaning up must not overlap with it. Any number of
    cancellations take effect only after `awaitable` has ended: then CancelledError is raised, even if it failed.
    """
    work = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # asyncio logs exceptions that were never retrieved
        raise


async def concurrently(items: Iterable[T], function: Callable[[T], Awaitable[None]], limit: int) -> None:
    """Await `function(item)` for every item, at most `limit` at the same time.

    The first exception cancels the remaining calls and is raised. No call is running any more when this returns or
    raises, also after a cancellation.

    Args:
        items: an iterable, advanced only when an item can be worked on.
        function: what to do with an item.
        limit: number of items that are worked on at the same time, at least 1.

    Raises:
        ValueError: the limit is less than 1.
        Exception: the first that `function` raises.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; at least one item must be worked on at a time")
    remaining = iter(items)

    async def drain() -> None:
        for item in remaining:
            await function(item)

    tasks = [asyncio.create_task(drain()) for _ in range(limit)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()  # once: a second cancellation would interrupt the cleaning up
        await finish(asyncio.gather(*tasks, return_exceptions=True))
