"""The contract over fsspec's own file systems, the URLs that the plugin opens, and its setting."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from opentalking_fsspec_storage import open_bundle_store
from opentalking_fsspec_storage.store import FsspecStore

from opentalking_core import InvalidURL
from opentalking_core.host.host import PluginHost
from opentalking_core.testing.stores import BundleStoreContract, Run, bundle, ids

if TYPE_CHECKING:
    from pathlib import Path

    from opentalking_core import BundleStore, ReplaceableManifests


class FsspecContract(BundleStoreContract):
    @pytest.mark.xfail(reason="fsspec has no conditional write, so creators in two processes may both succeed")
    def test_of_creators_in_two_stores_exactly_one_wins(
        self, opened: BundleStore, second: BundleStore, run: Run
    ) -> None:
        super().test_of_creators_in_two_stores_exactly_one_wins(opened, second, run)

    @pytest.mark.xfail(reason="fsspec has no conditional write, so writers in two processes may both succeed")
    def test_of_writers_in_two_stores_exactly_one_wins(
        self,
        opened: BundleStore,
        replacing: ReplaceableManifests,
        second_replacing: ReplaceableManifests,
        run: Run,
    ) -> None:
        super().test_of_writers_in_two_stores_exactly_one_wins(opened, replacing, second_replacing, run)

    @pytest.mark.xfail(reason="fsspec has no conditional write, so another process may write after a deletion")
    def test_a_deleted_bundle_is_not_brought_back_by_a_writer(
        self,
        opened: BundleStore,
        second: BundleStore,
        second_replacing: ReplaceableManifests,
        run: Run,
    ) -> None:
        super().test_a_deleted_bundle_is_not_brought_back_by_a_writer(opened, second, second_replacing, run)


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
def test_host_opens_url_with_exactly_one_plugin(url: str) -> None:
    if url.startswith("dir+"):
        assert open_bundle_store(url) is None
        return
    _, plugin = PluginHost().load().open_bundle_store(url)
    assert plugin.name == "fsspec_storage"


@pytest.mark.parametrize("url", ["file:///x", "memory://x", "s3://b", "http://x"])
def test_plugin_ignores_urls_of_other_plugins(url: str) -> None:
    assert open_bundle_store(url) is None


def test_url_with_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidURL) as caught:
        open_bundle_store("sftp://me:hush@host/x")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("value", ["soon", "", "0", "-1", "nan", "inf"])
def test_wrong_timeout_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OPENTALKING_FSSPEC_TIMEOUT_SECONDS", value)
    with pytest.raises(InvalidURL, match=f"OPENTALKING_FSSPEC_TIMEOUT_SECONDS={value}: must be a number"):
        open_bundle_store("fsspec+memory://x")


def test_store_keeps_no_locks_of_idle_ids() -> None:
    async def scenario() -> None:
        async with FsspecStore(f"fsspec+memory://{uuid.uuid4().hex}") as store:
            await asyncio.gather(*(store.create(f"avatar-{n}", bundle()) for n in range(5)))
            await store.delete("avatar-0")
            assert len(await ids(store)) == 4
            assert len(store._locks) == 0

    asyncio.run(scenario())


def test_importing_plugin_imports_neither_fsspec_nor_the_store() -> None:
    heavy = "{'fsspec', 'opentalking_fsspec_storage.store'} & set(sys.modules)"
    code = f"import opentalking_fsspec_storage, sys; sys.exit(str({heavy} or 0)[0] != '0')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
