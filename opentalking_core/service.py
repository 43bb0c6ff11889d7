"""AvatarService: what the API and the command line do with avatars, over one bundle store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from cachetools import LRUCache

from .bundles.manifest import AvatarManifest, is_avatar_id
from .bundles.mouth import mouth_metadata
from .bundles.reading import read_manifest
from .bundles.store import MANIFEST, ChangeStamp, PresignedURLs
from .catalog.file_cache import CachedFile, FileCache
from .catalog.scanning import AvatarCatalog
from .errors import (
    AlreadyExists,
    InvalidManifest,
    InvalidRequest,
    NotDeletable,
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from .metrics import Metrics
from .portraits.checks import check_portrait
from .portraits.custom_avatar import candidate_ids, custom_manifest
from .portraits.picture import make_thumbnail, measure_size, prepare_portrait
from .workers.detection import DetectorChain
from .workers.pool import WorkerCrashed, WorkerPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .bundles.manifest import AvatarSummary
    from .bundles.store import FileReader
    from .catalog.scanning import Listing, ListingPage, ListingQuery
    from .health import DetectorHealth, Health
    from .host.host import PluginHost
    from .portraits.checks import PortraitReport
    from .portraits.detected_mouth import DetectedMouth
    from .settings import Settings

    StoredFile = CachedFile | FileReader

T = TypeVar("T")

log = logging.getLogger(__name__)

#: A custom avatar's name may have so many characters.
MAX_NAME = 200

_PREVIEW = "preview.png"

#: A client that is sent to the store for a preview has so long to get there.
_PRESIGNED_SECONDS = 300.0

#: Larger previews get no thumbnail: they would be read into memory whole.
_LARGEST_THUMBNAILED = 64 * 1024 * 1024


class AvatarService:
    """Lists, reads, makes and deletes avatars. An async context manager; one per process and event loop.

    Args:
        settings: where the store is, and the limits for portraits.
        host: the plugins, loaded.

    Raises:
        InvalidURL: no plugin opens the store's URL.
        PluginError: two plugins open it, or register one model type.
    """

    def __init__(self, settings: Settings, host: PluginHost) -> None:
        self._settings = settings
        self._host = host
        self._store, self._store_plugin = host.open_bundle_store(settings.avatars_dir)
        self._model_types = host.model_types()
        self._workers = WorkerPool(settings.portrait_workers, settings.portrait_time_limit)
        self.metrics = Metrics(lambda: len(self._catalog), lambda: self._uploads)
        self._detectors = DetectorChain(host, self._workers, self.metrics)
        self._catalog = AvatarCatalog(self._store, settings.refresh_seconds, self.metrics)
        cache_bytes = settings.cache_mb * 1024 * 1024
        # Where scans alone tell of what others did, files may be as old as the list: looking costs requests.
        trust = 1.0 if isinstance(self._store, ChangeStamp) else max(1.0, settings.refresh_seconds)
        self._files = FileCache(self._store, cache_bytes * 3 // 4, self._catalog.stamp, trust, self.metrics)
        self._thumbnails: LRUCache[tuple[str, str, int, str], bytes | None] = LRUCache(
            cache_bytes // 4, getsizeof=lambda data: len(data or b"") + 1024
        )
        self._connecting = asyncio.Lock()
        self._connected = False
        self._connect_failure = (0.0, "", 0)  # when, and what StoreUnavailable said
        self._uploads = 0
        # For each worker a picture that it works on and one that waits: none idles, and thumbnails get their turn.
        self._portraits = asyncio.Semaphore(2 * max(settings.portrait_workers, 1))
        self._previews = asyncio.Semaphore(2 * max(settings.portrait_workers, 1))  # thumbnails don't wait for uploads

    async def __aenter__(self) -> Self:
        try:
            await self._connect()
        except StoreUnavailable as error:  # it may come up later; until then each request says so
            log.warning("the avatars can't be reached yet: %s", error)
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with contextlib.AsyncExitStack() as stack:  # whatever one of them raises, the others are ended
            stack.callback(self._host.shutdown)
            if self._connected:
                stack.push_async_callback(self._store.__aexit__, None, None, None)
            stack.push_async_callback(self._workers.close)
            stack.push_async_callback(self._catalog.stop)

    async def _connect(self) -> None:
        if self._connected:
            return
        asked = time.monotonic()
        async with self._connecting:
            if self._connected:
                return
            when, problem, retry_after = self._connect_failure
            if when > asked:  # requests that waited for an attempt share its failure, or the last would wait for all
                raise StoreUnavailable(problem, retry_after=retry_after)
            try:
                await self._store.__aenter__()
            except StoreUnavailable as error:
                self._connect_failure = (time.monotonic(), str(error), error.retry_after)
                raise
            self._connected = True
            self._catalog.start()

    async def listing(self) -> Listing:
        """The avatars that are not hidden and whose manifest can be read, by id, encoded. Raises StoreUnavailable."""
        if not self._connected:
            await self._connect()
        return await self._catalog.listing()

    def current_listing(self) -> Listing | None:
        """What `listing` would return, if that can be told without waiting."""
        return self._catalog.current() if self._connected else None

    async def page(self, query: ListingQuery) -> ListingPage:
        """A part of the list. Raises StoreUnavailable."""
        await self._connect()
        return await self._catalog.page(query)

    def cached_manifest(self, avatar_id: str) -> CachedFile | None:
        """An avatar's manifest.json, if it is in memory and the store was asked about it a moment ago."""
        return self._files.trusted(avatar_id, MANIFEST)

    def cached_preview(self, avatar_id: str) -> CachedFile | None:
        """An avatar's preview.png, likewise."""
        return self._files.trusted(avatar_id, _PREVIEW)

    @contextlib.asynccontextmanager
    async def manifest(self, avatar_id: str) -> AsyncIterator[StoredFile]:
        """An avatar's manifest.json as it is stored, opened. Raises NotFound, StoreUnavailable."""
        async with self._file(avatar_id, MANIFEST) as file:
            yield file

    @contextlib.asynccontextmanager
    async def preview(self, avatar_id: str) -> AsyncIterator[StoredFile]:
        """An avatar's preview.png as it is stored, opened. Raises NotFound, StoreUnavailable."""
        async with self._file(avatar_id, _PREVIEW) as file:
            yield file

    async def preview_url(self, avatar_id: str) -> str | None:
        """The store's own URL of a preview, if clients shall be sent there. Raises NotFound, StoreUnavailable."""
        if not (self._settings.preview_redirect and isinstance(self._store, PresignedURLs)):
            return None
        await self._check(avatar_id)
        try:
            return await self._store.presigned_url(avatar_id, _PREVIEW, _PRESIGNED_SECONDS)
        except NotFound:
            raise NotFound(f"there is no avatar {_shown(avatar_id)}, or it has no {_PREVIEW}") from None

    async def thumbnail(self, avatar_id: str, width: int, image_format: Literal["PNG", "WEBP"]) -> CachedFile | None:
        """Return an avatar's preview, at most `width` pixels wide; None if the stored PNG is that already.

        Args:
            avatar_id: the avatar.
            width: in pixels.
            image_format: to encode it in.

        Raises:
            NotFound: no such avatar, or its preview is missing or no picture.
            StoreUnavailable, Overloaded: try again.
        """
        cached = self.cached_preview(avatar_id)
        async with contextlib.nullcontext(cached) if cached else self.preview(avatar_id) as preview:
            info = preview.info
            key = (avatar_id, info.etag, width, image_format)
            async with contextlib.nullcontext() if key in self._thumbnails else self._previews:
                if key in self._thumbnails:  # others may have made it meanwhile
                    thumbnail = self._thumbnails[key]
                else:
                    thumbnail = await self._make_thumbnail(avatar_id, preview, width, image_format)
                    with contextlib.suppress(ValueError):  # it alone is larger than the cache
                        self._thumbnails[key] = thumbnail
        if thumbnail is None:
            return None
        info = dataclasses.replace(info, size=len(thumbnail), etag=f"{info.etag}-{width}{image_format.lower()}")
        return CachedFile(info, thumbnail, 0.0, None)

    async def _make_thumbnail(
        self, avatar_id: str, preview: StoredFile, width: int, image_format: Literal["PNG", "WEBP"]
    ) -> bytes | None:
        if preview.info.size > _LARGEST_THUMBNAILED:
            raise NotFound(f"the preview of avatar {avatar_id!r} is too large to make a thumbnail of")
        data = preview.data if isinstance(preview, CachedFile) else await preview.read()
        try:
            return await self._workers.run_twice(make_thumbnail, data, width, image_format)
        except (InvalidRequest, WorkerCrashed, TimeoutError) as error:
            raise NotFound(f"there is no thumbnail of avatar {avatar_id!r}: {error}") from None

    async def create(self, name: str, base_avatar_id: str, image: bytes) -> AvatarSummary:
        """Make a new avatar from a portrait: driven like the base, with its mouth located.

        Args:
            name: for people to read; 1 to MAX_NAME characters.
            base_avatar_id: the avatar whose manifest is the template.
            image: a JPEG, PNG or WebP.

        Raises:
            InvalidRequest: a blank or overlong name, a base that can't be one, a picture that can't be read.
            NotFound: there is no such base.
            StoreFull, StoreUnavailable, Overloaded: nothing was written.
        """
        name = _checked_name(name)
        base = await self._base_manifest(base_avatar_id)
        model_type = self._model_types.get(base.model_type)
        recipe = model_type.portrait_recipe if model_type else None
        if recipe is None:
            usable = ", ".join(sorted(n for n, model_type in self._model_types.items() if model_type.portrait_recipe))
            raise InvalidRequest(
                f"the base avatar {base_avatar_id!r} is of model type {base.model_type!r}; a portrait needs {usable}"
            )
        async with self._portraits:
            portrait, mouth = await self._look_at(image, prepare_portrait)
        report = await self._report((portrait.width, portrait.height), mouth)
        manifest = custom_manifest(base_avatar_id, base, recipe, name, portrait, mouth, report)
        for avatar_id in candidate_ids(name, datetime.now(UTC)):
            manifest = manifest.model_copy(update={"id": avatar_id})
            try:
                files = dict.fromkeys(recipe.picture_paths, portrait.png) | {MANIFEST: manifest.to_json()}
            except InvalidManifest as error:
                raise InvalidRequest(f"the base avatar {base_avatar_id!r} can't be used: {error}") from None
            try:
                with self._catalog.own_change(), self.metrics.stage("store"), self.metrics.store_operation("create"):
                    await self._store.create(avatar_id, files)
            except AlreadyExists:  # another upload of this name in the same millisecond
                continue
            self._catalog.note_created(avatar_id, manifest)
            log.info("made avatar %s; mouth %s", avatar_id, f"found by {mouth.detector}" if mouth else "not found")
            return manifest.summary(avatar_id)
        raise AssertionError("there is always a later millisecond")

    async def check(self, image: bytes) -> PortraitReport:
        """Whether a portrait is fit to be an avatar; nothing is stored.

        Args:
            image: a JPEG, PNG or WebP.

        Raises:
            InvalidRequest: a picture that can't be read.
            Overloaded: try again.
        """
        async with self._portraits:
            size, mouth = await self._look_at(image, measure_size)
        return await self._report(size, mouth)

    async def _look_at(self, image: bytes, prepare: Callable[[NDArray[np.uint8]], T]) -> tuple[T, DetectedMouth | None]:
        """Prepare an uploaded portrait, and locate its mouth."""
        limits = self._settings.custom_avatar_max_width, self._settings.custom_avatar_max_height
        try:
            return await self._detectors.look_at(image, *limits, prepare)
        except (WorkerCrashed, TimeoutError) as error:
            log.warning("a portrait of %d bytes could not be decoded: %s", len(image), error)
            raise InvalidRequest("the image can't be decoded: send an ordinary JPEG, PNG or WebP") from None

    async def _report(self, size: tuple[int, int], mouth: DetectedMouth | None) -> PortraitReport:
        """How fit the portrait is, of `size` (width, height)."""
        if mouth is not None:
            max_size = self._settings.custom_avatar_max_width, self._settings.custom_avatar_max_height
            report = check_portrait(size, mouth.landmarks, mouth.quality, max_size=max_size)
            if mouth.landmarks.is_in_picture:
                report = dataclasses.replace(report, mouth=mouth_metadata(mouth.landmarks, mouth.detector))
            return report
        reported = await asyncio.to_thread(self._host.problems)
        if any(detector["ok"] for detector in self._detector_health(reported)):
            return check_portrait(size, None, None)
        reason = "No mouth detector works at the moment, so no face can be found; /health says more."
        return check_portrait(size, None, None, not_found=reason)

    @contextlib.asynccontextmanager
    async def upload(self) -> AsyncIterator[None]:
        """A place for an upload, from its first byte to its answer. Raises Overloaded if all are taken."""
        if self._uploads >= self._settings.upload_queue:
            raise Overloaded(f"{self._uploads} uploads are being worked on already; try again", retry_after=2)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def delete(self, avatar_id: str) -> None:
        """Delete a custom avatar.

        Raises:
            NotFound: there is no such avatar.
            NotDeletable: it is built in or hidden.
            StoreUnavailable: it is still there.
        """
        try:
            manifest = await self._manifest(avatar_id)
        except NotFound:  # somebody else may have deleted it
            self._files.forget(avatar_id)
            raise
        if manifest.is_hidden:
            raise NotDeletable(f"avatar {avatar_id!r} is hidden and can't be deleted")
        if not manifest.is_custom:
            raise NotDeletable(f"avatar {avatar_id!r} is built in and can't be deleted; only custom avatars can")
        try:
            with self._catalog.own_change(), self.metrics.store_operation("delete"):
                await self._store.delete(avatar_id)
        except NotFound:  # somebody else was faster
            self._files.forget(avatar_id)
            self._catalog.note_deleted(avatar_id)
            raise _no_avatar(avatar_id) from None
        self._files.forget(avatar_id)
        self._catalog.note_deleted(avatar_id)
        log.info("deleted avatar %s", avatar_id)

    async def health(self) -> Health:
        """Which store and detectors are in use and whether each works: the body of GET /health."""
        try:
            await self.listing()
            store_problem = self._catalog.problem
        except StoreUnavailable as error:
            store_problem = str(error)
        reported = await asyncio.to_thread(self._host.problems)  # plugins look at their files
        shortcomings = "; ".join(reported.get(self._store_plugin.name, []))
        detectors = self._detector_health(reported)
        works = not (store_problem or shortcomings) and any(detector["ok"] for detector in detectors)
        return {
            "status": "unavailable" if store_problem else "ok" if works else "degraded",
            "store": {
                "plugin": self._store_plugin.name,
                "url": self._store.url,
                "ok": store_problem is None,
                "problem": store_problem or shortcomings or None,
                "avatars": len(self._catalog),
                "stale": store_problem is not None or not self._catalog.is_complete,
            },
            "detectors": detectors,
        }

    def _detector_health(self, reported: Mapping[str, Sequence[str]]) -> list[DetectorHealth]:
        """Whether each detector works: what the plugins have `reported`, by name, and how their last calls went."""
        detectors: list[DetectorHealth] = []
        for info in self._host.detectors():
            problem = "; ".join(reported.get(info.name, [])) or self._detectors.failures.get(info.name)
            detectors.append({"plugin": info.name, "ok": problem is None, "problem": problem})
        return detectors

    async def _manifest(self, avatar_id: str) -> AvatarManifest:
        """An avatar's manifest, from the store itself."""
        await self._check(avatar_id)
        try:
            return await read_manifest(self._store, avatar_id)
        except NotFound:
            raise _no_avatar(avatar_id) from None
        except InvalidManifest as error:
            raise NotFound(f"there is no usable avatar {avatar_id!r}: its {error}") from None

    @contextlib.asynccontextmanager
    async def _file(self, avatar_id: str, path: str) -> AsyncIterator[StoredFile]:
        """A file of an avatar, looked up in the store."""
        await self._check(avatar_id)
        check = AvatarManifest.parse if path == MANIFEST else None
        async with contextlib.AsyncExitStack() as stack:
            try:
                file = await stack.enter_async_context(self._files.open(avatar_id, path, check))
            except NotFound:
                missing = "" if path == MANIFEST else f", or it has no {path}"
                raise NotFound(f"there is no avatar {_shown(avatar_id)}{missing}") from None
            except InvalidManifest as error:
                raise NotFound(f"there is no usable avatar {avatar_id!r}: its {error}") from None
            yield file

    async def _base_manifest(self, base_avatar_id: str) -> AvatarManifest:
        if not base_avatar_id.strip():
            raise InvalidRequest("base_avatar_id is blank: name the avatar to use as a template")
        try:
            return await self._manifest(base_avatar_id)
        except NotFound as error:
            raise NotFound(f"the base can't be used: {error}") from None

    async def _check(self, avatar_id: str) -> None:
        """Before a store is asked for an avatar: is it an id at all, and is the store connected?"""
        if not is_avatar_id(avatar_id):
            raise _no_avatar(avatar_id)
        await self._connect()


def _shown(avatar_id: str) -> str:
    return repr(avatar_id if len(avatar_id) <= 80 else avatar_id[:80] + "…")


def _no_avatar(avatar_id: str) -> NotFound:
    return NotFound(f"there is no avatar {_shown(avatar_id)}")


def _checked_name(name: str) -> str:
    name = " ".join(name.split())
    if not name:
        raise InvalidRequest("name is blank: give the avatar a display name")
    if len(name) > MAX_NAME:
        raise InvalidRequest(f"name has {len(name)} characters; at most {MAX_NAME} are accepted")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise InvalidRequest("name holds control characters; send plain text")
    return name
