"""Fixtures for tests of plugins and of the host: `pytest_plugins = ["opentalking_core.testing.fixtures"]`.

fake_mouth      a mouth detector plugin that finds the same mouth in every picture, and counts its calls
store_url       an empty bundle store of its own for each test: a folder, or with `pytest --store-url URL` URL/<uuid>
put_bundle      put_bundle("id", {...}): puts a bundle into that store without going through the service
stored_files    stored_files("id"): the files of a bundle in that store, by path, without going through the service
service         an httpx.Client of a service running over store_url, with fake_mouth as its only detector
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from ..bundles.mouth import MouthLandmarks
from ..bundles.store import MANIFEST
from ..hookspecs import hookimpl
from ..host.host import PluginHost
from .running import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import httpx
    import numpy as np
    from numpy.typing import NDArray


#: How long a service may take to scan its store twice, in seconds.
MAX_SCAN_SECONDS = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-url",
        metavar="URL",
        help="run the tests that need a bundle store over this one: each test appends a path of its own to URL,"
        " before the `?` if there is one (default: a folder)",
    )


class FakeMouth:
    """A mouth detector plugin that finds the same mouth in every picture."""

    landmarks: MouthLandmarks | None = MouthLandmarks(
        outer_lip=((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65)),
        inner_mouth=((0.45, 0.6), (0.5, 0.58), (0.55, 0.6), (0.5, 0.62)),
        face_box=(0.2, 0.1, 0.8, 0.9),
    )

    def __init__(self) -> None:
        #: the (height, width, 3) of each picture that `detect_mouth` was called with
        self.shapes: list[tuple[int, ...]] = []

    @hookimpl
    def detect_mouth(self, image: NDArray[np.uint8]) -> MouthLandmarks | None:
        """Return `landmarks`, which a test may set, also to None."""
        self.shapes.append(image.shape)
        return self.landmarks


class PutBundle(Protocol):
    """Puts a bundle into the test's store."""

    def __call__(
        self, avatar_id: str, manifest: Mapping[str, Any] | bytes | None = ..., files: Mapping[str, bytes] | None = ...
    ) -> None:
        """Create a bundle of a valid manifest of type mock, with the fields in `manifest` (bytes: the whole file)."""


class StoredFiles(Protocol):
    """Reads a bundle of the test's store."""

    def __call__(self, avatar_id: str) -> dict[str, bytes]:
        """Return the files of the bundle, path -> content. Raise NotFound."""


@pytest.fixture
def fake_mouth() -> FakeMouth:
    """Return a fake mouth detector, which `service` registers."""
    return FakeMouth()


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty bundle store for this test."""
    given: str | None = request.config.getoption("--store-url")
    if not given:
        return (tmp_path / "avatars").as_uri()
    base, mark, query = given.partition("?")
    return f"{base.rstrip('/')}/{uuid.uuid4().hex}{mark}{query}"


@pytest.fixture
def changes_show_later(request: pytest.FixtureRequest) -> bool:
    """Return whether a service may see the test's changes only after its next scan: over all stores but a folder."""
    return bool(request.config.getoption("--store-url"))


@pytest.fixture
def unseen() -> list[str]:
    """Return the ids of bundles that the test has put or deleted, and that a service may not have seen yet."""
    return []


@pytest.fixture
def put_bundle(store_url: str, unseen: list[str], changes_show_later: bool) -> PutBundle:
    """Return a function that puts a bundle into the store, without going through the service."""
    host = PluginHost().load()

    def put(
        avatar_id: str, manifest: Mapping[str, Any] | bytes | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        if not isinstance(manifest, bytes):
            manifest = json.dumps(example_manifest(avatar_id, **dict(manifest or {}))).encode()
        asyncio.run(_create(host, store_url, avatar_id, {MANIFEST: manifest, **(files or {})}))
        if changes_show_later:
            unseen.append(avatar_id)

    return put


@pytest.fixture
def stored_files(store_url: str) -> StoredFiles:
    """Return a function that reads a bundle of the store, without going through the service."""
    return lambda avatar_id: asyncio.run(_read(store_url, avatar_id))


@pytest.fixture
def service(store_url: str, fake_mouth: FakeMouth, unseen: list[str]) -> Iterator[httpx.Client]:
    """Yield an HTTP client of a service over `store_url`, whose only mouth detector is `fake_mouth`.

    With --store-url, a request for the list waits until the service has seen the changes of the test.
    """
    with running_service(store_url, plugins={"fake_mouth": fake_mouth}, refresh_seconds=0.05) as client:

        def let_it_see(request: httpx.Request) -> None:
            if unseen and request.url.path.rstrip("/") in ("/avatars", "/health", "/healthz"):
                unseen.clear()
                before = _scans(client)
                deadline = time.monotonic() + MAX_SCAN_SECONDS
                while _scans(client) < before + 2:  # the next scan to end may have begun before the change
                    assert time.monotonic() < deadline, "the service doesn't scan its store"
                    time.sleep(0.01)

        client.event_hooks["request"].append(let_it_see)
        yield client


def example_manifest(avatar_id: str, **changes: object) -> dict[str, object]:
    """Return a valid manifest of type mock, with `changes` to its fields."""
    manifest: dict[str, object] = {"id": avatar_id, "name": "Demo", "model_type": "mock", "fps": 25}
    return {**manifest, "sample_rate": 16000, "width": 512, "height": 512, "version": "1.0", "metadata": {}, **changes}


def _scans(client: httpx.Client) -> int:
    """Return how many scans a service has finished."""
    found = re.findall(r'store_operation_seconds_count{operation="scan".* (\d+)', client.get("/metrics").text)
    return sum(map(int, found))


async def _create(host: PluginHost, url: str, avatar_id: str, files: Mapping[str, bytes]) -> None:
    opened, _ = host.open_bundle_store(url)
    async with opened as store:
        await store.create(avatar_id, files)


async def _read(url: str, avatar_id: str) -> dict[str, bytes]:
    opened, _ = PluginHost().load().open_bundle_store(url)
    contents = {}
    async with opened as store:
        async for info in store.files(avatar_id):
            async with store.open(avatar_id, info.path) as file:
                contents[info.path] = await file.read()
    return contents
