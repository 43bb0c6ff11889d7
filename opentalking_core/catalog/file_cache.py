"""A bounded in-memory cache of small files (manifests, previews) over one bundle store."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from ..bundles.store import BundleStore, FileInfo, FileReader
    from ..metrics import Metrics

#: Memory that an entry takes beside its content.
ENTRY_OVERHEAD_BYTES = 1024


@dataclass(slots=True, weakref_slot=True)
class CachedFile:
    """A file's content in memory.

    Args:
        info: the file in the store.
        data: the content.
        verified_at: when the store was last asked whether the file is still the same.
        stamp: the change stamp at that time.
    """

    info: FileInfo
    data: bytes
    verified_at: float
    stamp: Hashable


class FileCache:
    """Small files by avatar and path. A file is served only while the store still has it with the same entity tag.

    Args:
        store: where the files are.
        max_bytes: the most that all entries take together; a file of more than a quarter of that isn't kept.
        change_stamp: returns a value that differs after bundles were added or removed (`Catalog.change_stamp`).
        max_age_seconds: for this long after the store was asked, a file is served without asking again, unless the
            change stamp differs. Edited files, and changes by other processes without a stamp, show that much later.
        metrics: where requests to the store are counted.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        store: BundleStore,
        max_bytes: int,
        change_stamp: Callable[[], Hashable],
        max_age_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._change_stamp = change_stamp
        self._max_age_seconds = max_age_seconds
        self._metrics = metrics
        self._clock = clock
        self._max_file_bytes = max_bytes // 4
        self._files: LRUCache[tuple[str, str], CachedFile] = LRUCache(
            max_bytes, getsizeof=lambda file: len(file.data) + ENTRY_OVERHEAD_BYTES
        )
        self._deletions = 0

    def fresh(self, avatar_id: str, path: str) -> CachedFile | None:
        """Return the file if it is in memory and may be served without asking the store."""
        file = self._files.get((avatar_id, path))
        if file is None or self._clock() - file.verified_at > self._max_age_seconds:
            return None
        return file if file.stamp == self._change_stamp() else None

    def forget(self, avatar_id: str) -> None:
        """Drop the files of a deleted avatar, and do not keep files that are being read now."""
        self._deletions += 1
        for key in [key for key in self._files if key[0] == avatar_id]:
            del self._files[key]

    @contextlib.asynccontextmanager
    async def open(
        self, avatar_id: str, path: str, check: Callable[[bytes], object] | None = None
    ) -> AsyncIterator[CachedFile | FileReader]:
        """Open a file: from memory if the store has no newer one, else from the store. Small files are kept in memory.

        Args:
            avatar_id: the avatar.
            path: of the file in its bundle.
            check: raises if content that has just been read is unusable; such content isn't kept.

        Raises:
            NotFound: the bundle or the file does not exist.
            StoreUnavailable: the store can't be reached.
        """
        now, stamp, deletions = self._clock(), self._change_stamp(), self._deletions
        key = avatar_id, path
        async with contextlib.AsyncExitStack() as stack:
            with self._metrics.store_operation("open"):
                reader = await stack.enter_async_context(self._store.open(avatar_id, path))
            file = self._files.get(key)
            if file is None or file.info.etag != reader.info.etag:
                if reader.info.size > self._max_file_bytes:
                    yield reader
                    return
                file = CachedFile(reader.info, await reader.read(), now, stamp)
                if check:
                    check(file.data)
                if self._deletions == deletions:  # otherwise this file may have been deleted while it was read
                    self._files[key] = file
        file.verified_at, file.stamp = now, stamp
        yield file
