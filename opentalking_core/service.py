"""AvatarService: what the API and the command line do with avatars, over one bundle store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from .catalog import AvatarCatalog, read_manifest
from .custom_avatar import candidate_ids, custom_manifest
from .detection import DetectorChain
from .errors import (
    AlreadyExists,
    InvalidManifest,
    InvalidRequest,
    NotDeletable,
    NotFound,
    OpenTalkingError,
    StoreUnavailable,
)
from .manifest import is_avatar_id
from .portrait import decode_portrait, encode_png
from .store import MANIFEST
from .workers import WorkerCrashed, WorkerPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .host import PluginHost
    from .manifest import AvatarManifest, AvatarSummary
    from .settings import Settings
    from .store import FileReader

log = logging.getLogger(__name__)

#: A custom avatar's name may have so many characters.
MAX_NAME = 200

_PREVIEW = "preview.png"


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
        self._detectors = DetectorChain(host, self._workers)
        self._catalog = AvatarCatalog(self._store)
        self._connecting = asyncio.Lock()
        self._connected = False

    async def __aenter__(self) -> Self:
        try:
            await self._connect()
        except StoreUnavailable as error:  # it may come up later; until then each request says so
            log.warning("the avatars can't be reached yet: %s", error)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._workers.close()
        if self._connected:
            await self._store.__aexit__(None, None, None)
        self._host.shutdown()

    async def _connect(self) -> None:
        if not self._connected:
            async with self._connecting:
                if not self._connected:
                    await self._store.__aenter__()
                    self._connected = True

    async def list(self) -> list[AvatarSummary]:
        """The avatars that are not hidden and whose manifest can be read, by id. Raises StoreUnavailable."""
        await self._connect()
        return await self._catalog.summaries()

    async def manifest(self, avatar_id: str) -> tuple[AvatarManifest, bytes]:
        """An avatar's manifest, parsed and as it is stored. Raises NotFound, StoreUnavailable."""
        await self._check(avatar_id)
        try:
            return await read_manifest(self._store, avatar_id)
        except NotFound:
            raise _no_avatar(avatar_id) from None
        except InvalidManifest as error:
            raise NotFound(f"there is no usable avatar {avatar_id!r}: its {error}") from None

    @contextlib.asynccontextmanager
    async def preview(self, avatar_id: str) -> AsyncIterator[FileReader]:
        """An avatar's preview.png, opened. Raises NotFound, StoreUnavailable."""
        await self._check(avatar_id)
        try:
            async with self._store.open(avatar_id, _PREVIEW) as file:
                yield file
        except NotFound:
            raise NotFound(f"there is no avatar {_shown(avatar_id)}, or it has no {_PREVIEW}") from None

    async def create(self, name: str, base_avatar_id: str, image: bytes) -> AvatarSummary:
        """Make a new avatar from a portrait: driven like the base, with its mouth located.

        Args:
            name: for people to read; 1 to MAX_NAME characters.
            base_avatar_id: the avatar whose manifest is the template.
            image: a JPEG, PNG or WebP.

        Raises:
            InvalidRequest: a blank or overlong name, a base that can't be one, a picture that can't be read.
            NotFound: there is no such base.
            StoreFull, StoreUnavailable: nothing was written.
        """
        name = _checked_name(name)
        base, _ = await self._base_manifest(base_avatar_id)
        model_type = self._model_types.get(base.model_type)
        recipe = model_type.portrait_recipe if model_type else None
        if recipe is None:
            usable = ", ".join(sorted(n for n, model_type in self._model_types.items() if model_type.portrait_recipe))
            raise InvalidRequest(
                f"the base avatar {base_avatar_id!r} is of model type {base.model_type!r}; a portrait needs {usable}"
            )
        settings = self._settings
        try:
            pixels = await self._workers.run(
                decode_portrait, image, settings.custom_avatar_max_width, settings.custom_avatar_max_height
            )
        except (WorkerCrashed, TimeoutError) as error:
            log.warning("a portrait of %d bytes could not be decoded: %s", len(image), error)
            raise InvalidRequest("the image can't be decoded: send an ordinary JPEG, PNG or WebP") from None
        picture, mouth = await asyncio.gather(self._workers.run(encode_png, pixels), self._detectors.detect(pixels))
        height, width, _ = pixels.shape
        manifest = custom_manifest(base_avatar_id, base, recipe, name, picture, (width, height), mouth)
        for avatar_id in candidate_ids(name, datetime.now(UTC)):
            manifest = manifest.model_copy(update={"id": avatar_id})
            try:
                files = dict.fromkeys(recipe.picture_paths, picture) | {MANIFEST: manifest.to_json()}
            except InvalidManifest as error:  # the base holds a number like 1e400, which reads as infinity
                raise InvalidRequest(f"the base avatar {base_avatar_id!r} can't be used: {error}") from None
            try:
                await self._store.create(avatar_id, files)
            except AlreadyExists:  # another upload of this name in the same millisecond
                continue
            log.info("made avatar %s; mouth %s", avatar_id, f"found by {mouth.detector}" if mouth else "not found")
            return manifest.summary(avatar_id)
        raise AssertionError("there is always a later millisecond")

    async def delete(self, avatar_id: str) -> None:
        """Delete a custom avatar.

        Raises:
            NotFound: there is no such avatar.
            NotDeletable: it is built in or hidden.
            StoreUnavailable: it is still there.
        """
        manifest, _ = await self.manifest(avatar_id)
        if manifest.is_hidden:
            raise NotDeletable(f"avatar {avatar_id!r} is hidden and can't be deleted")
        if not manifest.is_custom:
            raise NotDeletable(f"avatar {avatar_id!r} is built in and can't be deleted; only custom avatars can")
        try:
            await self._store.delete(avatar_id)
        except NotFound:
            raise _no_avatar(avatar_id) from None
        log.info("deleted avatar %s", avatar_id)

    async def health(self) -> dict[str, object]:
        """Which store and detectors are in use and whether each works: the body of GET /health."""
        store_problem = None
        try:
            await self._connect()
            async for _ in self._store.scan():
                break
        except OpenTalkingError as error:
            store_problem = str(error)
        reported = self._host.problems()
        detectors = []
        for info in self._host.detectors():
            problem = "; ".join(reported.get(info.name, [])) or self._detectors.failures.get(info.name)
            detectors.append({"plugin": info.name, "ok": problem is None, "problem": problem})
        works = store_problem is None and any(detector["ok"] for detector in detectors)
        return {
            "status": "unavailable" if store_problem else "ok" if works else "degraded",
            "store": {
                "plugin": self._store_plugin.name,
                "url": self._store.url,
                "ok": store_problem is None,
                "problem": store_problem,
            },
            "detectors": detectors,
        }

    async def _base_manifest(self, base_avatar_id: str) -> tuple[AvatarManifest, bytes]:
        if not base_avatar_id.strip():
            raise InvalidRequest("base_avatar_id is blank: name the avatar to use as a template")
        try:
            return await self.manifest(base_avatar_id)
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
