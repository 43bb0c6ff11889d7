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

from opentalking_core import StoreUnavailable
from opentalking_core.testing.stores import bundle, ids, pieces

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

    def recording_rename(source: Any, target: Any) -> None:
        if recorded.rename_error:
            raise OSError(recorded.rename_error, os.strerror(recorded.rename_error), str(source))
        rename(source, target)
        recorded.events.append(("rename", str(source), str(target)))

    def recording_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        folder = "" if dir_fd is None else path_of(dir_fd)
        recorded.events.append(("remove", os.path.join(folder, path)))  # noqa: PTH118 - keeps `path` if it is absolute

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    monkeypatch.setattr(os, "unlink", recording_unlink)
    return recorded


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
