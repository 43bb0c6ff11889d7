"""The bundle store over a file system of fsspec. It promises less than a folder or S3, as such file systems do:

* A bundle exists as soon as its manifest does. `create` writes the manifest last, under a hidden name, and renames it;
  `delete` removes it first. Where fsspec renames by copying, a reader may see half a manifest for a moment.
* A lock per id lets exactly one creator win within one process. Between processes the later creator may overwrite the
  earlier one. New avatars have unique ids, so only `copy` and `demo` can collide.
* The same lock lets exactly one of several writers replace a manifest. Between processes the later writer may overwrite
  the earlier one, and a manifest that is written while another process deletes the bundle may stay.
* A created bundle is as durable as the file system makes it.
* The files of a writer that crashed stay until the id is created again. There is no sweep, because nothing tells
  whether their writer is still alive.
* Versions and entity tags come from the file system's metadata: a checksum, or else times and sizes. Over SFTP and FTP,
  times have whole seconds, so a file that is replaced within the same second by one of the same length may look
  unchanged.
* fsspec's own caches of listings are bypassed. Blocking calls run in threads. A call that exceeds
  OPENTALKING_FSSPEC_TIMEOUT_SECONDS raises StoreUnavailable, but its thread stays busy until the call returns.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    InvalidURL,
    ManifestChanged,
    NotFound,
    StoreFull,
    StoreUnavailable,
    check_new_bundle,
    chunk_ranges,
    finish,
    is_avatar_id,
    is_bundle_path,
)

from .metadata import etag, file_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
    from typing import Self

    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

T = TypeVar("T")

_CHUNK_BYTES = 4 * 1024 * 1024
_WRITE_BUFFER_BYTES = 2 * _CHUNK_BYTES
_SCAN_BATCH = 64  # number of manifests that a scan asks for at the same time
_MAX_READS = 10  # of a file or a listing that changes during each of them
_THREADS = 16
_TIMEOUT_VARIABLE = "OPENTALKING_FSSPEC_TIMEOUT_SECONDS"


class FsspecStore:
    """The bundle store over a file system of fsspec; the module's docstring says what it can't promise.

    Args:
        url: a URL that fsspec takes, optionally with "fsspec+" before it.

    Raises:
        InvalidURL: the URL holds a password, or OPENTALKING_FSSPEC_TIMEOUT_SECONDS has a wrong value.
    """

    def __init__(self, url: str) -> None:
        if re.search(r"//[^/@]*:[^/@]*@", url):
            raise InvalidURL("a URL with a password would show in logs; give it to the file system's own configuration")
        self.url = url
        self._timeout = _timeout_seconds()
        self._fs: AbstractFileSystem | None = None
        self._root = ""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(_THREADS, "fsspec")
        try:
            await self._call(self._connect)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _connect(self) -> None:
        import fsspec

        plain = re.sub(r"^fsspec\+", "", self.url, flags=re.IGNORECASE)
        try:
            fs, root = fsspec.core.url_to_fs(plain, use_listings_cache=False)
        except ImportError as error:
            raise StoreUnavailable(f"{self.url} needs another package: {error}") from None
        except ValueError as error:
            raise InvalidURL(f"{self.url} can't be opened: {error}") from None
        self._fs, self._root = fs, str(root).rstrip("/")
        with suppress(NotImplementedError, FileExistsError, NotADirectoryError):
            fs.makedirs(self._root, exist_ok=True)
        self._names()

    # -- reading

    async def scan(self) -> AsyncIterator[BundleVersion]:
        """Yield every bundle. This takes a listing, and a metadata request for each bundle's manifest."""

        def version(avatar_id: str) -> BundleVersion | None:
            with suppress(FileNotFoundError, NotADirectoryError):
                return BundleVersion(avatar_id, etag(self._info(avatar_id, MANIFEST)))
            return None

        ids = [name for name in await self._call(self._names) if is_avatar_id(name)]
        for start in range(0, len(ids), _SCAN_BATCH):
            batch = ids[start : start + _SCAN_BATCH]
            for found in await asyncio.gather(*(self._call(version, avatar_id) for avatar_id in batch)):
                if found is not None:
                    yield found

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        for info in await self._call(self._files, avatar_id):
            yield info

    def _files(self, avatar_id: str) -> list[FileInfo]:
        start = len(self._filesystem._strip_protocol(self._path(avatar_id))) + 1
        for _ in range(_MAX_READS):
            before = etag(self._info(avatar_id, MANIFEST))
            found = self._filesystem.find(self._path(avatar_id), detail=True)
            infos = [file_info(path[start:], info) for path, info in found.items() if is_bundle_path(path[start:])]
            if etag(self._info(avatar_id, MANIFEST)) == before:
                return infos
            # The manifest was replaced; or the bundle was deleted and made anew, and the listing may lack files.
        raise FileNotFoundError

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[FsspecReader]:

        def stat() -> FileInfo:
            if path != MANIFEST:
                self._info(avatar_id, MANIFEST)
            info = self._info(avatar_id, path)
            if info.get("type") != "file":
                raise FileNotFoundError
            return file_info(path, info)

        def read(info: FileInfo, start: int, stop: int) -> bytes:
            data: bytes = self._filesystem.cat_file(self._path(avatar_id, path), start=start, end=stop)
            if len(data) != stop - start or etag(self._info(avatar_id, path)) != info.etag:
                raise FileNotFoundError  # replaced or deleted during the read
            return data

        def stat_and_read() -> tuple[FileInfo, bytes | None]:
            for _ in range(_MAX_READS):
                info = stat()
                if info.size > _CHUNK_BYTES:
                    return info, None
                with suppress(FileNotFoundError):  # replaced meanwhile: read the new file
                    return info, read(info, 0, info.size) if info.size else b""
            raise FileNotFoundError

        info, data = await self._call(stat_and_read)
        reader = FsspecReader(info, lambda start, stop: self._call(read, info, start, stop))
        reader.data = data
        yield reader

    # -- writing

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        check_new_bundle(avatar_id, files)
        lock = self._locks.setdefault(avatar_id, asyncio.Lock())
        async with lock:
            if await self._call(self._exists, avatar_id):
                raise AlreadyExists(f"there is an avatar {avatar_id!r} already")
            await self._call(self._remove, avatar_id)  # the files of a writer that crashed
            hidden = f".{MANIFEST}-{secrets.token_hex(8)}"
            try:
                for path, content in files.items():
                    await self._write(avatar_id, hidden if path == MANIFEST else path, content)
                await finish(self._call(self._publish, avatar_id, hidden))
            except BaseException:
                await finish(self._call(self._remove, avatar_id))
                raise

    async def _write(self, avatar_id: str, path: str, content: bytes | AsyncIterable[bytes]) -> None:
        full = self._path(avatar_id, path)
        await self._call(lambda: self._filesystem.makedirs(full.rpartition("/")[0], exist_ok=True))
        if isinstance(content, bytes):
            await finish(self._call(self._filesystem.pipe_file, full, content))
            return
        file = await self._call(lambda: self._filesystem.open(full, "wb", block_size=_WRITE_BUFFER_BYTES))
        try:
            async for chunk in content:
                await finish(self._call(file.write, chunk))
        finally:
            await finish(self._call(file.close))

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        lock = self._locks.setdefault(avatar_id, asyncio.Lock())
        async with lock:
            return await finish(self._call(self._replace, avatar_id, manifest, expected_etag))

    def _replace(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        if etag(self._info(avatar_id, MANIFEST)) != expected_etag:
            raise ManifestChanged(f"the manifest of avatar {avatar_id!r} has changed")
        hidden = f".{MANIFEST}-{secrets.token_hex(8)}"
        try:
            self._filesystem.pipe_file(self._path(avatar_id, hidden), manifest)
            self._publish(avatar_id, hidden)
        except BaseException:
            with suppress(OSError):
                self._filesystem.rm_file(self._path(avatar_id, hidden))
            raise
        return etag(self._info(avatar_id, MANIFEST))

    def _publish(self, avatar_id: str, hidden: str) -> None:
        self._filesystem.mv(self._path(avatar_id, hidden), self._path(avatar_id, MANIFEST))

    async def delete(self, avatar_id: str) -> None:

        def delete() -> None:
            self._info(avatar_id, MANIFEST)
            self._filesystem.rm_file(self._path(avatar_id, MANIFEST))
            self._remove(avatar_id)

        lock = self._locks.setdefault(avatar_id, asyncio.Lock())
        async with lock:
            await finish(self._call(delete))

    def _remove(self, avatar_id: str) -> None:
        with suppress(FileNotFoundError):
            self._filesystem.rm(self._path(avatar_id), recursive=True)

    def _exists(self, avatar_id: str) -> bool:
        with suppress(FileNotFoundError, NotADirectoryError):
            return bool(self._info(avatar_id, MANIFEST))
        return False

    # -- the file system, in threads

    @property
    def _filesystem(self) -> AbstractFileSystem:
        assert self._fs is not None, "enter the store first"  # noqa: S101
        return self._fs

    def _path(self, avatar_id: str, path: str = "") -> str:
        if not is_avatar_id(avatar_id):
            raise NotFound(f"there is no avatar {avatar_id!r:.80}")
        return f"{self._root}/{avatar_id}/{path}".rstrip("/")

    def _info(self, avatar_id: str, path: str) -> dict[str, Any]:
        if not is_bundle_path(path):
            raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
        info: dict[str, Any] = self._filesystem.info(self._path(avatar_id, path))
        return info

    def _names(self) -> list[str]:
        """Return the names in the root. Raises StoreUnavailable if the root isn't a folder."""
        try:
            found = self._filesystem.ls(self._root or "/", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreUnavailable(f"{self.url} is no folder and can't be created; correct the URL") from None
        return [str(name).rstrip("/").rpartition("/")[2] for name in found]

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        """Call `function` in a thread, for at most the timeout. Raises NotFound, StoreFull, StoreUnavailable."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        try:
            # Python 3.11's asyncio.wait_for loses a cancellation that comes when the work has just ended.
            async with asyncio.timeout(self._timeout):
                return await work
        except TimeoutError:
            raise StoreUnavailable(f"{self.url} did not answer within {self._timeout:g} seconds") from None
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"{self.url} has no such avatar, or the avatar has no such file") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NotFound(f"{self.url} can't have a file of such a long name") from None
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"{self.url} has no room left; nothing was written") from error
            raise StoreUnavailable(f"{self.url} failed: {error.strerror or type(error).__name__}") from error
        except (NotFound, ManifestChanged, StoreUnavailable, InvalidURL):
            raise
        except Exception as error:  # each package of fsspec's has exceptions of its own
            raise StoreUnavailable(f"{self.url} failed: {type(error).__name__}; its log may say more") from error


class FsspecReader:
    """An open file; see `opentalking_core.FileReader`. The content of a small file is in memory."""

    def __init__(self, info: FileInfo, read: Callable[[int, int], Awaitable[bytes]]) -> None:
        self.info = info
        self.data: bytes | None = None
        self._read = read

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield a range of the file. Raise NotFound if the file was replaced or deleted meanwhile."""
        for offset, length in chunk_ranges(self.info.size, start, stop, _CHUNK_BYTES):
            end = offset + length
            yield self.data[offset:end] if self.data is not None else await self._read(offset, end)

    async def read(self) -> bytes:
        return self.data if self.data is not None else b"".join([chunk async for chunk in self.chunks()])


def _timeout_seconds() -> float:
    value = os.environ.get(_TIMEOUT_VARIABLE, "30")
    with suppress(ValueError):
        seconds = float(value)
        if 0 < seconds < math.inf:
            return seconds
    raise InvalidURL(f"{_TIMEOUT_VARIABLE}={value}: must be a number of seconds greater than 0")
