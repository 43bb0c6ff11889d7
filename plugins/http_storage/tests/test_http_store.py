"""The contract of read-only stores over a running service, and what the commands make of a server."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from opentalking_http_storage import open_bundle_store
from opentalking_http_storage.store import HttpStore
from typer.testing import CliRunner

from opentalking_core import MANIFEST, InvalidURL, StoreUnavailable
from opentalking_core.cli import app
from opentalking_core.host.host import PluginHost
from opentalking_core.testing.running import running_service
from opentalking_core.testing.stores import ReadOnlyStoreContract, ids, listed_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import httpx

    from opentalking_core import BundleStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "avatars"


@pytest.fixture
def server(folder: Path) -> Iterator[httpx.Client]:
    with running_service(folder.as_uri(), refresh_seconds=0.05) as client:
        yield client


@pytest.fixture
def address(server: httpx.Client) -> str:
    return str(server.base_url).rstrip("/")


@pytest.fixture
def behind(folder: Path) -> BundleStore:
    return PluginHost().load().open_bundle_store(folder.as_uri())[0]


def put(behind: BundleStore, bundles: Mapping[str, dict[str, bytes]]) -> None:
    async def create() -> None:
        async with behind as store:
            for avatar_id, files in bundles.items():
                await store.create(avatar_id, files)

    asyncio.run(create())


class TestOverAService(ReadOnlyStoreContract):
    @pytest.fixture
    def store(self, address: str) -> HttpStore:
        return HttpStore(address)

    @pytest.fixture
    def behind(self, folder: Path) -> BundleStore:
        return PluginHost().load().open_bundle_store(folder.as_uri())[0]

    @pytest.fixture
    def broken_store(self) -> HttpStore:
        with closing(socket.create_server(("127.0.0.1", 0))) as unused:
            port = unused.getsockname()[1]
        return HttpStore(f"http://127.0.0.1:{port}")


def test_copy_from_server_copies_bundles_byte_for_byte(
    folder: Path, address: str, behind: BundleStore, tmp_path: Path
) -> None:
    put(behind, {avatar_id: listed_bundle(avatar_id) for avatar_id in ("anna", "ben")})
    target = tmp_path / "copies"
    result = CliRunner().invoke(app, ["copy", address, str(target)])
    assert result.exit_code == 0, result.output
    copied = {path.relative_to(target): path.read_bytes() for path in target.glob("[!.]*/**/*") if path.is_file()}
    stored = {path.relative_to(folder): path.read_bytes() for path in folder.glob("[!.]*/**/*") if path.is_file()}
    assert len(stored) == 8
    assert copied == stored


def test_validate_reads_the_bundles_of_a_server(address: str, behind: BundleStore) -> None:
    put(behind, {"anna": listed_bundle("anna")})
    result = CliRunner().invoke(app, ["validate", "--store", address, "--json"])
    assert json.loads(result.stdout) == [{"id": "anna", "problems": []}]


def test_edge_over_server_serves_its_files_and_refuses_to_change_them(address: str, behind: BundleStore) -> None:
    files = listed_bundle("anna")
    custom = json.loads(files[MANIFEST]) | {"metadata": {"custom_avatar": True}}
    put(behind, {"anna": {**files, MANIFEST: json.dumps(custom).encode()}})
    with running_service(address, refresh_seconds=0.05) as edge:
        assert [summary["id"] for summary in edge.get("/avatars").json()] == ["anna"]
        frame = edge.get("/avatars/anna/files/frames/frame_00001.png")
        assert frame.content == listed_bundle("anna")["frames/frame_00001.png"]
        refused = edge.delete("/avatars/anna")
        assert refused.status_code == 501
        assert address in refused.json()["detail"]


@pytest.mark.parametrize("key", [None, "wrong"])
def test_server_that_requires_a_key_is_unavailable_without_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", "right")
    monkeypatch.setenv("OPENTALKING_PROTECT", "everything")
    if key is not None:
        monkeypatch.setenv("OPENTALKING_API_KEY", key)
    with running_service(folder.as_uri()) as client, pytest.raises(StoreUnavailable, match="OPENTALKING_API_KEY"):
        asyncio.run(listed(str(client.base_url)))


def test_key_in_environment_is_sent(folder: Path, behind: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(behind, {"anna": listed_bundle("anna")})
    monkeypatch.setenv("OPENTALKING_API_KEYS", "right")
    monkeypatch.setenv("OPENTALKING_PROTECT", "everything")
    monkeypatch.setenv("OPENTALKING_API_KEY", "right")
    with running_service(folder.as_uri()) as client:
        assert asyncio.run(listed(str(client.base_url))) == ["anna"]


async def listed(url: str) -> list[str]:
    async with HttpStore(url) as store:
        return await ids(store)


@pytest.mark.parametrize("url", ["http://avatars:8000", "https://avatars", "HTTP://avatars/prefix/"])
def test_host_opens_address_of_server_with_this_plugin(url: str) -> None:
    _, plugin = PluginHost().load().open_bundle_store(url)
    assert plugin.name == "http_storage"


@pytest.mark.parametrize("url", ["http://", "http://host?x=1", "http://host#x"])
def test_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL):
        open_bundle_store(url)


def test_address_with_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidURL) as caught:
        open_bundle_store("http://me:hush@host")
    assert "hush" not in str(caught.value)
