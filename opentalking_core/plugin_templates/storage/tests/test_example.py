from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import opentalking_example
import pytest
from opentalking_example.store import ExampleStore

from opentalking_core import InvalidURL
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.fixtures import example_manifest
from opentalking_core.testing.running import running_service
from opentalking_core.testing.stores import BundleStoreContract

if TYPE_CHECKING:
    from pathlib import Path


class TestExampleStore(BundleStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ExampleStore:
        return ExampleStore(f"example://{tmp_path}/avatars.db")

    @pytest.fixture
    def broken_store(self, tmp_path: Path) -> ExampleStore:
        (tmp_path / "file").write_bytes(b"")
        return ExampleStore(f"example://{tmp_path}/file/avatars.db")


def test_url_without_a_file_is_rejected() -> None:
    for url in ("example://", "example:///", "example://host/avatars.db"):
        with pytest.raises(InvalidURL, match="names no file"):
            ExampleStore(url)


def test_other_urls_are_left_to_other_plugins() -> None:
    assert opentalking_example.open_bundle_store("file:///srv/avatars") is None


def test_server_creates_lists_changes_and_deletes_avatars(tmp_path: Path) -> None:
    url = f"example://{tmp_path}/avatars.db"
    asyncio.run(_put(url, example_manifest("base", model_type="wav2lip")))
    picture = io.BytesIO()
    draw_portrait().image.save(picture, "PNG")
    # The installed plugin "example" is disabled, so that only the one under test is used.
    with running_service(url, plugins={"under_test": opentalking_example}, disable_plugins=("example",)) as client:
        form = {"name": "Alice", "base_avatar_id": "base"}
        made = client.post("/avatars/custom", data=form, files={"image": picture.getvalue()}).json()
        assert [avatar["id"] for avatar in client.get("/avatars").json()] == ["base", made["id"]]
        assert client.get(f"/avatars/{made['id']}/preview").content.startswith(b"\x89PNG")
        assert client.patch(f"/avatars/{made['id']}", json={"name": "Bea"}).json()["name"] == "Bea"
        assert [avatar["name"] for avatar in client.get("/avatars").json()] == ["Demo", "Bea"]
        assert client.delete(f"/avatars/{made['id']}").json() == {"deleted": True}


async def _put(url: str, manifest: dict[str, object]) -> None:
    async with ExampleStore(url) as store:
        await store.create(str(manifest["id"]), {"manifest.json": json.dumps(manifest).encode()})
