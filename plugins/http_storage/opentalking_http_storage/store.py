"""The read-only bundle store over the API of another server.

* The list is the server's: neither hidden avatars nor those whose manifest is broken are in it.
* A bundle's version is the entity tag of its manifest, which takes one HEAD request for each bundle.
* A file is read by ranges of one version. If the file changes meanwhile, the reader raises NotFound.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import httpx

from opentalking_core import (
    MANIFEST,
    BundleVersion,
    FileInfo,
    InvalidURL,
    NotFound,
    NotSupported,
    StoreUnavailable,
    check_new_bundle,
    chunk_ranges,
    is_avatar_id,
    is_bundle_path,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
    from typing import Self

_CHUNK_BYTES = 4 * 1024 * 1024
_SCAN_BATCH = 64  # number of manifests that a scan asks for at the same time
_CONNECTIONS = 16
_TIMEOUT_SECONDS = 30.0
_KEY_VARIABLE = "OPENTALKING_API_KEY"

#: 414: an id or a path that is too long for a URL names nothing.
_MISSING = (404, 414)


class HttpStore:
    """The avatars of a server; the module's docstring says what differs from other stores.

    Args:
        url: the server's address, such as http://avatars:8000.

    Raises:
        InvalidURL: the URL has no host, or holds a password, a query or a fragment.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)

    async def __aenter__(self) -> Self:
        self._http = await asyncio.to_thread(self._client)  # reads the certificates
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    def _client(self) -> httpx.AsyncClient:
        key = os.environ.get(_KEY_VARIABLE)
        # Ranges of a compressed file would be ranges of other bytes.
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        timeout = httpx.Timeout(_TIMEOUT_SECONDS, pool=None)  # requests of ours that wait for each other
        return httpx.AsyncClient(headers=headers, timeout=timeout, limits=httpx.Limits(max_connections=_CONNECTIONS))

    # -- reading

    async def scan(self) -> AsyncIterator[BundleVersion]:
        """Yield every bundle that the server lists. This takes a list, and a HEAD request for each manifest."""
        ids = [str(summary["id"]) for summary in await self._get_list("/avatars", "id")]
        for start in range(0, len(ids), _SCAN_BATCH):
            batch = ids[start : start + _SCAN_BATCH]
            for found in await asyncio.gather(*map(self._version, batch)):
                if found is not None:
                    yield found

    async def _version(self, avatar_id: str) -> BundleVersion | None:
        try:
            response = await self._request("HEAD", _file_path(avatar_id, MANIFEST))
        except NotFound:  # deleted since the list was made
            return None
        return BundleVersion(avatar_id, _etag(response))

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        for entry in await self._get_list(f"{_avatar_path(avatar_id)}/files", "path", "size", "etag", "modified"):
            modified = datetime.fromisoformat(entry["modified"]).timestamp()
            yield FileInfo(entry["path"], entry["size"], entry["etag"], modified)

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[HttpReader]:
        url = _file_path(avatar_id, path)
        response = await self._request("GET", url, f"bytes=0-{_CHUNK_BYTES - 1}", accept=(206, 416))
        head = response.content if response.status_code == 206 else b""
        if response.status_code == 416:  # an empty file has no first byte
            response = await self._request("HEAD", url)
        info = FileInfo(path, _total_size(response), _etag(response), _modified(response))

        async def read(start: int, stop: int) -> bytes:
            part = await self._request("GET", url, f"bytes={start}-{stop - 1}", info.etag, accept=(200, 206, 416))
            if part.status_code != 206 or _etag(part) != info.etag:
                raise NotFound(f"{path} of avatar {avatar_id!r} changed while it was read; read it again")
            return part.content

        yield HttpReader(info, head, read)

    # -- writing

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        check_new_bundle(avatar_id, files)
        self._refuse()

    async def delete(self, avatar_id: str) -> None:
        _avatar_path(avatar_id)
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotSupported(f"the avatars of {self.url} can only be read here; change them on that server")

    # -- the server

    async def _get_list(self, path: str, *keys: str) -> list[dict[str, Any]]:
        """Return the list of objects at `path`. Raise StoreUnavailable if they lack one of the keys."""
        response = await self._request("GET", path)
        try:
            entries: list[dict[str, Any]] = response.json()
            if all(entry.keys() >= set(keys) for entry in entries):
                return entries
        except (ValueError, AttributeError, TypeError):
            pass
        raise StoreUnavailable(f"{self.url} does not answer as an avatar service does; is it an opentalking-core?")

    async def _request(
        self, method: str, path: str, byte_range: str = "", if_range: str = "", accept: tuple[int, ...] = (200,)
    ) -> httpx.Response:
        """Return a response with one of the statuses in `accept`. Raises NotFound, StoreUnavailable.

        A whole file that is answered instead of a range is not read: the file may be large.
        """
        headers = {"Range": byte_range} if byte_range else {}
        if if_range:
            headers["If-Range"] = f'"{if_range}"'
        try:
            async with self._http.stream(method, self.url + path, headers=headers) as response:
                if response.status_code == (206 if byte_range else 200):
                    await response.aread()
        except httpx.TimeoutException:
            raise StoreUnavailable(f"{self.url} did not answer within {_TIMEOUT_SECONDS:g} seconds") from None
        except httpx.HTTPError as error:
            raise StoreUnavailable(f"{self.url} can't be reached: {error or type(error).__name__}") from None
        if response.status_code not in accept:
            raise self._error(response)
        return response

    def _error(self, response: httpx.Response) -> NotFound | StoreUnavailable:
        status = response.status_code
        if status in _MISSING:
            return NotFound(f"{self.url} has no such avatar, or the avatar has no such file")
        if status in (401, 403):
            return StoreUnavailable(f"{self.url} denies access ({status}); set {_KEY_VARIABLE} to a key of that server")
        return StoreUnavailable(f"{self.url} answered {status} {response.reason_phrase}; its log may say more")


class HttpReader:
    """An open file; see `opentalking_core.FileReader`. The first few MiB are in memory."""

    def __init__(self, info: FileInfo, head: bytes, read: Callable[[int, int], Awaitable[bytes]]) -> None:
        self.info = info
        self._head = head
        self._read = read

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield a range of the file. Raise NotFound if the file was replaced or deleted meanwhile."""
        for offset, length in chunk_ranges(self.info.size, start, stop, _CHUNK_BYTES):
            end = offset + length
            yield self._head[offset:end] if end <= len(self._head) else await self._read(offset, end)

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidURL(f"the address of the server is wrong: {error}") from None
    if parsed.userinfo:
        raise InvalidURL(f"a URL with a password would show in logs; set {_KEY_VARIABLE} instead")
    if not parsed.host or parsed.query or parsed.fragment:
        raise InvalidURL(f"{url} is not the address of a server, which looks like http://avatars:8000")
    return url.rstrip("/")


def _avatar_path(avatar_id: str) -> str:
    if not is_avatar_id(avatar_id):
        raise NotFound(f"there is no avatar {avatar_id!r:.80}")
    return f"/avatars/{quote(avatar_id, safe='')}"


def _file_path(avatar_id: str, path: str) -> str:
    if not is_bundle_path(path):
        raise NotFound(f"avatar {avatar_id!r:.80} has no file {path!r:.80}")
    return f"{_avatar_path(avatar_id)}/files/{quote(path)}"


def _etag(response: httpx.Response) -> str:
    return str(response.headers.get("ETag", "")).removeprefix("W/").strip('"')


def _total_size(response: httpx.Response) -> int:
    """Return the size of the whole file, of which the response may be a part or the headers."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total or response.headers.get("Content-Length", 0))


def _modified(response: httpx.Response) -> float:
    """Return when the file was changed. A file without a time counts as modified now."""
    try:
        return parsedate_to_datetime(response.headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError):
        return time.time()
