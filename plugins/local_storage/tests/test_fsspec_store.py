"""The store over fsspec: the contract on fsspec's own file systems, and which URLs it takes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from opentalking_local_storage.fsspec_store import FsspecStore, open_bundle_store

from opentalking_core import InvalidURL
from opentalking_core.host.host import PluginHost
from opentalking_core.testing.stores import BundleStoreContract, Run

if TYPE_CHECKING:
    from pathlib import Path

    from opentalking_core import BundleStore


class FsspecContract(BundleStoreContract):
    @pytest.mark.xfail(reason="fsspec has no conditional write, so creators in two processes may both succeed")
    def test_of_creators_in_two_stores_exactly_one_wins(
        self, opened: BundleStore, second: BundleStore, run: Run
    ) -> None:
        super().test_of_creators_in_two_stores_exactly_one_wins(opened, second, run)


class TestOverAFolder(FsspecContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FsspecStore:
        return FsspecStore(f"fsspec+file://{tmp_path}/avatars")

    @pytest.fixture
    def broken_store(self, tmp_path: Path) -> FsspecStore:
        (tmp_path / "file").write_bytes(b"")
        return FsspecStore(f"fsspec+file://{tmp_path}/file/avatars")


class TestOverMemory(FsspecContract):
    @pytest.fixture
    def store(self) -> FsspecStore:
        return FsspecStore(f"fsspec+memory://{uuid.uuid4().hex}")


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "az://container/x", "sftp://host/x", "fsspec+s3://bucket", "dir+x://"]
)
def test_exactly_one_plugin_takes_a_url(url: str) -> None:
    if url.startswith("dir+"):
        assert open_bundle_store(url) is None
        return
    _, plugin = PluginHost().load().open_bundle_store(url)
    assert plugin.name == "fsspec_storage"


@pytest.mark.parametrize("url", ["file:///x", "memory://x", "s3://b", "http://x"])
def test_what_others_take_is_left_to_them(url: str) -> None:
    assert open_bundle_store(url) is None


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidURL) as caught:
        open_bundle_store("sftp://me:hush@host/x")
    assert "hush" not in str(caught.value)
