"""The in-process index of avatar summaries over one bundle store."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .errors import InvalidManifest, NotFound, StoreUnavailable
from .manifest import MAX_MANIFEST_BYTES, AvatarManifest
from .store import MANIFEST

if TYPE_CHECKING:
    from .manifest import AvatarSummary
    from .store import BundleStore

log = logging.getLogger(__name__)

#: Manifests read at the same time.
_READS = 32


async def read_manifest(store: BundleStore, avatar_id: str) -> tuple[AvatarManifest, bytes]:
    """A bundle's manifest, parsed and as it is stored. Raises NotFound, InvalidManifest, StoreUnavailable."""
    async with store.open(avatar_id, MANIFEST) as file:
        if file.info.size > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"{MANIFEST} has {file.info.size} bytes; at most {MAX_MANIFEST_BYTES} are read")
        data = await file.read()
    return AvatarManifest.parse(data), data


class AvatarCatalog:
    """What GET /avatars lists: the summaries of all bundles that can be read and are not hidden.

    Args:
        store: where the bundles are; entered by the caller.
    """

    def __init__(self, store: BundleStore) -> None:
        self._store = store
        self._versions: dict[str, str] = {}
        self._summaries: dict[str, AvatarSummary] = {}
        self._refused: dict[str, str] = {}  # what was logged of manifests that can't be used
        self._refreshing = asyncio.Lock()

    async def summaries(self) -> list[AvatarSummary]:
        """The listed avatars, by id. Raises StoreUnavailable."""
        async with self._refreshing:
            await self._refresh()
        return [self._summaries[avatar_id] for avatar_id in sorted(self._summaries)]

    async def _refresh(self) -> None:
        found = {bundle.avatar_id: bundle.version async for bundle in self._store.scan()}
        for avatar_id in self._versions.keys() - found.keys():
            self._forget(avatar_id)
        changed = iter([bundle for bundle in found.items() if self._versions.get(bundle[0]) != bundle[1]])

        async def read_changed() -> None:
            for avatar_id, version in changed:
                await self._read(avatar_id, version)

        await asyncio.gather(*(read_changed() for _ in range(_READS)))

    async def _read(self, avatar_id: str, version: str) -> None:
        try:
            manifest, _ = await read_manifest(self._store, avatar_id)
        except NotFound:  # deleted since the scan
            self._forget(avatar_id)
            return
        except StoreUnavailable as error:  # what is known of it stays; the next refresh tries again
            log.warning("the manifest of avatar %r can't be read now: %s", avatar_id, error)
            return
        except InvalidManifest as error:
            self._summaries.pop(avatar_id, None)
            if self._refused.get(avatar_id) != str(error):  # once: a store may report a fresh manifest as new again
                self._refused[avatar_id] = str(error)
                log.warning("avatar %r is left out of the list: %s", avatar_id, error)
        else:
            self._refused.pop(avatar_id, None)
            if manifest.is_hidden:
                self._summaries.pop(avatar_id, None)
            else:
                self._summaries[avatar_id] = manifest.summary(avatar_id)
        self._versions[avatar_id] = version

    def _forget(self, avatar_id: str) -> None:
        self._refused.pop(avatar_id, None)
        self._versions.pop(avatar_id, None)
        self._summaries.pop(avatar_id, None)
