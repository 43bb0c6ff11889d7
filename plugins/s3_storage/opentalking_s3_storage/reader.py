"""Open files on S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import FileInfo, chunk_ranges

from .bucket import RANGE_BYTES, modified

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore import ObjectMeta

    from .bucket import Bucket, Object


class S3Reader:
    """An open file; see `opentalking_core.FileReader`.

    Args:
        info: the file's metadata.
        key: the file's key.
        bucket: the file's bucket.
        found: the file's object, with the content of a small file; None if the caller knows the content already.
    """

    def __init__(self, info: FileInfo, key: str, bucket: Bucket, found: Object | None) -> None:
        self.info = info
        self._key, self._bucket = key, bucket
        self._data = found.data if found else None

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield a range of the file. Raise NotFound if the file was replaced or deleted meanwhile."""
        for offset, length in chunk_ranges(self.info.size, start, stop, RANGE_BYTES):
            end = offset + length
            if self._data is not None:
                yield self._data[offset:end]
            else:
                yield await self._bucket.get_range(self._key, offset, end, f'"{self.info.etag}"')

    async def read(self) -> bytes:
        return self._data if self._data is not None else b"".join([chunk async for chunk in self.chunks()])


def file_info(path: str, meta: ObjectMeta) -> FileInfo:
    """Return the FileInfo of the file `path` of a bundle."""
    etag = (meta["e_tag"] or "").strip('"') or f"{modified(meta):.3f}-{meta['size']}"
    return FileInfo(path, meta["size"], etag, modified(meta))
