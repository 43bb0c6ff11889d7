"""BundleFiles: what a client reads of a bundle, beside its manifest and preview: its files, one by one or all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
from typing import TYPE_CHECKING

from .bundles.bundle_zip import BundleZip, is_same_version
from .bundles.manifest import is_avatar_id, is_bundle_path
from .errors import NotFound, StoreUnavailable, no_avatar, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bundles.store import BundleStore, FileInfo, FileReader
    from .catalog.file_cache import CachedFile, FileCache
    from .metrics import Metrics
    from .store_connection import StoreConnection

#: A store may give a file that was just written another etag at each look. A list is only used once two in succession
#: agree; after this many lists, the bundle is taken for one that is being written to.
_MAX_LISTS = 20
_SECONDS_BETWEEN_LISTS = 0.05


class BundleFiles:
    """Reads the files of bundles, also of hidden avatars and of bundles whose manifest is broken.

    Args:
        store: where the bundles are.
        connection: enters the store.
        cache: keeps small files. Not the cache of manifests and previews, because the frames of a single bundle would
            displace those.
        metrics: where requests to the store are counted.
    """

    def __init__(self, store: BundleStore, connection: StoreConnection, cache: FileCache, metrics: Metrics) -> None:
        self._store = store
        self._connection = connection
        self._cache = cache
        self._metrics = metrics

    def cached(self, avatar_id: str, path: str) -> CachedFile | None:
        """Return a file if it is in memory and known to be fresh."""
        return self._cache.fresh(avatar_id, path)

    @contextlib.asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[CachedFile | FileReader]:
        """Open a file as it is stored.

        Raises:
            NotFound: there is no such avatar, or its bundle has no such file.
            StoreUnavailable: try again.
        """
        missing = NotFound(f"there is no avatar {shown(avatar_id)}, or it has no file {shown(path)}")
        if not (is_avatar_id(avatar_id) and is_bundle_path(path)):
            raise missing
        await self._connection.open()
        async with contextlib.AsyncExitStack() as stack:
            try:
                file = await stack.enter_async_context(self._cache.open(avatar_id, path))
            except NotFound:
                raise missing from None
            yield file

    async def list_files(self, avatar_id: str) -> list[FileInfo]:
        """Return a bundle's files, sorted by path. Raise NotFound or StoreUnavailable."""
        if not is_avatar_id(avatar_id):
            raise no_avatar(avatar_id)
        await self._connection.open()
        try:
            with self._metrics.store_operation("files"):
                files = [info async for info in self._store.files(avatar_id)]
        except NotFound:
            raise no_avatar(avatar_id) from None
        return sorted(files, key=operator.attrgetter("path"))

    async def archive(self, avatar_id: str) -> BundleZip:
        """Return a bundle as a ZIP archive, to be streamed.

        Raises:
            NotFound: there is no such avatar.
            StoreUnavailable: the store failed, or the bundle is being written to.
        """
        files = await self._settled_list(avatar_id)
        open_file = functools.partial(self._open_for_archive, avatar_id)
        return BundleZip(avatar_id, files, open_file, functools.partial(self.list_files, avatar_id))

    async def _settled_list(self, avatar_id: str) -> list[FileInfo]:
        before = await self.list_files(avatar_id)
        for _ in range(_MAX_LISTS):
            files = await self.list_files(avatar_id)
            if is_same_version(files, before):
                return files
            before = files
            await asyncio.sleep(_SECONDS_BETWEEN_LISTS)
        raise StoreUnavailable(f"avatar {avatar_id!r} is being changed; try again", retry_after=1)

    @contextlib.asynccontextmanager
    async def _open_for_archive(self, avatar_id: str, path: str) -> AsyncIterator[FileReader]:
        async with contextlib.AsyncExitStack() as stack:
            with self._metrics.store_operation("open"):
                file = await stack.enter_async_context(self._store.open(avatar_id, path))
            yield file

    def forget(self, avatar_id: str) -> None:
        """Drop what is in memory of a deleted avatar."""
        self._cache.forget(avatar_id)
