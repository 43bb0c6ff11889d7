"""Avatar bundles on any file system that fsspec knows: gs://, az://, sftp://, ftp://, webdav:// ... and fsspec+<any>://.

What it promises is what such a file system can honestly give, which is less than a folder or S3 give:

* A bundle is its manifest: that is written last, under a hidden name, and renamed; it is deleted first. So nobody sees
  a bundle in the making, except that where fsspec renames by copying (some do) a manifest may be seen half written.
* Creators of one id are told apart within one process. Between processes the later one may win over the earlier; new
  avatars' ids are unique, so this concerns `copy` and `demo` alone.
* Whether what was created is durable is the file system's affair.
* What a crash leaves stays until the id is created again; there is no sweep, for nothing tells whose it is.
* Versions and entity tags come from what the file system tells of a file: a checksum, or else times and sizes. Over
  sftp and ftp, times have whole seconds: a file replaced within one by another of the same length may go unnoticed.
* fsspec's own caches of listings are passed by. Blocking calls run in threads; one that hangs holds up a thread, and
  is answered as unavailable after OPENTALKING_FSSPEC_TIMEOUT_SECONDS (30).

Credentials come from where the file system's own package takes them (environment, files of its vendor's tools).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    InvalidURL,
    NotFound,
    StoreFull,
    StoreUnavailable,
    hookimpl,
    is_avatar_id,
    is_bundle_path,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
    from typing import Self

    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

    from opentalking_core import BundleStore

T = TypeVar("T")

#: These have a plugin of their own, or hold no files of ours; `fsspec+s3://` asks for fsspec's own.
_OTHERS = {"file", "local", "memory", "s3", "s3a", "data", "http", "https", "zip", "tar", "reference", "git", "github"}
_PIECE = 4 * 1024 * 1024
_TELLTALE = ("etag", "md5hash", "crc32c", "generation", "checksum", "content_md5", "mtime", "last_modified", "updated")
_TELLTALE_TOO = ("lastmodified", "modified", "modify", "created", "ino", "size")
_TIMES = ("mtime", "last_modified", "LastModified", "updated", "modified", "modify", "created")


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Opens the URL schemes that fsspec knows and no other plugin of ours does, and fsspec+<scheme>:// for all."""
    scheme, found, _ = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme in _OTHERS:
        return None
    explicit = scheme.startswith("fsspec+")
    import fsspec  # every plugin is imported at every start, most of them for nothing

    if not explicit and scheme not in fsspec.available_protocols():
        return None
    return FsspecStore(url)


class FsspecStore:
    """The bundle store over a file system of fsspec; see the module's docstring for what it can't promise.

    Args:
        url: as fsspec takes it, optionally with "fsspec+" before it.

    Raises:
        InvalidURL: fsspec doesn't know the scheme, or credentials in the URL.
    """

    def __init__(self, url: str) -> None:
        if re.search(r"//[^/@]*:[^/@]*@", url):
            raise InvalidURL("a URL with a password would show in logs; give it to the file system's own configuration")
        self.url = url
        self._fs: AbstractFileSystem | None = None
        self._root = ""
        self._creating: dict[str, asyncio.Lock] = {}
        self._timeout = float(os.environ.get("OPENTALKING_FSSPEC_TIMEOUT_SECONDS", "30"))

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(16, "fsspec")
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
        self._ids()

    # -- reading

    async def scan(self) -> AsyncIterator[BundleVersion]:
        """See `BundleStore.scan`. Costs a listing and a look at each bundle's manifest."""

        def look(avatar_id: str) -> BundleVersion | None:
            with suppress(FileNotFoundError, NotADirectoryError):
                return BundleVersion(avatar_id, _etag(self._info(avatar_id, MANIFEST)))
            return None

        found = [name for name in await self._call(self._ids) if is_avatar_id(name)]
        for start in range(0, len(found), 64):
            for version in await asyncio.gather(*(self._call(look, name) for name in found[start : start + 64])):
                if version is not None:
                    yield version

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """See `BundleStore.files`. Raises NotFound, StoreUnavailable."""
        for info in await self._call(self._files, avatar_id):
            yield info

    def _files(self, avatar_id: str) -> list[FileInfo]:
        before = _etag(self._info(avatar_id, MANIFEST))
        start = len(self._fs._strip_protocol(self._path(avatar_id))) + 1  # type: ignore[union-attr]
        found = self._filesystem.find(self._path(avatar_id), detail=True)
        infos = [_file_info(path[start:], info) for path, info in found.items() if is_bundle_path(path[start:])]
        if _etag(self._info(avatar_id, MANIFEST)) != before:
            raise FileNotFoundError  # deleted meanwhile, and the list may lack what went first
        return infos

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[FsspecReader]:
        """See `BundleStore.open`. Raises NotFound, StoreUnavailable."""

        def look() -> FileInfo:
            if path != MANIFEST:
                self._info(avatar_id, MANIFEST)
            info = self._info(avatar_id, path)
            if info.get("type") != "file":
                raise FileNotFoundError
            return _file_info(path, info)

        info = await self._call(look)

        def read(start: int, stop: int) -> bytes:
            data: bytes = self._filesystem.cat_file(self._path(avatar_id, path), start=start, end=stop)
            if len(data) != stop - start or _etag(self._info(avatar_id, path)) != info.etag:
                raise FileNotFoundError  # replaced or deleted while it was being read
            return data

        reader = FsspecReader(info, lambda start, stop: self._call(read, start, stop))
        if info.size <= _PIECE:
            reader.data = await self._call(read, 0, info.size) if info.size else b""
        yield reader

    # -- writing

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """See `BundleStore.create`. Raises AlreadyExists, StoreUnavailable, ValueError."""
        if not (is_avatar_id(avatar_id) and MANIFEST in files and all(map(is_bundle_path, files))):
            raise ValueError(f"not a bundle: id {avatar_id!r}, files {', '.join(map(repr, files))}")
        async with self._creating.setdefault(avatar_id, asyncio.Lock()):
            if await self._call(self._exists, avatar_id):
                raise AlreadyExists(f"there is an avatar {avatar_id!r} already")
            await self._call(self._remove, avatar_id)  # what a crash has left
            hidden = f".{MANIFEST}-{secrets.token_hex(8)}"
            try:
                for path, content in files.items():
                    await self._write(avatar_id, hidden if path == MANIFEST else path, content)
                await self._finish(lambda: self._publish(avatar_id, hidden))
            except BaseException:
                await self._finish(lambda: self._remove(avatar_id))
                raise

    async def _write(self, avatar_id: str, path: str, content: bytes | AsyncIterable[bytes]) -> None:
        full = self._path(avatar_id, path)
        await self._call(lambda: self._filesystem.makedirs(full.rpartition("/")[0], exist_ok=True))
        if isinstance(content, bytes):
            await self._finish(lambda: self._filesystem.pipe_file(full, content))
            return
        file = await self._call(lambda: self._filesystem.open(full, "wb", block_size=2 * _PIECE))
        try:
            async for chunk in content:
                await self._finish(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
        finally:
            await self._finish(file.close)

    def _publish(self, avatar_id: str, hidden: str) -> None:
        self._filesystem.mv(self._path(avatar_id, hidden), self._path(avatar_id, MANIFEST))

    async def delete(self, avatar_id: str) -> None:
        """See `BundleStore.delete`. Raises NotFound, StoreUnavailable."""

        def delete() -> None:
            self._info(avatar_id, MANIFEST)
            self._filesystem.rm_file(self._path(avatar_id, MANIFEST))
            self._remove(avatar_id)

        async with self._creating.setdefault(avatar_id, asyncio.Lock()):
            await self._finish(delete)

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

    def _ids(self) -> list[str]:
        """What is in the root. Raises StoreUnavailable if the root itself isn't there."""
        try:
            found = self._filesystem.ls(self._root or "/", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreUnavailable(f"{self.url} is no folder, or can't be made one; correct the URL") from None
        return [str(name).rstrip("/").rpartition("/")[2] for name in found]

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        try:
            return await asyncio.wait_for(work, self._timeout)
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
        except (NotFound, StoreUnavailable, InvalidURL):
            raise
        except Exception as error:  # every package of fsspec's has its own
            raise StoreUnavailable(f"{self.url} failed: {type(error).__name__}; its log may say more") from error

    async def _finish(self, function: Callable[[], T]) -> T:
        """Call it in a thread and wait for its end, however often we are cancelled: cleaning up must not overlap it."""
        work = asyncio.ensure_future(self._call(function))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            raise


class FsspecReader:
    """An open file; see `opentalking_core.FileReader`. A small one is in memory."""

    def __init__(self, info: FileInfo, read: Callable[[int, int], Any]) -> None:
        self.info = info
        self.data: bytes | None = None
        self._read = read

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """See `FileReader.chunks`. Raises NotFound if it was replaced or deleted meanwhile, StoreUnavailable."""
        stop = self.info.size if stop is None else min(stop, self.info.size)
        for offset in range(start, stop, _PIECE):
            end = min(offset + _PIECE, stop)
            yield self.data[offset:end] if self.data is not None else await self._read(offset, end)

    async def read(self) -> bytes:
        """See `FileReader.read`. Raises NotFound, StoreUnavailable."""
        return self.data if self.data is not None else b"".join([piece async for piece in self.chunks()])


def _etag(info: Mapping[str, Any]) -> str:
    """A digest of what tells versions of a file apart; times of access are not among it."""
    telling = sorted((key, str(value)) for key, value in info.items() if key.lower() in (*_TELLTALE, *_TELLTALE_TOO))
    return hashlib.sha256(repr(telling).encode()).hexdigest()[:32]


def _file_info(path: str, info: Mapping[str, Any]) -> FileInfo:
    modified = next((info[key] for key in _TIMES if info.get(key) is not None), time.time())
    if isinstance(modified, str):
        with suppress(ValueError):
            modified = datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime) else modified
    return FileInfo(
        path,
        int(info.get("size") or 0),
        _etag(info),
        float(seconds) if isinstance(seconds, int | float) else time.time(),
    )
