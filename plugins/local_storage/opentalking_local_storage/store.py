"""Avatar bundles in a folder: <root>/<avatar_id>/manifest.json and so on.

A new bundle is written to a hidden folder beside the others (see `scratch`), flushed, and renamed to its place. A
deleted bundle is renamed to the hidden folder before its files are removed. Bundles therefore appear and disappear
whole, even in a crash, and an open file stays readable.
"""

from __future__ import annotations

import asyncio
import os
import stat
from asyncio import Future, get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from opentalking_core import FileInfo, InvalidURL, NotFound, StoreUnavailable, check_new_bundle, chunk_ranges, finish

from . import disk
from .scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Mapping
    from typing import Any, Self

    from opentalking_core import BundleVersion

    Absent = type[NotFound | StoreUnavailable]  # the error to raise for a missing file or folder

T = TypeVar("T")

_CHUNK_BYTES = 1024 * 1024  # read or written by one call in a thread; smaller files are read when they are opened
_SCAN_BATCH = 1000  # number of bundles that one call in a thread scans
MAX_WATCHED_FOLDERS = 16  # number of unfinished folders whose times the change stamp reads, on the event loop
_READ_THREADS = 8
_WRITE_THREADS = 4


class LocalStore:
    """The bundle store over one folder, which several processes may share. See `opentalking_core.BundleStore`.

    Only entering the store creates the root. If the root vanishes later (an unmounted volume), calls raise
    StoreUnavailable until it is back, so that no bundle is written below the mount point.

    Args:
        url: file:///srv/avatars, percent-encoded.

    Raises:
        InvalidURL: the URL names another host, has a query, or its path isn't absolute.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        path = url2pathname(parts.path)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or "\0" in path:
            raise InvalidURL(
                f"{url} is no folder of this machine; write file:///srv/avatars, with %3F and %23 for ? and #"
            )
        self._root = Path(path)
        if not self._root.is_absolute():
            raise InvalidURL(f"{url} is not absolute; write file:///srv/avatars, with three slashes")
        self.url = url
        self._scratch = Scratch(self._root)
        self._stamped = [str(self._root)]
        self._warned: set[str] = set()

    async def __aenter__(self) -> Self:
        # Two thread pools of this store alone: a disk that hangs must not block the program's other threads, and
        # slow writes must not block reads.
        self._readers = ThreadPoolExecutor(_READ_THREADS, "local-read")
        self._writers = ThreadPoolExecutor(_WRITE_THREADS, "local-write")
        try:
            await self._write("the folder", StoreUnavailable, disk.make_root, self._root)
            await self._write("the folder", StoreUnavailable, self._scratch.sweep)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._writers.shutdown)
        await asyncio.to_thread(self._scratch.release)

    async def scan(self) -> AsyncIterator[BundleVersion]:
        unfinished: list[Path] = []
        found = disk.scan(self._root, self._warned, unfinished)
        while batch := await self._read("the folder", StoreUnavailable, lambda: list(islice(found, _SCAN_BATCH))):
            for bundle in batch:
                yield bundle
        self._stamped = [str(folder) for folder in (self._root, *unfinished[:MAX_WATCHED_FOLDERS])]

    def change_stamp(self) -> Hashable:
        """Return the root's times, which also show other processes' changes.

        A bundle that is copied into the root by hand gets its manifest some time after its folder. The stamp therefore
        includes the times of folders that had no manifest at the last scan. Only `scan` shows an edited manifest.
        """
        stamps = []
        for folder in self._stamped:
            try:  # every request waits for this; Path or `suppress` would double its time
                stamps.append(disk.stamp(os.stat(folder)))  # noqa: PTH116
            except OSError:
                continue
        return tuple(stamps)

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        for info in await self._read(f"avatar {avatar_id!r}", NotFound, disk.list_files, self._root, avatar_id):
            yield info

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[LocalReader]:
        what = f"file {path!r} of avatar {avatar_id!r}"
        opening = asyncio.ensure_future(self._read(what, NotFound, self._open, avatar_id, path))
        try:
            reader = await asyncio.shield(opening)
        except asyncio.CancelledError:  # the thread goes on and may still open the file
            opening.add_done_callback(_close_opened)
            raise
        try:
            yield reader
        finally:
            reader.close()  # a thread may still be reading for a cancelled caller, who doesn't need the bytes

    def _open(self, avatar_id: str, path: str) -> LocalReader:
        fd = disk.open_file(self._root, avatar_id, path)
        try:
            return LocalReader(fd, path, self._read)
        except BaseException:
            os.close(fd)
            raise

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        check_new_bundle(avatar_id, files)
        draft = disk.Draft(self._root / avatar_id, self._scratch)
        write = partial(self._write, f"avatar {avatar_id!r}", StoreUnavailable)
        try:
            await write(draft.begin, {path: whole for path, whole in files.items() if isinstance(whole, bytes)})
            for path, content in files.items():
                if not isinstance(content, bytes):
                    buffer = bytearray()
                    async for chunk in content:
                        buffer += chunk
                        if len(buffer) >= _CHUNK_BYTES:
                            await write(draft.append, path, bytes(buffer))
                            buffer.clear()
                    await write(draft.append, path, bytes(buffer))
            await write(draft.publish)
        except BaseException:
            await write(draft.discard)
            raise

    async def delete(self, avatar_id: str) -> None:
        await self._write(f"avatar {avatar_id!r}", NotFound, disk.delete, self._root, avatar_id, self._scratch)

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        what = f"avatar {avatar_id!r}"
        await self._write(
            what, NotFound, disk.replace_manifest, self._root, avatar_id, manifest, expected_etag, self._scratch
        )
        return disk.content_etag(manifest)

    def _read(self, what: str, absent: Absent, function: Callable[..., T], *args: object) -> Future[T]:
        return get_running_loop().run_in_executor(self._readers, self._guard, what, absent, function, *args)

    async def _write(self, what: str, absent: Absent, function: Callable[..., T], *args: object) -> T:
        """Call `function` in a thread. When cancelled, first wait for its end: cleaning up must not overlap with it."""
        return await finish(
            get_running_loop().run_in_executor(self._writers, self._guard, what, absent, function, *args)
        )

    def _guard(self, what: str, absent: Absent, function: Callable[..., T], *args: object) -> T:
        with disk.our_errors(self._root, what, absent):
            return function(*args)


class LocalReader:
    """An open file; see `opentalking_core.FileReader`. A small file is in memory, and its descriptor is closed."""

    def __init__(self, fd: int, path: str, read: Callable[..., Future[Any]]) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"{path} is not a file")
        self._read, self._fd, self._data = read, fd, b""
        etag = disk.version(status)
        if (is_manifest := disk.is_manifest(path, status)) or status.st_size <= _CHUNK_BYTES:
            self._data = self._pread(0, status.st_size)
            self.close()
            if is_manifest:
                etag = disk.content_etag(self._data)
        self.info = FileInfo(path, status.st_size, etag, status.st_mtime)

    def close(self) -> None:
        """Close the descriptor, if it is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pread(self, start: int, stop: int) -> bytes:
        return disk.pread(self._fd, start, stop)

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        for offset, length in chunk_ranges(self.info.size, start, stop, _CHUNK_BYTES):
            end = offset + length
            if self._fd < 0:
                yield self._data[offset:end]
            else:
                yield await self._read(self.info.path, StoreUnavailable, self._pread, offset, end)

    async def read(self) -> bytes:
        return self._data if self._fd < 0 else b"".join([chunk async for chunk in self.chunks()])


def _close_opened(opening: Future[LocalReader]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
