"""Avatar bundles in a folder: <root>/<avatar_id>/manifest.json and so on.

A bundle is written in a hidden folder beside (`scratch`), flushed, and renamed to its place; a deleted one is renamed
there before its files go. So it appears and disappears whole, whatever crashes, and who has a file open keeps it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from asyncio import Future, get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from opentalking_core import MANIFEST, FileInfo, InvalidURL, NotFound, StoreUnavailable, is_avatar_id, is_bundle_path

from . import disk
from .scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Mapping
    from typing import Any, Self

    from opentalking_core import BundleVersion

    Absent = type[NotFound | StoreUnavailable]  # what a missing file or folder means

T = TypeVar("T")

_PIECE = 1024 * 1024  # what one trip to a thread reads or writes; a file up to this size is read as it is opened
_BATCH = 1000  # how many bundles one trip to a thread scans
_WATCHED = 16  # how many unfinished folders the change stamp looks at, on the event loop


class LocalStore:
    """The bundle store over one folder; several processes may share it. See `opentalking_core.BundleStore`.

    The root is created on entry only: one that vanishes later (an unmounted volume) is StoreUnavailable until it is
    back, lest bundles be written beneath a mount point.

    Args:
        url: file:///srv/avatars, percent-encoded.

    Raises:
        InvalidURL: another host, a query, or a path that isn't absolute.
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
        # Pools of its own: a disk that hangs must not stop the program's other threads, nor writers the readers.
        self._readers = ThreadPoolExecutor(8, "local-read")
        self._writers = ThreadPoolExecutor(4, "local-write")
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
        """See `BundleStore.scan`. Raises StoreUnavailable."""
        unfinished: list[Path] = []
        found = disk.scan(self._root, self._warned, unfinished)
        while batch := await self._read("the folder", StoreUnavailable, lambda: list(islice(found, _BATCH))):
            for bundle in batch:
                yield bundle
        self._stamped = [str(folder) for folder in (self._root, *unfinished[:_WATCHED])]

    def change_stamp(self) -> Hashable:
        """See `ChangeStamp.change_stamp`. Made from the root's times, so it tells of what other processes did as well.

        A bundle that somebody copies here gets its manifest some time after its folder: folders that had none when
        they were last scanned are watched likewise. That a manifest was edited shows in `scan` alone.
        """
        stamps = []
        for folder in self._stamped:
            try:  # every request waits for this, and both Path and `suppress` would cost as much again
                stamps.append(disk.stamp(os.stat(folder)))  # noqa: PTH116
            except OSError:
                continue
        return tuple(stamps)

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """See `BundleStore.files`. Raises NotFound, StoreUnavailable."""
        for info in await self._read(f"avatar {avatar_id!r}", NotFound, disk.list_files, self._root, avatar_id):
            yield info

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[LocalReader]:
        """See `BundleStore.open`. Raises NotFound, StoreUnavailable."""
        what = f"file {path!r} of avatar {avatar_id!r}"
        opening = asyncio.ensure_future(self._read(what, NotFound, self._open, avatar_id, path))
        try:
            reader = await asyncio.shield(opening)
        except asyncio.CancelledError:  # the thread goes on, and what it opens must not stay open
            opening.add_done_callback(_close_opened)
            raise
        try:
            yield reader
        finally:
            reader.close()  # even under a thread that still reads: who was cancelled doesn't want the bytes

    def _open(self, avatar_id: str, path: str) -> LocalReader:
        fd = disk.open_file(self._root, avatar_id, path)
        try:
            return LocalReader(fd, path, self._read)
        except BaseException:
            os.close(fd)
            raise

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """See `BundleStore.create`. Raises AlreadyExists, StoreFull, StoreUnavailable, ValueError."""
        if not (is_avatar_id(avatar_id) and MANIFEST in files and all(map(is_bundle_path, files))):
            raise ValueError(f"not a bundle: id {avatar_id!r}, files {', '.join(map(repr, files))}")
        draft = disk.Draft(self._root / avatar_id, self._scratch)
        write = partial(self._write, f"avatar {avatar_id!r}", StoreUnavailable)
        try:
            await write(draft.begin, {path: whole for path, whole in files.items() if isinstance(whole, bytes)})
            for path, content in files.items():
                if not isinstance(content, bytes):
                    buffer = bytearray()
                    async for chunk in content:
                        buffer += chunk
                        if len(buffer) >= _PIECE:
                            await write(draft.append, path, bytes(buffer))
                            buffer.clear()
                    await write(draft.append, path, bytes(buffer))
            await write(draft.publish)
        except BaseException:
            await write(draft.discard)
            raise

    async def delete(self, avatar_id: str) -> None:
        """See `BundleStore.delete`. Raises NotFound, StoreUnavailable."""
        await self._write(f"avatar {avatar_id!r}", NotFound, disk.delete, self._root, avatar_id, self._scratch)

    def _read(self, what: str, absent: Absent, function: Callable[..., T], *args: object) -> Future[T]:
        return get_running_loop().run_in_executor(self._readers, self._guard, what, absent, function, *args)

    async def _write(self, what: str, absent: Absent, function: Callable[..., T], *args: object) -> T:
        """Run it in a thread. When cancelled, wait for its end before saying so: cleaning up must not overlap it."""
        work = get_running_loop().run_in_executor(self._writers, self._guard, what, absent, function, *args)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            raise

    def _guard(self, what: str, absent: Absent, function: Callable[..., T], *args: object) -> T:
        with disk.our_errors(self._root, what, absent):
            return function(*args)


class LocalReader:
    """An open file; see `opentalking_core.FileReader`. A small one is in memory, its descriptor closed."""

    def __init__(self, fd: int, path: str, read: Callable[..., Future[Any]]) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"{path} is not a file")
        self.info = FileInfo(path, status.st_size, disk.version(status), status.st_mtime)
        self._read, self._fd, self._data = read, fd, b""
        if status.st_size <= _PIECE:
            self._data = self._pread(0, status.st_size)
            self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pread(self, start: int, stop: int) -> bytes:
        data = os.pread(self._fd, stop - start, start)
        while len(data) < stop - start:
            piece = os.pread(self._fd, stop - start - len(data), start + len(data))
            if not piece:
                raise StoreUnavailable(f"{self.info.path} was cut short while it was being read")
            data += piece
        return data

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """See `FileReader.chunks`. Raises StoreUnavailable."""
        stop = self.info.size if stop is None else min(stop, self.info.size)
        for offset in range(start, stop, _PIECE):
            end = min(offset + _PIECE, stop)
            if self._fd < 0:
                yield self._data[offset:end]
            else:
                yield await self._read(self.info.path, StoreUnavailable, self._pread, offset, end)

    async def read(self) -> bytes:
        """See `FileReader.read`. Raises StoreUnavailable."""
        return self._data if self._fd < 0 else b"".join([piece async for piece in self.chunks()])


def _close_opened(opening: Future[LocalReader]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
