"""Read a bundle's manifest from its store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidManifest
from .manifest import MAX_MANIFEST_BYTES, AvatarManifest
from .store import MANIFEST

if TYPE_CHECKING:
    from .store import BundleStore


async def read_manifest(store: BundleStore, avatar_id: str) -> AvatarManifest:
    """Return the manifest of a bundle. Raises NotFound, InvalidManifest, StoreUnavailable."""
    async with store.open(avatar_id, MANIFEST) as file:
        if file.info.size > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"{MANIFEST} has {file.info.size} bytes; at most {MAX_MANIFEST_BYTES} are read")
        return AvatarManifest.parse(await file.read())
