"""ManifestEditor: changes the manifests of custom avatars."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from .bundles.bundle import AvatarBundle
from .bundles.manifest_patch import apply_patch
from .bundles.reading import StoredManifest, read_stored_manifest
from .bundles.store import ReplaceableManifests
from .bundles.validation import validate_bundle
from .errors import InvalidRequest, ManifestChanged, NotChangeable, NotSupported, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    from .bundles.manifest import AvatarManifest
    from .bundles.model_type import ModelType
    from .bundles.store import BundleStore
    from .catalog import Catalog
    from .metrics import Metrics

#: How often to begin again if another process changes the same manifest, and the client expects no certain version.
MAX_CHANGE_ATTEMPTS = 8


class ManifestEditor:
    """Changes manifests by JSON merge patch, one change of an avatar at a time.

    Args:
        store: where the manifests are; entered before the first change.
        model_types: the known model types by name, which say what a valid manifest is.
        catalog: learns of each change.
        forget: drops what is cached of an avatar's files.
        metrics: where requests to the store are counted.
    """

    def __init__(
        self,
        store: BundleStore,
        model_types: Mapping[str, ModelType],
        catalog: Catalog,
        forget: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._model_types = model_types
        self._catalog = catalog
        self._forget = forget
        self._metrics = metrics
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, avatar_id: str) -> asyncio.Lock:
        """Return the lock to hold while this process changes or deletes the avatar.

        The catalog then learns of the changes in the order in which the store made them.
        """
        return self._locks.setdefault(avatar_id, asyncio.Lock())

    async def change(
        self, avatar_id: str, patch: Mapping[str, Any], expected_etags: Collection[str] | None
    ) -> StoredManifest:
        """Apply a JSON merge patch to the manifest of a custom avatar, and return the new version.

        A patch that changes nothing writes nothing.

        Args:
            avatar_id: a well-formed id.
            patch: see `apply_patch`.
            expected_etags: change only one of these versions; None changes whichever version is there.

        Raises:
            NotFound, InvalidManifest: there is no such avatar, or its manifest can't be read.
            NotChangeable: the avatar is built in or hidden.
            InvalidRequest: the message names the field.
            ManifestChanged: the avatar has none of the expected versions.
            NotSupported: the store can't replace manifests.
            Overloaded: other processes were faster each time.
            StoreFull, StoreUnavailable: try again.
        """
        if not isinstance(self._store, ReplaceableManifests):
            raise NotSupported(f"avatars in {self._store.url} can't be changed: its plugin can't replace manifests")
        async with self.lock(avatar_id):
            for _ in range(MAX_CHANGE_ATTEMPTS):
                try:
                    return await self._change(self._store, avatar_id, patch, expected_etags)
                except ManifestChanged:
                    if expected_etags is not None:
                        raise ManifestChanged(
                            f"avatar {avatar_id!r} has changed meanwhile: read its manifest again, and send the change"
                            " with the new ETag in If-Match, quotes included"
                        ) from None
        raise Overloaded(f"avatar {avatar_id!r} is being changed by other processes; try again", retry_after=1)

    async def _change(
        self,
        store: ReplaceableManifests,
        avatar_id: str,
        patch: Mapping[str, Any],
        expected_etags: Collection[str] | None,
    ) -> StoredManifest:
        before = await read_stored_manifest(self._store, avatar_id)
        _check_changeable(avatar_id, before.manifest)
        if expected_etags is not None and before.etag not in expected_etags:
            raise ManifestChanged
        # The outcome of the strict validation doesn't depend on the name.
        files = {info.path: info.size async for info in self._store.files(avatar_id)} if "metadata" in patch else {}
        # In a thread: a manifest may have megabytes.
        after, content = await asyncio.to_thread(self._changed, avatar_id, before.manifest, patch, files)
        if content is None:
            return before
        try:
            with self._catalog.local_change(), self._metrics.store_operation("replace"):
                etag = await store.replace_manifest(avatar_id, content, before.etag)
        finally:  # even after a failure, the new manifest may be there
            self._forget(avatar_id)
        self._catalog.changed(avatar_id, after, etag)
        return StoredManifest(after, content, etag)

    def _changed(
        self, avatar_id: str, before: AvatarManifest, patch: Mapping[str, Any], files: Mapping[str, int]
    ) -> tuple[AvatarManifest, bytes | None]:
        """Return the new manifest, and its content if the patch changes it.

        Raises:
            InvalidRequest: the patch is wrong, or makes an error that the strict validation finds.
        """
        after = apply_patch(before, patch)
        content = after.to_json()
        if content == before.to_json():
            return before, None
        if files:
            known = validate_bundle(AvatarBundle(avatar_id, before, files), self._model_types)
            for problem in validate_bundle(AvatarBundle(avatar_id, after, files), self._model_types):
                if problem.severity == "error" and problem not in known:
                    raise InvalidRequest(f"{problem.where} {problem.message}")
        return after, content


def _check_changeable(avatar_id: str, manifest: AvatarManifest) -> None:
    if manifest.is_hidden:
        raise NotChangeable(f"avatar {avatar_id!r} is hidden and can't be changed")
    if not manifest.is_custom:
        raise NotChangeable(f"avatar {avatar_id!r} is built in and can't be changed; only custom avatars can")
