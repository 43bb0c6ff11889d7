"""One bucket and prefix over obstore. Each request is bounded in time, and fails with an error of the core."""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store as ObstoreS3

from opentalking_core import AlreadyExists, InvalidURL, NotFound

from .clocks import Clocks
from .credentials import profile_credentials
from .failures import Failures, http_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Sequence

    from obstore import ObjectMeta
    from obstore.store import S3CredentialProvider

    from .settings import S3Settings

T = TypeVar("T")

#: Larger objects are uploaded in parts of this size. A manifest is never larger.
PART_BYTES = 8 * 1024 * 1024

#: Larger objects are downloaded in ranges of this size. While one range is being sent to a client, the next one is held
#: by obstore and then also in Python.
RANGE_BYTES = 2 * 1024 * 1024
_PARALLEL_PARTS = 4  # number of parts of one object that are uploaded at the same time
_PAGE_OBJECTS = 1000  # number of objects in one response to LIST, and in one request to delete

MAX_KEY_BYTES = 1024  # S3's limit
MAX_PREFIX_BYTES = MAX_KEY_BYTES // 2

_MAX_CONNECT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Object:
    """An object that was read: its metadata, and its content unless that is too large to be read as a whole."""

    meta: ObjectMeta
    data: bytes | None


class NotModified(Exception):
    """The object still has the entity tag that the caller knows."""


class Bucket:
    """The objects below one prefix of one bucket. Keys are relative to the prefix.

    Args:
        url: s3://bucket/prefix.
        settings: from the environment.
        clocks: for the ages of objects.

    Raises:
        InvalidURL: the URL has no bucket, a prefix that is too long, credentials or a query.
    """

    def __init__(self, url: str, settings: S3Settings, clocks: Clocks = Clocks()) -> None:  # noqa: B008 - immutable
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise InvalidURL("an s3:// URL takes no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self.prefix = unquote(parts.path).strip("/")
        if not parts.netloc or parts.query or parts.fragment or "//" in self.prefix:
            raise InvalidURL(f"{url.partition('?')[0]} is no s3://bucket/prefix; settings go into the environment")
        self._name = parts.netloc
        self.url = f"s3://{self._name}/{parts.path.strip('/')}".rstrip("/")
        if len(self.prefix.encode()) > MAX_PREFIX_BYTES:
            raise InvalidURL(f"the prefix in {self.url} is too long; at most {MAX_PREFIX_BYTES} bytes")
        self._timeout = settings.timeout_seconds
        self._clocks = clocks
        self.endpoint = next(
            filter(None, map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))), "AWS"
        )
        self._failures = Failures(self.url, self._name, self.endpoint, self._timeout)
        self._server_ahead_seconds = 0.0
        self._conditional = True  # whether the server honours If-None-Match and If-Match of a PUT
        #: Sentences about what the server can't do or doesn't allow.
        self.problems: list[str] = []

    async def connect(self) -> None:
        """Check that the bucket exists, and try out what its server can do. Raises StoreUnavailable."""
        self.problems = []
        with self._failures.translated():
            provider = await asyncio.to_thread(profile_credentials)
            self._store = self._open(provider)
        async for _ in self.list(""):
            break
        # If this object can't be deleted, the sweep removes it like a dead writer's claim.
        key = f".opentalking/claims/probe-{secrets.token_hex(8)}"
        try:
            self._conditional = await self._is_conditional(key)
        except (PermissionDeniedError, UnauthenticatedError):
            self.problems.append(f"{self.url} can only be read; allow s3:PutObject and s3:DeleteObject to change it")
            return
        if not self._conditional:
            self.problems.append(
                f"{self.endpoint} ignores If-None-Match, so two processes that write to one id at once are not"
                " told apart"
            )
        with self._failures.translated():
            meta = await self._bounded(obstore.head_async(self._store, key))
            self._server_ahead_seconds = meta["last_modified"].timestamp() - self._clocks.wall()
        try:
            await self._bounded(obstore.delete_async(self._store, [key]))
        except (BaseError, NotImplementedError):  # some servers lack batch deletes or implement them differently
            with self._failures.translated():
                self._store = self._open(provider, disable_bulk_delete=True)
        await self.delete([key])

    async def _is_conditional(self, key: str) -> bool:
        try:
            await self._bounded(obstore.put_async(self._store, key, b"", mode="create"))
            await self._bounded(obstore.put_async(self._store, key, b"", mode="create"))
        except AlreadyExistsError:
            return True
        except (PermissionDeniedError, UnauthenticatedError):
            raise
        except (BaseError, NotImplementedError) as error:
            if http_status(error) != 501:
                raise self._failures.explain(error) from None
            with self._failures.translated():
                await self._bounded(obstore.put_async(self._store, key, b""))
        except TimeoutError as error:
            raise self._failures.explain(error) from None
        return False

    def _open(self, provider: S3CredentialProvider | None, **config: Any) -> ObstoreS3:
        seconds = self._timeout
        return ObstoreS3(
            self._name,
            prefix=self.prefix or None,
            credential_provider=provider,
            client_options={
                "allow_http": self.endpoint.startswith("http:"),
                "connect_timeout": timedelta(seconds=min(seconds / 4, _MAX_CONNECT_SECONDS)),
                "timeout": timedelta(seconds=seconds / 2),  # leaves time for a second attempt
            },
            retry_config={
                "max_retries": 3,
                "retry_timeout": timedelta(seconds=seconds),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
            **config,
        )

    def age(self, modified: float) -> float:
        """Return the seconds since a time, in seconds since the epoch by the server's clock."""
        return self._clocks.wall() + self._server_ahead_seconds - modified

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        """Yield the objects below the folder `prefix`, or all if it is "", in any order. Raises StoreUnavailable."""
        with self._failures.translated():
            pages = aiter(obstore.list(self._store, prefix or None, chunk_size=_PAGE_OBJECTS))
        while True:
            try:
                with self._failures.translated():
                    page = await self._bounded(anext(pages))
            except StopAsyncIteration:
                return
            for meta in page:
                yield meta

    async def list_folder(self, folder: str) -> dict[str, ObjectMeta]:
        """Return all objects below a folder by their paths in it, without empty objects that stand for subfolders."""
        start = len(folder) + 1
        found = {meta["path"][start:]: meta async for meta in self.list(folder)}
        subfolders = {path.rpartition("/")[0] for path in found}
        return {path: meta for path, meta in found.items() if path and (meta["size"] or path not in subfolders)}

    async def head(self, key: str) -> ObjectMeta:
        """Return an object's metadata. Raises NotFound, StoreUnavailable."""
        with self._failures.translated():
            return await self._bounded(obstore.head_async(self._store, key))

    async def get(self, key: str, known: str | None = None, max_bytes: int = PART_BYTES) -> Object:
        """Return an object, without its content if that is larger than `max_bytes`.

        Raises:
            NotModified: the object's entity tag is `known`.
            NotFound, StoreUnavailable: see the class.
        """

        async def get() -> Object:
            found = await obstore.get_async(self._store, key, options={"if_none_match": known} if known else None)
            small = found.meta["size"] <= max_bytes
            return Object(found.meta, bytes(await found.bytes_async()) if small else None)

        try:
            with self._failures.translated():
                return await self._bounded(get())
        except NotModifiedError:
            raise NotModified from None

    async def get_range(self, key: str, start: int, stop: int, etag: str | None) -> bytes:
        """Return a range of an object that still has this entity tag. Raises NotFound, StoreUnavailable."""

        async def get() -> bytes:
            found = await obstore.get_async(self._store, key, options={"range": (start, stop), "if_match": etag})
            return bytes(await found.bytes_async())

        try:
            with self._failures.translated():
                return await self._bounded(get())
        except AlreadyExists:
            raise NotFound(f"{self.url}/{key} was replaced while it was being read") from None

    async def put(
        self, key: str, data: bytes, *, create: bool = False, replace: str | None = None, media_type: str | None = None
    ) -> str | None:
        """Write an object and return its entity tag.

        Args:
            key: the object's key.
            data: the object's content.
            create: write only if there is no such object yet.
            replace: write only if the present object has this entity tag.
            media_type: the object's Content-Type.

        Raises:
            AlreadyExists: the condition of `create` or `replace` failed, perhaps because an earlier attempt of this
                call succeeded and its response was lost.
            StoreFull: nothing was written.
            StoreUnavailable: the object may still be written.
        """
        mode: Any = "create" if create and self._conditional else None
        if replace is not None and self._conditional:
            mode = {"e_tag": replace}
        attributes: Any = {"Content-Type": media_type} if media_type else None
        large = len(data) > PART_BYTES and mode is None
        putting = obstore.put_async(
            self._store, key, data,
            mode=mode, attributes=attributes, use_multipart=large,
            chunk_size=PART_BYTES, max_concurrency=_PARALLEL_PARTS,
        )  # fmt: skip
        with self._failures.translated():
            # An upload in parts may take longer than one request. obstore bounds the time of each part.
            return (await (putting if large else self._bounded(putting)))["e_tag"]

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes], media_type: str | None) -> None:
        """Write a large object in parts. Raises StoreFull, StoreUnavailable, and exceptions of `chunks`."""
        attributes: Any = {"Content-Type": media_type} if media_type else None
        with self._failures.translated():
            await obstore.put_async(
                self._store, key, chunks, attributes=attributes, chunk_size=PART_BYTES, max_concurrency=_PARALLEL_PARTS
            )

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, a thousand in one request. Missing objects are no error. Raises StoreUnavailable."""
        for start in range(0, len(keys), _PAGE_OBJECTS):
            with self._failures.translated():
                await self._bounded(obstore.delete_async(self._store, keys[start : start + _PAGE_OBJECTS]))

    async def sign(self, key: str, seconds: float) -> str:
        """Return a URL with which anyone can GET the object. Costs no request. Raises StoreUnavailable."""
        with self._failures.translated():
            return await self._bounded(obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds)))

    async def _bounded(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(self._timeout):
            return await work


def modified(meta: ObjectMeta) -> float:
    """Return when an object was written, in seconds since the epoch by the server's clock."""
    return meta["last_modified"].timestamp()
