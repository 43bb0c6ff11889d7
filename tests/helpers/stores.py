"""A bundle store for tests. It counts calls, and a test can hold, delay and break them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentalking_core import hookimpl
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.testing.fixtures import FakeMouth, example_manifest
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Self

    import httpx

    from opentalking_core.bundles.store import BundleStore, BundleVersion, FileInfo, FileReader


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Check the condition every 5 ms. Fail if it is not true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)


def write_bundle(home: Path, files: Mapping[str, bytes] | None = None, **changes: object) -> Path:
    """Write a bundle file by file, the manifest last; `changes` are to the manifest's fields."""
    home.mkdir(parents=True, exist_ok=True)
    for path, content in (files or {}).items():
        (home / path).write_bytes(content)
    (home / "manifest.json").write_text(json.dumps(example_manifest(home.name, **changes)))
    return home


def serve(store: WatchedStore, mouth: FakeMouth | None = None, **settings: Any) -> AbstractContextManager[httpx.Client]:
    """Run a service over this store, with a fake mouth detector; see `running_service`."""
    plugins = {"watched": store, "fake_mouth": mouth or FakeMouth()}
    return running_service(store.url, plugins=plugins, **settings)


@dataclass
class Hold:
    """Calls of one name that have to wait."""

    calls: float  # how many calls have to wait, from now on
    waiting: int = 0
    is_over: bool = False


class WatchedStore:
    """Bundles in memory, in a store without a change stamp. The store is its own plugin: register it.

    To hold or break a call, a test names the beginning of an operation ("scan", "files", "open", "create", "replace",
    "delete"), its end ("scanned", "opened", "created", "replaced", "deleted"), or the call for one object ("create
    anna", "open anna/manifest.json").
    """

    def __init__(self) -> None:
        self.url = f"watched://{uuid.uuid4()}"
        self.inner = MemoryStore(f"memory://{uuid.uuid4()}")
        #: number of scans that have begun
        self.scans = 0
        #: files that were opened, read as a whole, and streamed in chunks: "anna/manifest.json"
        self.opened: list[str] = []
        self.read: list[str] = []
        self.streamed: list[str] = []
        #: chunks that were read of streamed files
        self.chunks_read = 0
        #: arguments of each call of `create`
        self.created: list[tuple[str, dict[str, bytes | AsyncIterable[bytes]]]] = []
        #: largest number of files that were being opened at the same time
        self.most_opening = 0
        #: number of files that are open
        self.opening = 0
        #: exceptions to raise, by the name of the call
        self.broken: dict[str, Exception] = {}
        #: longest random delay in seconds, before and after each call
        self.jitter = 0.0
        self._holds: dict[str, Hold] = {}

    @hookimpl
    def open_bundle_store(self, url: str) -> BundleStore | None:
        return self if url == self.url else None

    @contextlib.contextmanager
    def holding(self, name: str, calls: float = math.inf) -> Iterator[Hold]:
        """Let the next calls of this name wait until the end of the block."""
        hold = self._holds[name] = Hold(calls)
        try:
            yield hold
        finally:
            del self._holds[name]
            hold.is_over = True

    def put(self, *avatar_ids: str, files: Mapping[str, bytes] | None = None, **changes: object) -> None:
        """Create bundles without the service; `changes` are to the manifest's fields."""

        async def create() -> None:
            for avatar_id in avatar_ids:
                manifest = json.dumps(example_manifest(avatar_id, **changes)).encode()
                await self.inner.create(avatar_id, {"manifest.json": manifest, **(files or {})})

        asyncio.run(create())

    def take(self, avatar_id: str) -> None:
        """Delete a bundle without the service."""
        asyncio.run(self.inner.delete(avatar_id))

    def ids(self) -> set[str]:
        """Return the ids of all bundles."""

        async def scan() -> set[str]:
            return {bundle.avatar_id async for bundle in self.inner.scan()}

        return asyncio.run(scan())

    def wait_for_a_scan(self) -> None:
        """Wait until a scan has begun and ended."""
        before = self.scans
        wait_until(lambda: self.scans > before + 1)

    async def _pass(self, operation: str, what: str = "") -> None:
        if self.jitter:
            await asyncio.sleep(random.random() * self.jitter)
        for name in (operation, f"{operation} {what}"):
            hold = self._holds.get(name)
            if hold is not None and hold.calls > 0:
                hold.calls -= 1
                hold.waiting += 1
                while not hold.is_over:  # noqa: ASYNC110 - another thread ends it
                    await asyncio.sleep(0.002)
            if name in self.broken:
                raise self.broken[name]

    async def __aenter__(self) -> Self:
        await self._pass("enter")
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def scan(self) -> AsyncIterator[BundleVersion]:
        self.scans += 1
        await self._pass("scan")
        async for bundle in self.inner.scan():
            yield bundle
        await self._pass("scanned")

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        await self._pass("files", avatar_id)
        async for info in self.inner.files(avatar_id):
            yield info

    @contextlib.asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[FileReader]:
        name = f"{avatar_id}/{path}"
        self.opened.append(name)
        self.opening += 1
        self.most_opening = max(self.most_opening, self.opening)
        try:
            await self._pass("open", name)
            async with self.inner.open(avatar_id, path) as file:
                await self._pass("opened", name)
                yield _WatchedReader(file, name, self)
        finally:
            self.opening -= 1

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        self.created.append((avatar_id, dict(files)))
        await self._pass("create", avatar_id)
        await self.inner.create(avatar_id, files)
        await self._pass("created", avatar_id)

    async def delete(self, avatar_id: str) -> None:
        await self._pass("delete", avatar_id)
        await self.inner.delete(avatar_id)
        await self._pass("deleted", avatar_id)


class ReplacingStore(WatchedStore):
    """Bundles in memory, in a store that can replace manifests."""

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        await self._pass("replace", avatar_id)
        etag = await self.inner.replace_manifest(avatar_id, manifest, expected_etag)
        await self._pass("replaced", avatar_id)
        return etag


class StampedStore(WatchedStore):
    """Bundles in memory, in a store with a change stamp."""

    def change_stamp(self) -> Hashable:
        return self.inner.change_stamp()


class _WatchedReader:
    def __init__(self, file: FileReader, name: str, store: WatchedStore) -> None:
        self.info = file.info
        self._file, self._name, self._store = file, name, store

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        self._store.streamed.append(self._name)
        async for chunk in self._file.chunks(start, stop):
            self._store.chunks_read += 1
            yield chunk

    async def read(self) -> bytes:
        self._store.read.append(self._name)
        content = await self._file.read()
        await self._store._pass("read", self._name)
        return content
