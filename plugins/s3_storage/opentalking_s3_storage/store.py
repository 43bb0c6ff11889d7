"""Avatar bundles on S3: s3://bucket/prefix/<avatar_id>/manifest.json and so on.

The manifest is the commit record. It is written last, on the condition that there is none yet, and deleted first. For
readers, a bundle without a manifest doesn't exist. `claims` keeps two writers of one id apart. docs/s3.md has the
protocol.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from cachetools import LRUCache

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    ManifestChanged,
    NotFound,
    OpenTalkingError,
    StoreUnavailable,
    check_new_bundle,
    finish,
    is_avatar_id,
    is_bundle_path,
)

from .bucket import MAX_KEY_BYTES, RANGE_BYTES, Bucket, NotModified
from .claims import Busy, Claims
from .clocks import Clocks
from .reader import S3Reader, file_info
from .settings import read_settings
from .sweep import Leftovers, Sweeper
from .uploads import upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from typing import Self

    from .claims import Claim

T = TypeVar("T")

log = logging.getLogger(__name__)

LEASE_TIMEOUTS = 6  # length of a claim's lease, in multiples of the longest time of a request
CREATE_WAIT_SECONDS = 2.0  # how long to wait for the outcome of another process's attempt to create the same id
MAX_KNOWN_FILES = 4096
MAX_LISTINGS = 10  # of a bundle whose manifest changes during each of them

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")

_open_stores: WeakSet[S3Store] = WeakSet()


def problems_of_open_stores() -> Iterable[str]:
    """Return sentences about what the servers of the open stores can't do or don't allow."""
    return dict.fromkeys(problem for store in _open_stores for problem in store.problems)


class S3Store:
    """The bundle store over one bucket and prefix, which any number of processes may share.

    Args:
        url: s3://bucket/prefix.
        clocks: for leases and grace periods.

    Raises:
        InvalidURL: the URL has no bucket, credentials or a query, or an OPENTALKING_S3_* setting is wrong.
    """

    def __init__(self, url: str, clocks: Clocks = Clocks()) -> None:  # noqa: B008 - immutable
        settings = read_settings()
        self._bucket = Bucket(url, settings, clocks)
        self.url = self._bucket.url
        self._timeout = settings.timeout_seconds
        self._claims = Claims(self._bucket, LEASE_TIMEOUTS * self._timeout, clocks)
        grace = max(settings.grace_seconds, self._claims.lease_seconds)
        self._sweeper = Sweeper(self._bucket, self._claims, grace, clocks)
        self._known: LRUCache[str, FileInfo] = LRUCache(MAX_KNOWN_FILES)  # reopening a known file transfers no body

    @property
    def problems(self) -> list[str]:
        """Return sentences about what the server can't do or doesn't allow."""
        return self._bucket.problems

    async def __aenter__(self) -> Self:
        await self._bucket.connect()
        for problem in self.problems:
            log.warning("%s", problem)
        _open_stores.add(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        _open_stores.discard(self)
        await self._sweeper.stop()

    # -- reading

    async def scan(self) -> AsyncIterator[BundleVersion]:
        """Yield every bundle. This takes a LIST request for each thousand objects, and starts a sweep if necessary."""
        leftovers = Leftovers()
        async for meta in self._bucket.list(""):
            avatar_id, _, path = meta["path"].partition("/")
            leftovers.add(meta)
            if path == MANIFEST and is_avatar_id(avatar_id):
                yield BundleVersion(avatar_id, meta["e_tag"] or meta["last_modified"].isoformat())
        self._sweeper.start(leftovers)

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """Yield every file of the bundle. This takes a LIST and a HEAD request.

        If the manifest has changed during the listing, list again: the bundle may have been deleted meanwhile and made
        anew, and the list may lack files.
        """
        manifest = _key(avatar_id, MANIFEST)
        for _ in range(MAX_LISTINGS):
            found = await self._bucket.list_folder(avatar_id)
            if MANIFEST not in found:
                break
            if (await self._bucket.head(manifest))["e_tag"] == found[MANIFEST]["e_tag"]:
                for path, meta in found.items():
                    if is_bundle_path(path):
                        yield file_info(path, meta)
                return
        raise NotFound(f"there is no avatar {avatar_id!r}")

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[S3Reader]:
        """Open a file.

        This takes a GET request. For files other than the manifest, its response has no body if the object hasn't
        changed since it was opened last. A HEAD of the manifest runs at the same time: without a manifest there is no
        bundle. The content of a manifest always comes with the response, because a manifest may be replaced before the
        content is asked for.
        """
        yield await self._of_present_bundle(avatar_id, path, self._read)

    async def presigned_url(self, avatar_id: str, path: str, seconds: float) -> str:
        """Return a URL of the file. This takes two HEAD requests, which run at the same time."""
        await self._of_present_bundle(avatar_id, path, lambda key, _: self._bucket.head(key))
        return await self._bucket.sign(f"{avatar_id}/{path}", seconds)

    async def _of_present_bundle(self, avatar_id: str, path: str, work: Callable[[str, str], Awaitable[T]]) -> T:
        """Return the result of `work(key, path)`. Raises NotFound if the bundle has no manifest, StoreUnavailable."""
        key = _key(avatar_id, path)
        if path == MANIFEST:
            return await work(key, path)
        manifest, result = await asyncio.gather(
            self._bucket.head(f"{avatar_id}/{MANIFEST}"), work(key, path), return_exceptions=True
        )
        if isinstance(result, BaseException):  # a GET also tells that the bucket is missing, which a HEAD can't
            raise manifest if isinstance(manifest, StoreUnavailable) else result
        if isinstance(manifest, BaseException):
            raise manifest
        return result

    async def _read(self, key: str, path: str) -> S3Reader:
        known = None if path == MANIFEST else self._known.get(key)
        try:
            found = await self._bucket.get(key, f'"{known.etag}"' if known else None, RANGE_BYTES)
        except NotModified:
            assert known is not None  # noqa: S101
            return S3Reader(known, key, self._bucket, None)
        info = file_info(path, found.meta)
        if path != MANIFEST:
            self._known[key] = info
        return S3Reader(info, key, self._bucket, found)

    # -- writing

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        check_new_bundle(avatar_id, files)
        if longest := next((path for path in files if not self._fits(avatar_id, path)), None):
            raise ValueError(f"S3 can't hold a file {longest!r}: its key has more than {MAX_KEY_BYTES} bytes")
        creating = asyncio.ensure_future(self._create(avatar_id, files))
        try:
            await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.cancel()  # once: a second cancellation would interrupt the cleaning up
            await finish(self._undo(creating, avatar_id))
            raise

    async def _undo(self, creating: asyncio.Future[None], avatar_id: str) -> None:
        """Wait until a cancelled creation has ended. If it had succeeded by then, delete the bundle."""
        await asyncio.wait([creating])
        if not creating.cancelled() and creating.exception() is None:
            try:
                await self._delete(avatar_id)
            except OpenTalkingError as error:
                log.warning("avatar %s was created although its creation was cancelled: %s", avatar_id, error)

    def _fits(self, avatar_id: str, path: str) -> bool:
        return len(f"{self._bucket.prefix}/{avatar_id}/{path}".encode()) <= MAX_KEY_BYTES

    async def _create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        source = files[MANIFEST]
        manifest = source if isinstance(source, bytes) else b"".join([chunk async for chunk in source])
        others = {f"{avatar_id}/{path}": content for path, content in files.items() if path != MANIFEST}
        try:
            async with self._claims.hold(avatar_id, CREATE_WAIT_SECONDS) as claim:
                await self._make_room(avatar_id, claim)
                try:
                    await upload(self._bucket, others)
                except BaseException as error:
                    claim.keep = isinstance(error, StoreUnavailable)  # a request may still take effect
                    with suppress(StoreUnavailable):  # the sweep then removes the objects
                        await self._bucket.delete(list(others))
                    raise
                await self._commit(f"{avatar_id}/{MANIFEST}", manifest, claim)
        except Busy:
            raise AlreadyExists(f"avatar {avatar_id!r} is being written by another process") from None

    async def _make_room(self, avatar_id: str, claim: Claim) -> None:
        """Remove what a dead writer has left. Raises AlreadyExists if there is anything else."""
        found = await self._bucket.list_folder(avatar_id)
        if MANIFEST in found:
            raise AlreadyExists(f"there is an avatar {avatar_id!r} already")
        if found:
            if not (claim.inherited or self._sweeper.is_old(found.values())):
                raise AlreadyExists(
                    f"avatar {avatar_id!r} is being copied there by something else, or was not finished"
                )
            await self._bucket.delete([f"{avatar_id}/{path}" for path in found])

    async def _commit(self, key: str, manifest: bytes, claim: Claim) -> None:
        """Write the manifest. If the outcome stays unknown, leave everything: it is a whole bundle, or for the sweep.

        A cancellation waits for the outcome and has no effect here. `create` undoes what succeeded.
        """
        if not self._claims.is_safe(claim):
            claim.keep = True
            raise StoreUnavailable(f"{self.url}: the claim of {key} could not be renewed in time; nothing was created")
        committing = asyncio.ensure_future(self._put_manifest(key, manifest, claim))
        with suppress(asyncio.CancelledError):
            await finish(asyncio.wait([committing]))
        committing.result()

    async def _put_manifest(self, key: str, manifest: bytes, claim: Claim) -> None:
        try:
            await self._bucket.put(key, manifest, create=True, media_type="application/json")
        except (AlreadyExists, StoreUnavailable) as error:
            claim.keep = isinstance(error, StoreUnavailable)
            # The write may have succeeded and its response been lost; the retry then found our own object.
            with suppress(NotFound, StoreUnavailable):
                if (await self._bucket.get(key)).data == manifest:
                    claim.keep = False
                    return
            raise

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        """Replace the manifest. A cancellation takes effect after the replacement has ended."""
        key = _key(avatar_id, MANIFEST)
        return await finish(self._replace(avatar_id, key, manifest, expected_etag))

    async def _replace(self, avatar_id: str, key: str, manifest: bytes, expected_etag: str) -> str:
        """Compare and write while holding the claim. If-Match alone won't do: some servers compare before they lock."""
        try:
            async with self._claims.hold(avatar_id, self._timeout) as claim:
                present = await self._bucket.head(key)
                if file_info(MANIFEST, present).etag != expected_etag:
                    raise ManifestChanged(f"the manifest of avatar {avatar_id!r} has changed")
                return await self._put_over(key, manifest, present["e_tag"], claim)
        except Busy:
            raise StoreUnavailable(f"avatar {avatar_id!r} is being written by another process; try again") from None

    async def _put_over(self, key: str, manifest: bytes, etag: str | None, claim: Claim) -> str:
        """Write the manifest over the one with this entity tag, and return the new entity tag."""
        try:
            written = await self._bucket.put(key, manifest, replace=etag, media_type="application/json")
        except (AlreadyExists, StoreUnavailable) as error:
            claim.keep = isinstance(error, StoreUnavailable)
            # The write may have succeeded and its response been lost; the retry then found our own object.
            if (found := await self._bucket.get(key)).data == manifest:
                claim.keep = False
                return file_info(MANIFEST, found.meta).etag
            if isinstance(error, AlreadyExists):  # something that takes no claims was faster
                raise ManifestChanged(f"{self.url}/{key} has changed") from None
            raise
        return written.strip('"') if written else file_info(MANIFEST, await self._bucket.head(key)).etag

    async def delete(self, avatar_id: str) -> None:
        """Delete the bundle. A cancellation takes effect after the deletion has ended."""
        _key(avatar_id, MANIFEST)
        await finish(self._delete(avatar_id))

    async def _delete(self, avatar_id: str) -> None:
        try:
            async with self._claims.hold(avatar_id, self._timeout):
                found = await self._bucket.list_folder(avatar_id)
                if found.pop(MANIFEST, None) is None:
                    raise NotFound(f"there is no avatar {avatar_id!r}")
                await self._bucket.delete([f"{avatar_id}/{MANIFEST}"])
                try:
                    await self._bucket.delete([f"{avatar_id}/{path}" for path in found])
                except StoreUnavailable as error:
                    log.warning("avatar %s is deleted; its files will be swept later: %s", avatar_id, error)
        except Busy:
            raise StoreUnavailable(f"avatar {avatar_id!r} is being written by another process; try again") from None


def _key(avatar_id: str, path: str) -> str:
    """Return the key of a file. Raises NotFound if the id or the path is malformed."""
    if not is_avatar_id(avatar_id):
        raise NotFound("there is no such avatar")
    key = f"{avatar_id}/{path}"
    # obstore refuses keys with control characters, so no bundle has a file of such a name.
    if not is_bundle_path(path) or len(key.encode()) > MAX_KEY_BYTES or _CONTROL_CHARACTER.search(path):
        raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
    return key
