"""BundleZip: a bundle's files as one ZIP archive, streamed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

from isal import isal_zlib

from ..errors import StoreUnavailable
from .store_helpers import finish
from .zip_format import ZipEntry, ZipWriter, archive_size

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from .store import FileInfo, FileReader

    OpenFile = Callable[[str], AbstractAsyncContextManager[FileReader]]
    ListFiles = Callable[[], Awaitable[Sequence[FileInfo]]]

#: Files up to this size are read as a whole, and ahead of the client. Larger ones are streamed, one after the other.
MAX_WHOLE_BYTES = 1024 * 1024

#: How much is read ahead, so that the client doesn't wait for the store between two files.
_MAX_AHEAD_BYTES = 4 * 1024 * 1024
_MAX_AHEAD_FILES = 8

#: Changes whenever the same files make another archive than before.
_LAYOUT = b"1"


class BundleZip:
    """A bundle as an uncompressed archive: a folder named by the avatar's id, which holds the bundle's files.

    Args:
        avatar_id: the bundle's id.
        files: the bundle's files. They decide the order in the archive.
        open_file: opens a file of the bundle by its path.
        list_files: returns the bundle's files as they are now, in the order of `files`.
    """

    def __init__(self, avatar_id: str, files: Sequence[FileInfo], open_file: OpenFile, list_files: ListFiles) -> None:
        self._avatar_id = avatar_id
        self._files = files
        self._open_file = open_file
        self._list_files = list_files
        #: length of the archive, in bytes
        self.size = archive_size(map(self._entry, files))
        #: differs whenever the archive's bytes do
        self.etag = files_etag(files, _LAYOUT)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the archive.

        Raises:
            NotFound, StoreUnavailable: the bundle was deleted or changed meanwhile, or the store failed. What was
                yielded before is no complete archive.
        """
        writer = ZipWriter()
        async with _ReadAhead([info for info in self._files if _is_whole(info)], self._read) as ahead:
            for info in self._files:
                entry = self._entry(info)
                if _is_whole(info):
                    content = await ahead.next()
                    crc = isal_zlib.crc32(content)
                    yield writer.begin(entry, crc) + content + writer.end(entry, crc)
                    continue
                yield writer.begin(entry)
                crc = 0
                async with self._open(info) as file:
                    async for chunk in file.chunks():
                        crc = isal_zlib.crc32(chunk, crc)
                        yield chunk
                yield writer.end(entry, crc)
        # This also finds files that were changed in place while they were being read.
        if not is_same_version(await self._list_files(), self._files):
            raise self._changed("the list of files")
        yield writer.finish()

    def _entry(self, info: FileInfo) -> ZipEntry:
        return ZipEntry(f"{self._avatar_id}/{info.path}", info.size, info.modified, not _is_whole(info))

    async def _read(self, info: FileInfo) -> bytes:
        async with self._open(info) as file:
            return await file.read()

    @contextlib.asynccontextmanager
    async def _open(self, info: FileInfo) -> AsyncIterator[FileReader]:
        """Open a file, in the version that the list has."""
        async with self._open_file(info.path) as file:
            if not is_same_version([file.info], [info]):
                raise self._changed(info.path)
            yield file

    def _changed(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"{what} of avatar {self._avatar_id!r} changed while its archive was sent; try again")


class _ReadAhead:
    """Reads files in their order: the next ones while the caller works on the one before.

    Args:
        files: the files, none larger than `_MAX_AHEAD_BYTES`.
        read: returns a file's content.
    """

    def __init__(self, files: Iterable[FileInfo], read: Callable[[FileInfo], Coroutine[Any, Any, bytes]]) -> None:
        self._unread = deque(files)
        self._read = read
        self._reading: deque[asyncio.Task[bytes]] = deque()
        self._bytes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._reading:
            task.cancel()
        await finish(asyncio.gather(*self._reading, return_exceptions=True))

    async def next(self) -> bytes:
        """Return the content of the next file. Raise what `read` raises."""
        self._start()
        content = await self._reading[0]
        self._reading.popleft()
        self._bytes -= len(content)
        self._start()
        return content

    def _start(self) -> None:
        while self._unread and len(self._reading) < _MAX_AHEAD_FILES:
            size = self._unread[0].size
            if self._bytes + size > _MAX_AHEAD_BYTES:
                return
            self._bytes += size
            self._reading.append(asyncio.create_task(self._read(self._unread.popleft())))


def is_same_version(files: Iterable[FileInfo], others: Iterable[FileInfo]) -> bool:
    """Return whether two lists in the same order name the same content.

    Times are not compared: some stores don't know when a file was changed, and say that it was now.
    """
    return [(info.path, info.size, info.etag) for info in files] == [
        (info.path, info.size, info.etag) for info in others
    ]


def files_etag(files: Iterable[FileInfo], of: bytes = b"") -> str:
    """Return a token that differs whenever a file or the list of files does.

    Args:
        files: sorted by path.
        of: what else the token depends on.
    """
    digest = hashlib.sha256(of)
    for info in files:
        digest.update(f"{info.path}\0{info.size}\0{info.etag}\0{info.modified!r}\0".encode())
    return digest.hexdigest()[:32]


def _is_whole(info: FileInfo) -> bool:
    return info.size <= MAX_WHOLE_BYTES
