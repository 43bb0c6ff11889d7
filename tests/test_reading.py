"""Reading a manifest from a store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from opentalking_core.bundles.manifest import MAX_MANIFEST_BYTES
from opentalking_core.bundles.reading import read_manifest
from opentalking_core.bundles.store import FileInfo
from opentalking_core.errors import InvalidManifest

from .helpers.stores import WatchedStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentalking_core.bundles.store import FileReader


class UnreadableFile:
    """A file of a given size that must not be read."""

    def __init__(self, size: int) -> None:
        self.info = FileInfo("manifest.json", size, "tag", 0.0)

    def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        raise AssertionError("the file was read")

    async def read(self) -> bytes:
        raise AssertionError("the file was read")


class UnreadableStore(WatchedStore):
    """A store whose manifests all have the same size and must not be read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    @contextlib.asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[FileReader]:
        yield UnreadableFile(self._size)


def test_oversized_manifest_is_rejected_without_reading_it() -> None:
    with pytest.raises(InvalidManifest, match=f"has {MAX_MANIFEST_BYTES + 1} bytes"):
        asyncio.run(read_manifest(UnreadableStore(MAX_MANIFEST_BYTES + 1), "anna"))


def test_largest_allowed_manifest_is_read() -> None:
    with pytest.raises(AssertionError, match="the file was read"):
        asyncio.run(read_manifest(UnreadableStore(MAX_MANIFEST_BYTES), "anna"))
