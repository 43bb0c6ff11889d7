"""Avatar bundles on S3: s3://bucket/prefix/<avatar_id>/manifest.json and so on.

The manifest is the commit record: it is written last, under a condition that lets one creator win, and deleted first. A
bundle without it doesn't exist for readers. `claims` keeps two writers of one id apart; docs/s3.md tells all of it.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from cachetools import LRUCache

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    InvalidURL,
    NotFound,
    StoreUnavailable,
    is_avatar_id,
    is_bundle_path,
)

from .bucket import PART, Bucket, NotModified, Object, read_settings
from .claims import Busy, Claims

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from typing import Self

    from obstore import ObjectMeta

    from .claims import Claim

T = TypeVar("T")

log = logging.getLogger(__name__)

_UPLOADS = 16  # objects of one bundle written at the same time
_LONGEST_KEY = 1024  # bytes; S3's limit
_CREATOR_PATIENCE = 2.0  # seconds to wait for the outcome of another process's attempt to create the same id

_open_stores: WeakSet[S3Store] = WeakSet()


def problems_of_open_stores() -> Iterable[str]:
    """What the servers of the stores that are open don't do, or don't let us do."""
    return dict.fromkeys(problem for store in _open_stores for problem in store.problems)


class S3Store:
    """The bundle store over one bucket and prefix; any number of processes may share it.

    Args:
        url: s3://bucket/prefix.

    Raises:
        InvalidURL: no bucket, secrets or a query in it, or a wrong OPENTALKING_S3_* setting.
    """

    def __init__(self, url: str) -> None:
        settings = read_settings()
        self._bucket = Bucket(url, settings)
        if len(self._bucket.prefix.encode()) > _LONGEST_KEY // 2:
            raise InvalidURL(f"the prefix in {self._bucket.url} is too long; at most {_LONGEST_KEY // 2} bytes")
        self.url = self._bucket.url
        self._timeout = settings.timeout_seconds
        self._claims = Claims(self._bucket, 6 * settings.timeout_seconds)
        self._grace = max(settings.grace_seconds, self._claims.lease)
        self._known: LRUCache[str, FileInfo] = LRUCache(4096)  # so that asking again costs no body
        self._sweeping: asyncio.Task[None] | None = None
        self._swept = float("-inf")

    @property
    def problems(self) -> list[str]:
        """What the server doesn't do, or doesn't let us do; sentences."""
        return self._bucket.problems

    async def __aenter__(self) -> Self:
        await self._bucket.connect()
        for problem in self.problems:
            log.warning("%s", problem)
        _open_stores.add(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        _open_stores.discard(self)
        if self._sweeping:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
            self._sweeping = None

    # -- reading

    async def scan(self) -> AsyncIterator[BundleVersion]:
        """See `BundleStore.scan`. Costs a LIST request for a thousand objects; the sweep is fed by what it sees."""
        complete: set[str] = set()
        others: dict[str, float] = {}  # avatar id -> when the last of its other objects was written
        claims: dict[str, float] = {}
        async for meta in self._bucket.list(""):
            avatar_id, _, path = meta["path"].partition("/")
            if path == MANIFEST:
                if is_avatar_id(avatar_id):
                    complete.add(avatar_id)
                    yield BundleVersion(avatar_id, meta["e_tag"] or meta["last_modified"].isoformat())
            elif avatar_id == ".opentalking":
                claims[path.rpartition("/")[2]] = meta["last_modified"].timestamp()
            elif path:
                modified = meta["last_modified"].timestamp()
                if modified > others.get(avatar_id, 0.0):
                    others[avatar_id] = modified
        unfinished = {key: modified for key, modified in others.items() if key not in complete} | claims
        dead = [key for key in unfinished if self._is_old(unfinished[key], others.get(key, 0.0)) and is_avatar_id(key)]
        idle = self._sweeping is None or self._sweeping.done()
        if dead and idle and time.monotonic() - self._swept > min(self._grace, 60):
            self._swept = time.monotonic()
            self._sweeping = asyncio.create_task(self._sweep(dead))

    def _is_old(self, *modified: float) -> bool:
        return self._bucket.age(max(modified)) > self._grace

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """See `BundleStore.files`. Raises NotFound, StoreUnavailable. Costs a LIST and a HEAD request."""
        manifest = _key(avatar_id, MANIFEST)
        found = await self._list(avatar_id)
        if MANIFEST not in found or (await self._bucket.head(manifest))["e_tag"] != found[MANIFEST]["e_tag"]:
            raise NotFound(f"there is no avatar {avatar_id!r}")  # or not any more: the list may lack what went first
        for path, meta in found.items():
            if is_bundle_path(path):
                yield _info(path, meta)

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[S3Reader]:
        """See `BundleStore.open`. Raises NotFound, StoreUnavailable.

        Costs a GET, without a body if the object is the one that was opened last time; and at the same time, for all
        files but the manifest, a HEAD of the manifest, without which the bundle isn't there.
        """
        yield await self._alive(avatar_id, path, self._read)

    async def presigned_url(self, avatar_id: str, path: str, seconds: float) -> str:
        """See `PresignedURLs.presigned_url`. Raises NotFound, StoreUnavailable. Costs two HEAD requests at once."""
        await self._alive(avatar_id, path, lambda key, _: self._bucket.head(key))
        return await self._bucket.sign(f"{avatar_id}/{path}", seconds)

    async def _alive(self, avatar_id: str, path: str, work: Callable[[str, str], Awaitable[T]]) -> T:
        """The result of `work` on a file, if its bundle is there."""
        key = _key(avatar_id, path)
        if path == MANIFEST:
            return await work(key, path)
        head, result = await asyncio.gather(
            self._bucket.head(f"{avatar_id}/{MANIFEST}"), work(key, path), return_exceptions=True
        )
        for outcome in sorted((head, result), key=lambda outcome: isinstance(outcome, NotFound)):
            if isinstance(outcome, BaseException):  # StoreUnavailable first: a HEAD can't tell a missing bucket
                raise outcome
        return result  # type: ignore[return-value]  # no exception, as was just seen

    async def _read(self, key: str, path: str) -> S3Reader:
        known = self._known.get(key)
        try:
            found = await self._bucket.get(key, f'"{known.etag}"' if known else None)
        except NotModified:
            assert known is not None  # noqa: S101
            return S3Reader(known, key, self._bucket, None)
        info = self._known[key] = _info(path, found.meta)
        return S3Reader(info, key, self._bucket, found)

    async def _list(self, avatar_id: str) -> dict[str, ObjectMeta]:
        """All objects of an id, by path; empty ones that stand for folders left out."""
        start = len(avatar_id) + 1
        found = {meta["path"][start:]: meta async for meta in self._bucket.list(avatar_id)}
        folders = {path.rpartition("/")[0] for path in found}
        return {path: meta for path, meta in found.items() if path and (meta["size"] or path not in folders)}

    # -- writing

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """See `BundleStore.create`. Raises AlreadyExists, StoreFull, StoreUnavailable, ValueError."""
        if not (is_avatar_id(avatar_id) and MANIFEST in files and all(map(is_bundle_path, files))):
            raise ValueError(f"not a bundle: id {avatar_id!r}, files {', '.join(map(repr, files))}")
        if longest := next((path for path in files if not self._fits(avatar_id, path)), None):
            raise ValueError(f"S3 can't hold a file {longest!r}: its key has more than {_LONGEST_KEY} bytes")
        creating = asyncio.ensure_future(self._create(avatar_id, files))
        try:
            await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.cancel()  # once: then it cleans up in peace
            await _wait(creating)
            if not creating.cancelled() and creating.exception() is None:
                await _wait(asyncio.ensure_future(self._delete(avatar_id)))
            raise

    def _fits(self, avatar_id: str, path: str) -> bool:
        return len(f"{self._bucket.prefix}/{avatar_id}/{path}".encode()) <= _LONGEST_KEY

    async def _create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        source = files[MANIFEST]
        manifest = source if isinstance(source, bytes) else b"".join([piece async for piece in source])
        others = {f"{avatar_id}/{path}": content for path, content in files.items() if path != MANIFEST}
        try:
            async with self._claims.hold(avatar_id, _CREATOR_PATIENCE) as claim:
                await self._make_room(avatar_id, claim)
                try:
                    await self._upload(others)
                except BaseException as error:
                    claim.keep = isinstance(error, StoreUnavailable)  # a request may still arrive there
                    with suppress(StoreUnavailable):  # then the sweep does it
                        await self._bucket.delete(list(others))
                    raise
                await self._commit(f"{avatar_id}/{MANIFEST}", manifest, claim)
        except Busy:
            raise AlreadyExists(f"avatar {avatar_id!r} is being written by another process") from None

    async def _make_room(self, avatar_id: str, claim: Claim) -> None:
        """See that nothing is there, apart from what a dead writer has left."""
        found = await self._list(avatar_id)
        if MANIFEST in found:
            raise AlreadyExists(f"there is an avatar {avatar_id!r} already")
        if found:
            if not (claim.inherited or self._is_old(*map(_modified, found.values()))):
                raise AlreadyExists(
                    f"avatar {avatar_id!r} is being copied there by something else, or was not finished"
                )
            await self._bucket.delete([f"{avatar_id}/{path}" for path in found])

    async def _upload(self, contents: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """Write objects in parallel. If one fails or we are cancelled, no request is under way when this returns."""
        slots, stop = asyncio.Semaphore(_UPLOADS), asyncio.Event()

        async def upload(key: str, content: bytes | AsyncIterable[bytes]) -> None:
            media_type = mimetypes.guess_type(key)[0]
            async with slots:
                if isinstance(content, bytes):
                    if not stop.is_set():
                        await self._bucket.put(key, content, media_type=media_type)
                    return
                pieces = _until(stop, content)
                start = bytearray()
                async for piece in pieces:
                    start += piece
                    if len(start) > PART:
                        await self._bucket.put_stream(key, _chain(bytes(start), pieces), media_type)
                        return
                await self._bucket.put(key, bytes(start), media_type=media_type)

        uploads = [asyncio.ensure_future(upload(key, content)) for key, content in contents.items()]
        try:
            while uploads:
                done, pending = await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
                uploads = list(pending)
                for upload_done in done:
                    upload_done.result()
        except BaseException:
            stop.set()
            await asyncio.gather(*uploads, return_exceptions=True)
            raise

    async def _commit(self, key: str, manifest: bytes, claim: Claim) -> None:
        """Write the manifest. If it stays unknown whether that succeeded, leave all as it is: whole, or for the sweep.

        Once this has begun, a cancellation waits for its end.
        """
        if not self._claims.is_safe(claim):
            claim.keep = True
            raise StoreUnavailable(f"{self.url}: the claim of {key} could not be renewed in time; nothing was created")
        committing = asyncio.ensure_future(self._put_manifest(key, manifest, claim))
        try:
            await asyncio.shield(committing)
        except asyncio.CancelledError:
            await _wait(committing)
            committing.result()

    async def _put_manifest(self, key: str, manifest: bytes, claim: Claim) -> None:
        failure: AlreadyExists | StoreUnavailable
        try:
            await self._bucket.put(key, manifest, create=True, media_type="application/json")
            return
        except (AlreadyExists, StoreUnavailable) as error:
            failure = error
        claim.keep = isinstance(failure, StoreUnavailable)
        with suppress(NotFound, StoreUnavailable):  # was the answer lost, and our own write what a repetition met?
            if (await self._bucket.get(key)).data == manifest:
                claim.keep = False
                return
        raise failure

    async def delete(self, avatar_id: str) -> None:
        """See `BundleStore.delete`. Raises NotFound, StoreUnavailable. Once begun, it goes on when cancelled."""
        _key(avatar_id, MANIFEST)
        deleting = asyncio.ensure_future(self._delete(avatar_id))
        try:
            await asyncio.shield(deleting)
        except asyncio.CancelledError:
            await _wait(deleting)
            raise

    async def _delete(self, avatar_id: str) -> None:
        try:
            async with self._claims.hold(avatar_id, self._timeout):
                found = await self._list(avatar_id)
                if found.pop(MANIFEST, None) is None:
                    raise NotFound(f"there is no avatar {avatar_id!r}")
                await self._bucket.delete([f"{avatar_id}/{MANIFEST}"])
                try:
                    await self._bucket.delete([f"{avatar_id}/{path}" for path in found])
                except StoreUnavailable as error:
                    log.warning("avatar %s is deleted; its files will be swept later: %s", avatar_id, error)
        except Busy:
            raise StoreUnavailable(f"avatar {avatar_id!r} is being written by another process; try again") from None

    async def _sweep(self, dead: list[str]) -> None:
        """Remove what dead writers have left: objects without a manifest, and claims."""
        for avatar_id in dead:
            try:
                async with self._claims.hold(avatar_id, 0.0):
                    found = await self._list(avatar_id)
                    if found and MANIFEST not in found and self._is_old(*map(_modified, found.values())):
                        await self._bucket.delete([f"{avatar_id}/{path}" for path in found])
                        log.info("swept %d objects of the unfinished avatar %s", len(found), avatar_id)
            except Busy:
                continue
            except StoreUnavailable as error:
                log.warning("unfinished avatars can't be swept now: %s", error)
                return


class S3Reader:
    """An open file; see `opentalking_core.FileReader`. A small one is in memory, unless it was known before."""

    def __init__(self, info: FileInfo, key: str, bucket: Bucket, found: Object | None) -> None:
        self.info = info
        self._key, self._bucket = key, bucket
        self._data = found.data if found else None

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """See `FileReader.chunks`. Raises NotFound if it was replaced or deleted meanwhile, StoreUnavailable."""
        stop = self.info.size if stop is None else min(stop, self.info.size)
        for offset in range(start, stop, PART):
            end = min(offset + PART, stop)
            if self._data is not None:
                yield self._data[offset:end]
            else:
                yield await self._bucket.get_range(self._key, offset, end, f'"{self.info.etag}"')

    async def read(self) -> bytes:
        """See `FileReader.read`. Raises NotFound, StoreUnavailable."""
        return self._data if self._data is not None else b"".join([piece async for piece in self.chunks()])


def _key(avatar_id: str, path: str) -> str:
    """The key of a file. Raises NotFound for what can't be one."""
    if not (is_avatar_id(avatar_id) and is_bundle_path(path) and len(f"{avatar_id}/{path}".encode()) <= _LONGEST_KEY):
        raise NotFound(
            f"avatar {avatar_id!r} has no file {path!r}" if is_avatar_id(avatar_id) else "there is no such avatar"
        )
    return f"{avatar_id}/{path}"


def _modified(meta: ObjectMeta) -> float:
    return meta["last_modified"].timestamp()


def _info(path: str, meta: ObjectMeta) -> FileInfo:
    etag = (meta["e_tag"] or "").strip('"') or f"{_modified(meta):.3f}-{meta['size']}"
    return FileInfo(path, meta["size"], etag, _modified(meta))


async def _wait(task: asyncio.Future[T]) -> None:
    """Wait for its end, however often we are cancelled."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])


async def _chain(start: bytes, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for piece in pieces:
        yield piece


async def _until(stop: asyncio.Event, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces; raises InterruptedError when `stop` is set, also while waiting for one."""
    stopping = asyncio.ensure_future(stop.wait())
    iterator = aiter(pieces)

    async def following() -> bytes | None:
        return await anext(iterator, None)

    try:
        while True:
            step = asyncio.ensure_future(following())
            await asyncio.wait([step, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                await _wait(step)
                raise InterruptedError
            piece = step.result()
            if piece is None:
                return
            yield piece
    finally:
        stopping.cancel()
