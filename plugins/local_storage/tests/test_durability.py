"""Which paths are flushed to the disk, and in which order, so that a power cut loses no confirmed change.

The tests record the calls of os.fsync, os.rename and os.unlink with their paths. A killed process could not show a
missing flush, because the page cache survives the process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentalking_local_storage.store import LocalStore

from opentalking_core import NotFound, StoreUnavailable
from opentalking_core.testing.stores import bundle, contents, ids, manifest, manifest_etag, pieces, read

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the path of a descriptor")

FILES = {**bundle(), "a/b/deep.bin": b"deep", "empty.bin": b""}


@dataclass
class Disk:
    """Records what reaches the disk, as ("flush", path), ("rename", source, target) and ("remove", path).

    Args:
        failing: paths that can't be flushed.
        sizes: size in bytes of each file when it was flushed.
        rename_error: the errno of every rename; 0 lets renames succeed.
    """

    events: list[tuple[str, ...]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    rename_error: int = 0

    def index(self, *event: str) -> int:
        assert event in self.events, f"{event} not among {self.events}"
        return self.events.index(event)

    def renames(self) -> list[tuple[str, str]]:
        return [(event[1], event[2]) for event in self.events if event[0] == "rename"]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    recorded = Disk()
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    def path_of(fd: int) -> str:
        return str(Path(f"/proc/self/fd/{fd}").readlink())

    def recording_fsync(fd: int) -> None:
        path = path_of(fd)
        if path in recorded.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        fsync(fd)
        recorded.events.append(("flush", path))
        recorded.sizes[path] = os.fstat(fd).st_size

    def recording_rename(source: Any, target: Any, *, dst_dir_fd: int | None = None) -> None:
        if recorded.rename_error:
            raise OSError(recorded.rename_error, os.strerror(recorded.rename_error), str(source))
        rename(source, target, dst_dir_fd=dst_dir_fd)
        folder = "" if dst_dir_fd is None else path_of(dst_dir_fd)
        recorded.events.append(("rename", str(source), os.path.join(folder, target)))  # noqa: PTH118

    def recording_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        folder = "" if dir_fd is None else path_of(dir_fd)
        recorded.events.append(("remove", os.path.join(folder, path)))  # noqa: PTH118 - keeps `path` if it is absolute

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    monkeypatch.setattr(os, "unlink", recording_unlink)
    return recorded


def drafts(root: Path) -> list[Path]:
    """Return what unfinished writes have left."""
    return list(root.glob(".opentalking/*/*"))


def with_store(root: Path, work: Callable[[LocalStore], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with LocalStore(root.as_uri()) as store:
            return await work(store)

    return asyncio.run(main())


def test_entering_flushes_parents_of_each_folder_that_it_creates(tmp_path: Path, disk: Disk) -> None:
    with_store(tmp_path / "srv" / "avatars", ids)
    assert {("flush", str(tmp_path)), ("flush", str(tmp_path / "srv"))} <= set(disk.events)


def test_create_flushes_files_and_folders_before_rename_and_root_after(tmp_path: Path, disk: Disk) -> None:
    streamed = {**FILES, "clip.mp4": pieces(b"x" * 2_100_000, 700_000)}
    with_store(tmp_path, lambda store: store.create("anna", streamed))
    ((draft, home),) = disk.renames()
    assert home == str(tmp_path / "anna")
    renamed = disk.index("rename", draft, home)
    paths = {*streamed, ".", "frames", "a", "a/b"}
    not_flushed = {
        path for path in paths if ("flush", os.path.normpath(f"{draft}/{path}")) not in disk.events[:renamed]
    }
    assert not not_flushed
    assert {path: disk.sizes[f"{draft}/{path}"] for path in streamed} == {
        path: (tmp_path / "anna" / path).stat().st_size for path in streamed
    }, "a file was flushed before all of it was written"
    assert disk.events[renamed + 1] == ("flush", str(tmp_path))


def test_delete_flushes_root_after_rename_and_before_removing_files(tmp_path: Path, disk: Disk) -> None:
    async def work(store: LocalStore) -> None:
        await store.create("anna", FILES)
        disk.events.clear()
        await store.delete("anna")

    with_store(tmp_path, work)
    ((home, gone),) = disk.renames()
    assert home == str(tmp_path / "anna")
    flushed = disk.index("flush", str(tmp_path))
    removed = [n for n, event in enumerate(disk.events) if event[0] == "remove" and event[1].startswith(gone)]
    assert disk.index("rename", home, gone) < flushed < removed[0]
    assert len(removed) == len(FILES)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EXDEV])
def test_delete_that_cannot_rename_flushes_manifest_removal_first(tmp_path: Path, disk: Disk, error: int) -> None:
    home = tmp_path / "anna"

    async def work(store: LocalStore) -> None:
        await store.create("anna", FILES)
        disk.events.clear()
        disk.rename_error = error
        await store.delete("anna")
        assert await ids(store) == []

    with_store(tmp_path, work)
    assert disk.events[:3] == [
        ("remove", str(home / "manifest.json")),
        ("flush", str(home)),
        ("flush", str(tmp_path)),
    ]
    assert not home.exists()


def test_create_fails_and_shows_nothing_if_root_cannot_be_flushed(tmp_path: Path, disk: Disk) -> None:
    async def work(store: LocalStore) -> None:
        disk.failing.add(str(tmp_path))
        with pytest.raises(StoreUnavailable):
            await store.create("anna", FILES)
        assert await ids(store) == []
        disk.failing.clear()
        await store.create("anna", FILES)

    with_store(tmp_path, work)


def test_create_fails_and_shows_nothing_if_a_file_cannot_be_flushed(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording_fsync = os.fsync

    def failing_fsync(fd: int) -> None:
        if os.fstat(fd).st_size == 4:  # deep.bin
            raise OSError(errno.EIO, os.strerror(errno.EIO), "deep.bin")
        recording_fsync(fd)

    monkeypatch.setattr(os, "fsync", failing_fsync)

    async def work(store: LocalStore) -> None:
        with pytest.raises(StoreUnavailable):
            await store.create("anna", FILES)
        assert await ids(store) == []

    with_store(tmp_path, work)
    assert disk.renames() == []


def test_replacement_flushes_manifest_before_rename_and_folder_after(tmp_path: Path, disk: Disk) -> None:
    async def work(store: LocalStore) -> None:
        await store.create("anna", FILES)
        etag = await manifest_etag(store, "anna")
        disk.events.clear()
        await store.replace_manifest("anna", manifest(1), etag)
        assert await contents(store, "anna") == {**FILES, "manifest.json": manifest(1)}

    with_store(tmp_path, work)
    ((draft, target),) = disk.renames()
    assert target == str(tmp_path / "anna" / "manifest.json")
    assert disk.sizes[draft] == len(manifest(1)), "the manifest was flushed before all of it was written"
    flushed, renamed = disk.index("flush", draft), disk.index("rename", draft, target)
    assert flushed < renamed < disk.index("flush", str(tmp_path / "anna"))


def test_replacement_that_cannot_be_flushed_changes_nothing(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(store: LocalStore) -> None:
        await store.create("anna", FILES)
        etag = await manifest_etag(store, "anna")
        recording_fsync = os.fsync

        def failing_fsync(fd: int) -> None:
            if os.fstat(fd).st_size == len(manifest(1)):
                raise OSError(errno.EIO, os.strerror(errno.EIO), "manifest.json")
            recording_fsync(fd)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing_fsync)
            with pytest.raises(StoreUnavailable):
                await store.replace_manifest("anna", manifest(1), etag)
        assert await contents(store, "anna") == FILES
        assert drafts(tmp_path) == []
        await store.replace_manifest("anna", manifest(1), etag)

    with_store(tmp_path, work)


def test_replacement_spares_a_bundle_that_takes_the_place_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process moves the bundle away and creates one of the same id, between the comparison and the rename."""
    rename = os.rename

    def late_rename(source: Any, target: Any, *, dst_dir_fd: int | None = None) -> None:
        if dst_dir_fd is not None:
            with monkeypatch.context() as patched:
                patched.setattr(os, "rename", rename)
                rename(tmp_path / "anna", tmp_path / ".gone")
                with_store(tmp_path, lambda other: other.create("anna", bundle(seed=2)))
        rename(source, target, dst_dir_fd=dst_dir_fd)

    async def work(store: LocalStore) -> None:
        await store.create("anna", bundle(seed=1))
        etag = await manifest_etag(store, "anna")
        monkeypatch.setattr(os, "rename", late_rename)
        with pytest.raises(NotFound):
            await store.replace_manifest("anna", manifest(1), etag)
        assert await contents(store, "anna") == bundle(seed=2)

    with_store(tmp_path, work)


def test_replacement_waits_for_the_lock_of_another_process(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")

    async def work(store: LocalStore) -> None:
        await store.create("anna", bundle())
        etag = await manifest_etag(store, "anna")
        with (tmp_path / ".opentalking" / "manifests.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            replacing = asyncio.create_task(store.replace_manifest("anna", manifest(1), etag))
            while not drafts(tmp_path):  # noqa: ASYNC110 - a thread writes the draft
                await asyncio.sleep(0.001)
            assert await read(store, "anna", "manifest.json") == bundle()["manifest.json"]
            assert not replacing.done()
        await replacing
        assert await read(store, "anna", "manifest.json") == manifest(1)

    with_store(tmp_path, work)
