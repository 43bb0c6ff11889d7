"""The bundle store at memory://name: the reference implementation, and a test double.

Stores of the same URL share their bundles within the process. Nothing survives the process.
"""

from __future__ import annotations

import itertools
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    ManifestChanged,
    NotFound,
    check_new_bundle,
    chunk_ranges,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Hashable, Mapping
    from typing import Self

    from opentalking_core import BundleStore

_CHUNK_BYTES = 1024 * 1024


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Open memory://name."""
    return MemoryStore(url) if url.startswith("memory://") else None


@dataclass(slots=True)
class MemoryFile:
    """One file of a bundle. It never changes, so it serves as its own `FileReader`."""

    info: FileInfo
    content: bytes

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        for offset, length in chunk_ranges(self.info.size, start, stop, _CHUNK_BYTES):
            yield self.content[offset : offset + length]

    async def read(self) -> bytes:
        return self.content


@dataclass(slots=True)
class _Shared:
    """The state that all stores of one URL share."""

    bundles: dict[str, dict[str, MemoryFile]] = field(default_factory=dict)  # avatar id -> path -> file
    stamp: int = 0


_shared: dict[str, _Shared] = {}
_count = itertools.count(1)
_process = secrets.token_hex(4)  # clients may still hold an etag from before a restart


class MemoryStore:
    """Bundles in a dict. Each change is a single dict operation, so no reader sees half a bundle.

    Args:
        url: memory://name; stores of the same URL share their bundles.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._shared = _shared.setdefault(url, _Shared())
        self._bundles = self._shared.bundles

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def scan(self) -> AsyncIterator[BundleVersion]:
        for avatar_id, files in list(self._bundles.items()):
            yield BundleVersion(avatar_id, files[MANIFEST].info.etag)

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        bundle = self._bundles.get(avatar_id)
        if bundle is None:
            raise NotFound(f"there is no avatar {avatar_id!r}")
        for file in bundle.values():
            yield file.info

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[MemoryFile]:
        file = self._bundles.get(avatar_id, {}).get(path)
        if file is None:
            raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
        yield file

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        check_new_bundle(avatar_id, files)
        taken = AlreadyExists(f"there is an avatar {avatar_id!r} already")
        if avatar_id in self._bundles:
            raise taken
        bundle = {}
        for path, source in files.items():
            content = source if isinstance(source, bytes) else b"".join([chunk async for chunk in source])
            bundle[path] = _new_file(path, content)
        if self._bundles.setdefault(avatar_id, bundle) is not bundle:
            raise taken
        self._shared.stamp = next(_count)

    async def delete(self, avatar_id: str) -> None:
        if self._bundles.pop(avatar_id, None) is None:
            raise NotFound(f"there is no avatar {avatar_id!r}")
        self._shared.stamp = next(_count)

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        bundle = self._bundles.get(avatar_id)
        if bundle is None:
            raise NotFound(f"there is no avatar {avatar_id!r}")
        if bundle[MANIFEST].info.etag != expected_etag:
            raise ManifestChanged(f"the manifest of avatar {avatar_id!r} has changed")
        bundle[MANIFEST] = _new_file(MANIFEST, manifest)
        self._shared.stamp = next(_count)
        return bundle[MANIFEST].info.etag

    def change_stamp(self) -> Hashable:
        return self._shared.stamp


def _new_file(path: str, content: bytes) -> MemoryFile:
    return MemoryFile(FileInfo(path, len(content), f"{_process}-{next(_count)}", time.time()), content)
