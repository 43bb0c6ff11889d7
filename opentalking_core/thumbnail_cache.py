"""ThumbnailCache: makes thumbnails of previews in the workers, and keeps them in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from cachetools import LRUCache

from .catalog.file_cache import CachedFile
from .errors import InvalidRequest, NotFound
from .portraits.thumbnails import make_thumbnail
from .workers.runner import WorkerCrashed, run_with_retry

if TYPE_CHECKING:
    from .bundles.store import FileReader
    from .portraits.thumbnails import ThumbnailFormat
    from .workers.runner import Runner

    _Key = tuple[str, str, int, ThumbnailFormat]

#: Larger previews get no thumbnail, because making one reads the preview into memory as a whole.
MAX_PREVIEW_BYTES = 64 * 1024 * 1024

#: What an entry takes in memory beside its content, roughly.
_ENTRY_OVERHEAD_BYTES = 1024


class ThumbnailCache:
    """Thumbnails by avatar, version of the preview, width and format.

    Args:
        runner: where to make thumbnails.
        slots: how many thumbnails to make at the same time. Each holds a preview in memory.
        max_bytes: of all thumbnails that are kept. A larger one is made anew each time.
    """

    def __init__(self, runner: Runner, slots: int, max_bytes: int) -> None:
        self._runner = runner
        self._thumbnail_slots = asyncio.Semaphore(slots)
        self._thumbnails: LRUCache[_Key, bytes | None] = LRUCache(
            max_bytes, getsizeof=lambda data: len(data or b"") + _ENTRY_OVERHEAD_BYTES
        )

    async def get(
        self, avatar_id: str, preview: CachedFile | FileReader, width: int, image_format: ThumbnailFormat
    ) -> CachedFile | None:
        """Return a thumbnail from memory, or make it.

        Args:
            avatar_id: the avatar.
            preview: the avatar's preview, opened.
            width: of the thumbnail, in pixels.
            image_format: of the thumbnail.

        Returns:
            None if the stored preview is good enough as it is: not wider, and a PNG was asked for.

        Raises:
            NotFound: the preview is too large or not a picture.
            StoreUnavailable, WorkersUnavailable: try again.
        """
        key = avatar_id, preview.info.etag, width, image_format
        if key in self._thumbnails:
            thumbnail = self._thumbnails[key]
        else:
            async with self._thumbnail_slots:
                thumbnail = await self._make_and_keep(key, preview)
        if thumbnail is None:
            return None
        etag = f"{preview.info.etag}-{width}{image_format.lower()}"
        return CachedFile(dataclasses.replace(preview.info, size=len(thumbnail), etag=etag), thumbnail, 0.0, None)

    async def _make_and_keep(self, key: _Key, preview: CachedFile | FileReader) -> bytes | None:
        if key in self._thumbnails:  # another request has made it while this one waited for a slot
            return self._thumbnails[key]
        avatar_id, _, width, image_format = key
        if preview.info.size > MAX_PREVIEW_BYTES:
            raise NotFound(f"the preview of avatar {avatar_id!r} is too large to make a thumbnail of")
        data = preview.data if isinstance(preview, CachedFile) else await preview.read()
        try:
            thumbnail = await run_with_retry(self._runner, make_thumbnail, data, width, image_format)
        except (InvalidRequest, WorkerCrashed, TimeoutError) as error:
            raise NotFound(f"there is no thumbnail of avatar {avatar_id!r}: {error}") from None
        with contextlib.suppress(ValueError):  # it alone is larger than the cache
            self._thumbnails[key] = thumbnail
        return thumbnail
