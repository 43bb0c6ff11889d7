"""One bucket and prefix over obstore: each request bounded in time, each error one of ours, no secrets in it."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as ObstoreS3
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from opentalking_core import AlreadyExists, InvalidURL, NotFound, OpenTalkingError, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterator, Sequence

    from obstore import ObjectMeta
    from obstore.store import S3CredentialProvider

T = TypeVar("T")

#: Larger contents go up in parts of this size, and come down in such ranges. A manifest is never larger.
PART = 8 * 1024 * 1024

_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "InsufficientCapacity"}
_BUSY = {"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "TooManyRequests"}
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}


class S3Settings(BaseSettings):
    """Each field is read from the environment variable OPENTALKING_S3_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="OPENTALKING_S3_", extra="ignore", frozen=True)

    timeout_seconds: float = Field(
        default=10.0, ge=0.5, le=600, description="A request to S3 may take so long, its retries included."
    )
    grace_seconds: float = Field(
        default=3600.0, ge=0, description="Objects without a manifest are removed when they are older than this."
    )


@dataclass(frozen=True, slots=True)
class Object:
    """An object that was read: its metadata, and its content unless that is larger than PART."""

    meta: ObjectMeta
    data: bytes | None


class NotModified(Exception):
    """The object is still the one that the caller knows."""


class Bucket:
    """The objects below one prefix of one bucket; keys are relative to it.

    Args:
        url: s3://bucket/prefix.
        settings: from the environment.

    Raises:
        InvalidURL: no bucket, or secrets or a query in the URL.
    """

    def __init__(self, url: str, settings: S3Settings) -> None:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise InvalidURL("an s3:// URL takes no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self.prefix = unquote(parts.path).strip("/")
        if not parts.netloc or parts.query or parts.fragment or "//" in self.prefix:
            raise InvalidURL(f"{url.partition('?')[0]} is no s3://bucket/prefix; settings go into the environment")
        self._name = parts.netloc
        self.url = f"s3://{self._name}/{parts.path.strip('/')}".rstrip("/")
        self._timeout = settings.timeout_seconds
        self.endpoint = next(
            filter(None, map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))), "AWS"
        )
        self._clock = 0.0  # how far the server's is ahead
        self._conditional = True
        #: what the server doesn't do, or doesn't let us do; sentences
        self.problems: list[str] = []

    async def connect(self) -> None:
        """Look whether the bucket is there, and find out by trying what its server can do. Raises StoreUnavailable."""
        self.problems = []
        with self._our_errors():
            provider = await asyncio.to_thread(_profile_credentials)
            self._store = self._open(provider)
        async for _ in self.list(""):
            break
        key = f".opentalking/claims/probe-{secrets.token_hex(8)}"  # the sweep takes it for a dead writer's
        try:
            self._conditional = await self._is_conditional(key)
        except (PermissionDeniedError, UnauthenticatedError):
            self.problems.append(f"{self.url} can only be read; allow s3:PutObject and s3:DeleteObject to change it")
            return
        if not self._conditional:
            self.problems.append(
                f"{self.endpoint} ignores If-None-Match, so two that create one id at once are not told apart"
            )
        with self._our_errors():
            meta = await self._bounded(obstore.head_async(self._store, key))
            self._clock = meta["last_modified"].timestamp() - time.time()
        try:
            await self._bounded(obstore.delete_async(self._store, [key]))
        except (BaseError, NotImplementedError):  # there are servers without batch deletes, or with other ideas of them
            with self._our_errors():
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
            if _status(error) != 501:
                raise self._explain(error) from None
            with self._our_errors():
                await self._bounded(obstore.put_async(self._store, key, b""))
        except TimeoutError as error:
            raise self._explain(error) from None
        return False

    def _open(self, provider: S3CredentialProvider | None, **config: Any) -> ObstoreS3:
        seconds = self._timeout
        return ObstoreS3(
            self._name,
            prefix=self.prefix or None,
            credential_provider=provider,
            client_options={
                "allow_http": self.endpoint.startswith("http:"),
                "connect_timeout": timedelta(seconds=min(seconds / 4, 3)),
                "timeout": timedelta(seconds=seconds / 2),  # so that there is time for a second try
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
        """How many seconds ago, by the server's clock."""
        return time.time() + self._clock - modified

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        """Yield the objects below the folder `prefix`, in any order. Raises StoreUnavailable."""
        with self._our_errors():
            pages = aiter(obstore.list(self._store, prefix or None, chunk_size=1000))
        while True:
            try:
                with self._our_errors():
                    page = await self._bounded(anext(pages))
            except StopAsyncIteration:
                return
            for meta in page:
                yield meta

    async def head(self, key: str) -> ObjectMeta:
        """An object's metadata. Raises NotFound, StoreUnavailable."""
        with self._our_errors():
            return await self._bounded(obstore.head_async(self._store, key))

    async def get(self, key: str, known: str | None = None) -> Object:
        """An object, unless its entity tag is `known`. Raises NotFound, NotModified, StoreUnavailable."""

        async def get() -> Object:
            found = await obstore.get_async(self._store, key, options={"if_none_match": known} if known else None)
            small = found.meta["size"] <= PART
            return Object(found.meta, bytes(await found.bytes_async()) if small else None)

        try:
            with self._our_errors():
                return await self._bounded(get())
        except NotModifiedError:
            raise NotModified from None

    async def get_range(self, key: str, start: int, stop: int, etag: str | None) -> bytes:
        """A part of an object that still has this entity tag. Raises NotFound, StoreUnavailable."""

        async def get() -> bytes:
            found = await obstore.get_async(self._store, key, options={"range": (start, stop), "if_match": etag})
            return bytes(await found.bytes_async())

        try:
            with self._our_errors():
                return await self._bounded(get())
        except AlreadyExists:
            raise NotFound(f"{self.url}/{key} was replaced while it was being read") from None

    async def put(
        self, key: str, data: bytes, *, create: bool = False, replace: str | None = None, media_type: str | None = None
    ) -> str | None:
        """Write an object and return its entity tag.

        Args:
            key: of the object.
            data: its content.
            create: only if there is none yet.
            replace: only if the one that is there has this entity tag.
            media_type: its Content-Type.

        Raises:
            AlreadyExists: it's not what `create` or `replace` asked for; perhaps by an own try whose answer was lost.
            StoreFull, StoreUnavailable: in the latter case it may yet have been written.
        """
        mode: Any = "create" if create and self._conditional else None
        if replace is not None and self._conditional:
            mode = {"e_tag": replace}
        attributes: Any = {"Content-Type": media_type} if media_type else None
        large = len(data) > PART and mode is None
        putting = obstore.put_async(
            self._store, key, data,
            mode=mode, attributes=attributes, use_multipart=large, chunk_size=PART, max_concurrency=4,
        )  # fmt: skip
        with self._our_errors():
            # What goes up in parts may take longer than a request; each part is bounded by the client's own limits.
            return (await (putting if large else self._bounded(putting)))["e_tag"]

    async def put_stream(self, key: str, pieces: AsyncIterable[bytes], media_type: str | None) -> None:
        """Write a large object in parts; what `pieces` raises comes through. Raises StoreFull, StoreUnavailable."""
        attributes: Any = {"Content-Type": media_type} if media_type else None
        with self._our_errors():
            await obstore.put_async(self._store, key, pieces, attributes=attributes, chunk_size=PART, max_concurrency=4)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, a thousand in a request; those that aren't there are no error. Raises StoreUnavailable."""
        for start in range(0, len(keys), 1000):
            with self._our_errors():
                await self._bounded(obstore.delete_async(self._store, keys[start : start + 1000]))

    async def sign(self, key: str, seconds: float) -> str:
        """A URL that lets anybody GET the object for so long; made without a request. Raises StoreUnavailable."""
        with self._our_errors():
            return await self._bounded(obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds)))

    async def _bounded(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(self._timeout):
            return await work

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except NotModifiedError:
            raise
        except (BaseError, FileNotFoundError, NotImplementedError, TimeoutError) as error:
            raise self._explain(error) from None  # obstore's text is long, and nobody vouches for what is in it

    def _explain(self, error: Exception) -> OpenTalkingError:
        text = str(error)
        found = re.search(r"<Code>(\w+)</Code>", text)
        status = _status(error)
        code = found[1] if found else f"status {status}" if status else ""
        where = f"{self.url} at {self.endpoint}"
        # The address of a machine's or a container's role: asked when there is nothing else.
        if re.search(r"169\.254\.|/latest/(api/token|meta-data)", text) or (
            isinstance(error, TimeoutError) and not _has_credentials()
        ):
            return StoreUnavailable(
                f"no credentials for {self.url}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine"
                " a role",
                retry_after=30,
            )
        if code == "NoSuchBucket":
            return StoreUnavailable(
                f"there is no bucket {self._name!r} at {self.endpoint}; create it or correct the URL {self.url}",
                retry_after=30,
            )
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{self.url} has no such object")
        if isinstance(error, AlreadyExistsError | PreconditionError):
            return AlreadyExists(f"{self.url} has such an object already, or another one")
        if code in _FULL or status == 507:
            return StoreFull(f"{where} has no room left ({code}); nothing was written")
        if code in _WRONG_KEY:
            return StoreUnavailable(
                f"{where} refuses the credentials ({code}); correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the"
                " profile or the role",
                retry_after=30,
            )
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
            return StoreUnavailable(
                f"{where} refuses this ({code}); the credentials' policy must allow s3:ListBucket on the bucket and"
                " s3:GetObject, s3:PutObject and s3:DeleteObject on its objects",
                retry_after=30,
            )
        if code in _BUSY or status in (429, 503):
            return StoreUnavailable(f"{where} has too much to do ({code}); try again", retry_after=10)
        if isinstance(error, TimeoutError) or "timed out" in text or "TimedOut" in text:
            return StoreUnavailable(f"{where} did not answer within {self._timeout:g} seconds; try again")
        if not status and "HTTP error" in text:
            return StoreUnavailable(f"{where} can't be reached; is the server up, and the endpoint right?")
        return StoreUnavailable(f"{where} failed ({code or type(error).__name__}); try again")


def read_settings() -> S3Settings:
    """The settings from the environment. Raises InvalidURL, naming the variable that is wrong."""
    try:
        return S3Settings()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        variable = f"OPENTALKING_S3_{str(fault['loc'][0]).upper()}"
        raise InvalidURL(f"{variable}={fault['input']}: {fault['msg']}") from None


def _status(error: Exception) -> int | None:
    found = re.search(r"non-2xx status code: (\d{3})|status: (\d{3})", str(error))
    return int(found[1] or found[2]) if found else None


def _has_credentials() -> bool:
    """Whether the environment itself names credentials, which obstore then uses."""
    names = (
        "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE",
    )  # fmt: skip
    return any(map(os.environ.get, names))


def _profile_credentials() -> S3CredentialProvider | None:
    """Those of a profile in ~/.aws, which obstore doesn't read itself; None if it shall look on its own."""
    profile = os.environ.get("AWS_PROFILE")
    default = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if _has_credentials() or not (profile or default.is_file()):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except ImportError:
        remedy = "pip install 'opentalking-s3-storage[profiles]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreUnavailable(f"profiles of {default.parent} need boto3; {remedy}", retry_after=30) from None
    except Exception as error:  # botocore's, whose text names the profile
        raise StoreUnavailable(f"profile {profile or 'default'!r} can't be used: {error}", retry_after=30) from None
