"""Read a bundle's manifest from its store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidManifest
from .manifest import MAX_MANIFEST_BYTES, AvatarManifest
from .store import MANIFEST

if TYPE_CHECKING:
    from .store import BundleStore


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """One version of a bundle's manifest.json.

    Args:
        manifest: what the file says.
        content: the file, as it is stored.
        etag: the file's entity tag.
    """

    manifest: AvatarManifest
    content: bytes
    etag: str


async def read_manifest(store: BundleStore, avatar_id: str) -> AvatarManifest:
    """Return the manifest of a bundle. Raises NotFound, InvalidManifest, StoreUnavailable."""
    return (await read_stored_manifest(store, avatar_id)).manifest


async def read_stored_manifest(store: BundleStore, avatar_id: str) -> StoredManifest:
    """Return the present version of a bundle's manifest. Raises NotFound, InvalidManifest, StoreUnavailable."""
    async with store.open(avatar_id, MANIFEST) as file:
        if file.info.size > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"{MANIFEST} has {file.info.size} bytes; at most {MAX_MANIFEST_BYTES} are read")
        content = await file.read()
        return StoredManifest(AvatarManifest.parse(content), content, file.info.etag)
