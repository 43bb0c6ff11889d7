"""The bundle store at memory://name, a plugin like any other: the reference implementation and a double for tests.

Stores of one name share their bundles within the process; nothing outlives it.
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
    NotFound,
    hookimpl,
    is_avatar_id,
    is_bundle_path,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Hashable, Mapping
    from typing import Self

    from opentalking_core import BundleStore

_PIECE = 1024 * 1024


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Opens memory://name."""
    return MemoryStore(url) if url.startswith("memory://") else None


@dataclass(slots=True)
class MemoryFile:
    """One file of a bundle, and the reader of itself: it never changes, so there is nothing to open."""

    info: FileInfo
    content: bytes

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """See `FileReader.chunks`."""
        stop = self.info.size if stop is None else min(stop, self.info.size)
        for offset in range(start, stop, _PIECE):
            yield self.content[offset : min(offset + _PIECE, stop)]

    async def read(self) -> bytes:
        """See `FileReader.read`."""
        return self.content


@dataclass(slots=True)
class _Shared:
    """What the stores of one URL have in common."""

    bundles: dict[str, dict[str, MemoryFile]] = field(default_factory=dict)  # avatar id -> path -> file
    stamp: int = 0


_shared: dict[str, _Shared] = {}
_count = itertools.count(1)
_process = secrets.token_hex(4)  # a client may still hold a tag from before a restart


class MemoryStore:
    """Bundles in a dict; whatever changes one does it in a single step of the interpreter, so nobody sees half of it.

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
        """See `BundleStore.scan`."""
        for avatar_id, files in list(self._bundles.items()):
            yield BundleVersion(avatar_id, files[MANIFEST].info.etag)

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """See `BundleStore.files`."""
        bundle = self._bundles.get(avatar_id)
        if bundle is None:
            raise NotFound(f"there is no avatar {avatar_id!r}")
        for file in bundle.values():
            yield file.info

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[MemoryFile]:
        """See `BundleStore.open`."""
        file = self._bundles.get(avatar_id, {}).get(path)
        if file is None:
            raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
        yield file

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """See `BundleStore.create`."""
        if not (is_avatar_id(avatar_id) and MANIFEST in files and all(map(is_bundle_path, files))):
            raise ValueError(f"not a bundle: id {avatar_id!r}, files {', '.join(map(repr, files))}")
        taken = AlreadyExists(f"there is an avatar {avatar_id!r} already")
        if avatar_id in self._bundles:
            raise taken
        bundle = {}
        for path, source in files.items():
            content = source if isinstance(source, bytes) else b"".join([chunk async for chunk in source])
            info = FileInfo(path, len(content), f"{_process}-{next(_count)}", time.time())
            bundle[path] = MemoryFile(info, content)
        if self._bundles.setdefault(avatar_id, bundle) is not bundle:
            raise taken
        self._shared.stamp = next(_count)

    async def delete(self, avatar_id: str) -> None:
        """See `BundleStore.delete`."""
        if self._bundles.pop(avatar_id, None) is None:
            raise NotFound(f"there is no avatar {avatar_id!r}")
        self._shared.stamp = next(_count)

    def change_stamp(self) -> Hashable:
        """See `ChangeStamp.change_stamp`."""
        return self._shared.stamp
