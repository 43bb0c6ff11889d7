"""AvatarService: what the API and the command line do with avatars, over one bundle store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from .avatar_maker import AvatarMaker
from .bundle_files import BundleFiles
from .bundles.display_name import checked_name
from .bundles.manifest import AvatarManifest, is_avatar_id, is_bundle_path
from .bundles.reading import read_manifest
from .bundles.store import MANIFEST, PREVIEW, ChangeStamp, PresignedURLs
from .catalog.file_cache import CachedFile, FileCache
from .catalog.scanning import ScanningCatalog
from .errors import (
    AlreadyExists,
    InvalidManifest,
    InvalidRequest,
    NotDeletable,
    NotFound,
    Overloaded,
    StoreUnavailable,
    no_avatar,
    shown,
)
from .health import assess_health
from .manifest_editor import ManifestEditor
from .metrics import Metrics
from .portrait_intake import PortraitIntake
from .portraits.custom_avatar import candidate_ids
from .scratch import sweep_scratch_folders
from .source_intake import SourceIntake
from .store_connection import StoreConnection
from .thumbnail_cache import ThumbnailCache
from .upload_slots import UploadSlots
from .workers.pool import WorkerPool
from .workers.threads import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping
    from contextlib import AbstractContextManager

    from .avatar_maker import OnProgress, Source
    from .bundles.manifest import AvatarSummary
    from .bundles.reading import StoredManifest
    from .bundles.store import FileReader
    from .catalog import Catalog, Listing, ListingPage, ListingQuery
    from .catalog.event_log import EventLog
    from .health import Health, StoreHealth
    from .host.host import PluginHost
    from .portraits.checks import PortraitReport
    from .portraits.thumbnails import ThumbnailFormat
    from .settings import Settings
    from .workers.runner import Runner

    StoredFile = CachedFile | FileReader

log = logging.getLogger(__name__)

#: How many ids to try for a new avatar. Each is a millisecond later than the one before.
MAX_ID_ATTEMPTS = 1000

#: How long the URL works that sends a client to the store for a preview.
_PRESIGNED_URL_SECONDS = 300.0

#: Time that a worker may take for each frame of a video. A detector that is as slow as this is still useful.
_SECONDS_PER_FRAME = 1.0


class AvatarService:
    """Lists, reads, makes, changes and deletes avatars. An async context manager; one per process and event loop.

    Args:
        settings: where the store is, and the limits for portraits.
        host: the plugins, loaded.
        now: returns the time, with a time zone, for the ids of new avatars.

    Raises:
        InvalidURL: no plugin opens the store's URL.
        PluginError: two plugins open it, or register one model type.
    """

    def __init__(self, settings: Settings, host: PluginHost, now: Callable[[], datetime] | None = None) -> None:
        self._settings = settings
        self._host = host
        self._now = now or _utc_now
        self._store, self._store_plugin = host.open_bundle_store(settings.avatars_dir)
        self.metrics = Metrics()
        workers, time_limit = settings.portrait_workers, settings.portrait_time_limit
        threads = ThreadRunner(time_limit)
        self._runner: Runner = WorkerPool(workers, time_limit) if workers else threads
        # Two pictures per worker, one running and one queued, so that no worker idles. Portraits and thumbnails have
        # slots of their own, so that thumbnails don't wait for uploads.
        slots = 2 * max(workers, 1)
        self._portraits = PortraitIntake(settings, host, self._runner, threads, slots, self.metrics)
        # Videos have workers of their own, so that portraits don't wait for videos.
        video_limit = time_limit + settings.video_max_frames * _SECONDS_PER_FRAME
        video_threads = ThreadRunner(video_limit)
        self._video_runner: Runner = WorkerPool(max(1, workers - 1), video_limit) if workers else video_threads
        sources = SourceIntake(settings, host, self._video_runner, video_threads, self.metrics)
        model_types = host.model_types()
        self._maker = AvatarMaker(model_types, self._portraits, sources)
        self._catalog: Catalog = ScanningCatalog(self._store, settings.refresh_seconds, self.metrics)
        self.metrics.avatars.set_function(lambda: self._catalog.status().avatars)
        self._connection = StoreConnection(self._store, self._catalog.start)
        cache_bytes = settings.cache_mb * 1024 * 1024
        # Without a change stamp, other processes' changes are only seen by scanning, so cached files may be as stale as
        # the list. Checking more often would cost backend requests.
        max_age = 1.0 if isinstance(self._store, ChangeStamp) else max(1.0, settings.refresh_seconds)
        stamp = self._catalog.change_stamp
        self._files = FileCache(self._store, cache_bytes * 3 // 4, stamp, max_age, self.metrics)
        other_files = FileCache(self._store, cache_bytes // 8, stamp, max_age, self.metrics)
        #: the files of each bundle
        self.bundle_files = BundleFiles(self._store, self._connection, other_files, self.metrics)
        self._editor = ManifestEditor(self._store, model_types, self._catalog, self._forget, self.metrics)
        self._upload_slots = UploadSlots(settings.upload_queue, self.metrics.uploads)
        self._thumbnails = ThumbnailCache(self._runner, slots, cache_bytes // 8)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(sweep_scratch_folders)
        try:
            await self._connection.open()
        except StoreUnavailable as error:  # the store may come up later; until then each request says that it is down
            log.warning("the avatars can't be reached yet: %s", error)
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with contextlib.AsyncExitStack() as stack:  # ends each part, even if another one raises
            stack.callback(self._host.shutdown)
            stack.push_async_callback(self._connection.close)
            stack.push_async_callback(self._runner.close)
            stack.push_async_callback(self._video_runner.close)
            stack.push_async_callback(self._catalog.stop)

    async def listing(self) -> Listing:
        """Return the avatars that are not hidden and whose manifest can be read, by id, encoded.

        Raises:
            StoreUnavailable: the store could never be read.
        """
        if not self._connection.is_open:
            await self._connection.open()
        return await self._catalog.listing()

    def current_listing(self) -> Listing | None:
        """Return what `listing` would return, or None if that takes waiting."""
        return self._catalog.current() if self._connection.is_open else None

    @property
    def events(self) -> EventLog:
        """The latest changes of the list, also those by others."""
        return self._catalog.events

    async def manifest_etag(self, avatar_id: str) -> str | None:
        """Return the entity tag of an avatar's manifest, or None if it can't be read."""
        try:
            async with self.manifest(avatar_id) as file:
                return file.info.etag
        except (NotFound, StoreUnavailable):
            return None

    async def page(self, query: ListingQuery) -> ListingPage:
        """Return a part of the list. Raise StoreUnavailable if the store could never be read."""
        await self._connection.open()
        return await self._catalog.page(query)

    def cached_manifest(self, avatar_id: str) -> CachedFile | None:
        """Return an avatar's manifest.json if it is in memory and known to be fresh."""
        return self._files.fresh(avatar_id, MANIFEST)

    def cached_preview(self, avatar_id: str) -> CachedFile | None:
        """Return an avatar's preview.png if it is in memory and known to be fresh."""
        return self._files.fresh(avatar_id, PREVIEW)

    @contextlib.asynccontextmanager
    async def manifest(self, avatar_id: str) -> AsyncIterator[StoredFile]:
        """Open an avatar's manifest.json as it is stored. Raise NotFound or StoreUnavailable."""
        async with self._file(avatar_id, MANIFEST) as file:
            yield file

    @contextlib.asynccontextmanager
    async def preview(self, avatar_id: str) -> AsyncIterator[StoredFile]:
        """Open an avatar's preview.png as it is stored. Raise NotFound or StoreUnavailable."""
        async with self._file(avatar_id, PREVIEW) as file:
            yield file

    async def source_video(self, avatar_id: str) -> str:
        """Return the path of the video from which an avatar was made, in its bundle.

        Raises:
            NotFound: there is no such avatar, or its manifest names no such video.
            StoreUnavailable: try again.
        """
        async with self.manifest(avatar_id) as file:
            data = file.data if isinstance(file, CachedFile) else await file.read()
        path = AvatarManifest.parse(data).metadata.get("source_video")
        if not (isinstance(path, str) and is_bundle_path(path)):
            raise NotFound(f"the manifest of avatar {avatar_id!r} names no source video in its bundle")
        return path

    async def preview_url(self, avatar_id: str) -> str | None:
        """Return the store's own URL of a preview, or None if clients aren't to be sent there.

        Raises:
            NotFound: there is no such avatar, or it has no preview.
            StoreUnavailable: try again.
        """
        if not (self._settings.preview_redirect and isinstance(self._store, PresignedURLs)):
            return None
        await self._prepare_access(avatar_id)
        try:
            return await self._store.presigned_url(avatar_id, PREVIEW, _PRESIGNED_URL_SECONDS)
        except NotFound:
            raise NotFound(f"there is no avatar {shown(avatar_id)}, or it has no {PREVIEW}") from None

    async def thumbnail(self, avatar_id: str, width: int, image_format: ThumbnailFormat) -> CachedFile | None:
        """Return an avatar's preview, at most `width` pixels wide.

        Args:
            avatar_id: the avatar.
            width: of the copy, in pixels.
            image_format: of the copy.

        Returns:
            None if the stored preview is good enough as it is: not wider, and a PNG was asked for.

        Raises:
            NotFound: there is no such avatar, or its preview is missing or not a picture.
            StoreUnavailable, WorkersUnavailable: try again.
        """
        if (cached := self.cached_preview(avatar_id)) is not None:
            return await self._thumbnails.get(avatar_id, cached, width, image_format)
        async with self.preview(avatar_id) as preview:
            return await self._thumbnails.get(avatar_id, preview, width, image_format)

    async def create(
        self, name: str, base_avatar_id: str, source: Source, on_progress: OnProgress | None = None
    ) -> AvatarSummary:
        """Make a new avatar from a portrait or a video: driven like the base, with its mouth located.

        A cancellation ends the work, and nothing is written.

        Args:
            name: for people to read; 1 to MAX_NAME_CHARACTERS characters.
            base_avatar_id: the avatar whose manifest is the template.
            source: the bytes of a JPEG, PNG or WebP, or the file of a video.
            on_progress: called on the event loop a few times a second while a video is worked on.

        Raises:
            InvalidRequest: the name is blank or too long, the base is not usable, or the source can't be read.
            NotFound: there is no such base.
            StoreFull, StoreUnavailable, Overloaded, WorkersUnavailable: nothing was written.
        """
        name = checked_name(name)
        base = await self._base_manifest(base_avatar_id)
        async with self._maker.make(name, base_avatar_id, base, source, on_progress) as made:
            try:
                avatar_id, manifest = await self._store_under_free_id(name, made.manifest, made.files)
            except InvalidManifest as error:
                raise InvalidRequest(f"the base avatar {base_avatar_id!r} can't be used: {error}") from None
        self._catalog.created(avatar_id, manifest)
        log.info(
            "made avatar %s; mouth %s", avatar_id, f"found by {made.mouth.detector}" if made.mouth else "not found"
        )
        return manifest.summary(avatar_id)

    async def _store_under_free_id(
        self, name: str, manifest: AvatarManifest, content: Mapping[str, bytes | AsyncIterable[bytes]]
    ) -> tuple[str, AvatarManifest]:
        """Create the bundle under the first free id for `name`; return that id, and the manifest with it.

        Raises:
            InvalidManifest: the manifest is not valid.
            StoreFull, StoreUnavailable, Overloaded: nothing was written.
        """
        for avatar_id in itertools.islice(candidate_ids(name, self._now()), MAX_ID_ATTEMPTS):
            manifest = manifest.model_copy(update={"id": avatar_id})
            files = {**content, MANIFEST: manifest.to_json()}
            try:
                with self._catalog.local_change(), self.metrics.stage("store"), self.metrics.store_operation("create"):
                    await self._store.create(avatar_id, files)
            except AlreadyExists:  # another upload of this name in the same millisecond
                continue
            return avatar_id, manifest
        raise Overloaded(f"{MAX_ID_ATTEMPTS} avatars of this name were made within a moment; try again", retry_after=1)

    async def check(self, source: Source, on_progress: OnProgress | None = None) -> PortraitReport:
        """Report whether a portrait or a video is fit to be an avatar. Nothing is stored.

        Args:
            source: the bytes of a JPEG, PNG or WebP, or the file of a video.
            on_progress: called on the event loop a few times a second while a video is worked on.

        Raises:
            InvalidRequest: the source can't be read.
            WorkersUnavailable: try again.
        """
        return await self._maker.check(source, on_progress)

    def upload_slot(self) -> AbstractContextManager[None]:
        """Hold a slot for an upload, from its first byte to its answer. Raise Overloaded if all are taken."""
        return self._upload_slots.take()

    async def delete(self, avatar_id: str) -> None:
        """Delete a custom avatar.

        Raises:
            NotFound: there is no such avatar.
            NotDeletable: the avatar is built in or hidden.
            StoreUnavailable: the avatar is still there.
        """
        try:
            manifest = await self._manifest(avatar_id)
        except NotFound:  # another process may have deleted it
            self._forget(avatar_id)
            raise
        if manifest.is_hidden:
            raise NotDeletable(f"avatar {avatar_id!r} is hidden and can't be deleted")
        if not manifest.is_custom:
            raise NotDeletable(f"avatar {avatar_id!r} is built in and can't be deleted; only custom avatars can")
        async with self._editor.lock(avatar_id):
            try:
                with self._catalog.local_change(), self.metrics.store_operation("delete"):
                    await self._store.delete(avatar_id)
            except NotFound:  # another process has deleted it meanwhile
                self._forget(avatar_id)
                self._catalog.deleted(avatar_id)
                raise no_avatar(avatar_id) from None
            self._forget(avatar_id)
            self._catalog.deleted(avatar_id)
        log.info("deleted avatar %s", avatar_id)

    async def change(
        self, avatar_id: str, patch: Mapping[str, Any], expected_etags: Collection[str] | None = None
    ) -> StoredManifest:
        """Change the manifest of a custom avatar by a JSON merge patch on `name` and `metadata`.

        Returns:
            the new version of the manifest; the present one if the patch changes nothing.

        Raises:
            OpenTalkingError: see `ManifestEditor.change`. An avatar whose manifest can't be read is NotFound.
        """
        await self._prepare_access(avatar_id)
        try:
            version = await self._editor.change(avatar_id, patch, expected_etags)
        except NotFound:
            self._forget(avatar_id)
            raise no_avatar(avatar_id) from None
        except InvalidManifest as error:
            raise _unusable(avatar_id, error) from None
        log.info("changed avatar %s", avatar_id)
        return version

    def _forget(self, avatar_id: str) -> None:
        """Drop the cached files of a changed or deleted avatar."""
        self._files.forget(avatar_id)
        self.bundle_files.forget(avatar_id)

    async def health(self) -> Health:
        """Return which store and detectors are in use and whether each works: the body of GET /health."""
        try:
            await self.listing()
            store_problem = self._catalog.status().last_error
        except StoreUnavailable as error:
            store_problem = str(error)
        reported = await asyncio.to_thread(self._host.reported_problems)  # plugins look at their files
        status = self._catalog.status()
        store: StoreHealth = {
            "plugin": self._store_plugin.name,
            "url": self._store.url,
            "ok": store_problem is None,
            "problem": store_problem or "; ".join(reported.get(self._store_plugin.name, ())) or None,
            "avatars": status.avatars,
            "stale": store_problem is not None or not status.is_complete,
        }
        failed = [info.name for info in self._host.plugins() if info.status == "failed"]
        return assess_health(store, self._portraits.assess_detectors(reported), reported, failed)

    async def _manifest(self, avatar_id: str) -> AvatarManifest:
        """Read an avatar's manifest from the store, not from the cache."""
        await self._prepare_access(avatar_id)
        try:
            return await read_manifest(self._store, avatar_id)
        except NotFound:
            raise no_avatar(avatar_id) from None
        except InvalidManifest as error:
            raise _unusable(avatar_id, error) from None

    @contextlib.asynccontextmanager
    async def _file(self, avatar_id: str, path: str) -> AsyncIterator[StoredFile]:
        """Open a file of an avatar, after asking the store whether the cached copy is current."""
        await self._prepare_access(avatar_id)
        check = AvatarManifest.parse if path == MANIFEST else None
        async with contextlib.AsyncExitStack() as stack:
            try:
                file = await stack.enter_async_context(self._files.open(avatar_id, path, check))
            except NotFound:
                missing = "" if path == MANIFEST else f", or it has no {path}"
                raise NotFound(f"there is no avatar {shown(avatar_id)}{missing}") from None
            except InvalidManifest as error:
                raise _unusable(avatar_id, error) from None
            yield file

    async def _base_manifest(self, base_avatar_id: str) -> AvatarManifest:
        if not base_avatar_id.strip():
            raise InvalidRequest("base_avatar_id is blank: name the avatar to use as a template")
        try:
            return await self._manifest(base_avatar_id)
        except NotFound as error:
            raise NotFound(f"the base can't be used: {error}") from None

    async def _prepare_access(self, avatar_id: str) -> None:
        """Connect to the store. Raise NotFound for what isn't an id: stores are only asked for well-formed ids."""
        if not is_avatar_id(avatar_id):
            raise no_avatar(avatar_id)
        await self._connection.open()


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _unusable(avatar_id: str, error: InvalidManifest) -> NotFound:
    return NotFound(f"there is no usable avatar {avatar_id!r}: its {error}")
