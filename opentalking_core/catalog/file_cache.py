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

#: Beside its content, an entry takes about so many bytes.
_OVERHEAD = 1024


@dataclass(slots=True, weakref_slot=True)
class CachedFile:
    """A file's content in memory, and when the store was last asked whether it is still the same."""

    info: FileInfo
    data: bytes
    looked_at: float
    stamp: Hashable


class FileCache:
    """Small files by avatar and path, each served only while the store still has it with the same entity tag.

    Args:
        store: where the files are.
        max_bytes: of all entries together; a file of more than a quarter of it isn't kept.
        stamp: differs after bundles were added or removed (`AvatarCatalog.stamp`).
        trust: for so many seconds after a look at the store a file is answered without another: edits by hand show that
            much later. So do bundles that others replace or remove, unless the store has a change stamp.
        metrics: where looks at the store are counted.
    """

    def __init__(
        self, store: BundleStore, max_bytes: int, stamp: Callable[[], Hashable], trust: float, metrics: Metrics
    ) -> None:
        self._store = store
        self._trust = trust
        self._metrics = metrics
        self._stamp = stamp
        self._largest = max_bytes // 4
        self._files: LRUCache[tuple[str, str], CachedFile] = LRUCache(
            max_bytes, getsizeof=lambda file: len(file.data) + _OVERHEAD
        )
        self._deletions = 0

    def trusted(self, avatar_id: str, path: str) -> CachedFile | None:
        """The file, if it is here and the store was asked about it a moment ago."""
        file = self._files.get((avatar_id, path))
        if file is None or time.monotonic() - file.looked_at > self._trust or file.stamp != self._stamp():
            return None
        return file

    def forget(self, avatar_id: str) -> None:
        """This process has deleted the avatar."""
        self._deletions += 1
        for key in [key for key in self._files if key[0] == avatar_id]:
            del self._files[key]

    @contextlib.asynccontextmanager
    async def open(
        self, avatar_id: str, path: str, check: Callable[[bytes], object] | None = None
    ) -> AsyncIterator[CachedFile | FileReader]:
        """The file from memory if the store has no newer one, or read into memory; too large a one just opened.

        Args:
            avatar_id: the avatar.
            path: of the file in its bundle.
            check: raises if content that was read anew is no good; it isn't kept then.

        Raises NotFound, StoreUnavailable.
        """
        now, stamp, deletions = time.monotonic(), self._stamp(), self._deletions
        key = avatar_id, path
        async with contextlib.AsyncExitStack() as stack:
            with self._metrics.store_operation("open"):
                reader = await stack.enter_async_context(self._store.open(avatar_id, path))
            file = self._files.get(key)
            if file is None or file.info.etag != reader.info.etag:
                if reader.info.size > self._largest:
                    yield reader
                    return
                file = CachedFile(reader.info, await reader.read(), now, stamp)
                if check:
                    check(file.data)
                if self._deletions == deletions:  # it may be this file that was deleted while it was read
                    self._files[key] = file
        file.looked_at, file.stamp = now, stamp
        yield file
