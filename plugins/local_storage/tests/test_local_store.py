"""What the contract doesn't cover: other processes, crashes, full disks, links, and changes by hand."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from itertools import chain
from typing import IO, TYPE_CHECKING

import pytest
from opentalking_local_storage import disk, open_bundle_store
from opentalking_local_storage.store import LocalStore

from opentalking_core import MANIFEST, InvalidURL, NotFound, StoreFull, StoreUnavailable
from opentalking_core.testing.stores import bundle, contents, ids, infos, pieces, read

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import Any

    Start = Callable[..., subprocess.Popen[str]]
    Scenario = Callable[[LocalStore], Coroutine[Any, Any, Any]]

WRITER = """
import asyncio, sys
from opentalking_core.testing.stores import bundle
from opentalking_local_storage.store import LocalStore

async def main(url, name, rounds):
    async with LocalStore(url) as store:
        for n in range(rounds):
            await store.create(f"{name}-{n}", bundle(size=50_000))
            print("created", f"{name}-{n}", flush=True)
            if n % 2:
                print("deleting", f"{name}-{n}", flush=True)
                await store.delete(f"{name}-{n}")
                print("deleted", f"{name}-{n}", flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""
SLOW_WRITER = """
import asyncio, sys
from opentalking_local_storage.store import LocalStore

async def slow():
    yield b"x" * 3_000_000
    print("halfway", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    yield b"y"

async def main(url):
    async with LocalStore(url) as store:
        await store.create("slow", {"manifest.json": b"{}", "slow.bin": slow()})

asyncio.run(main(sys.argv[1]))
"""
RACER = """
import asyncio, sys
from opentalking_core import AlreadyExists
from opentalking_core.testing.stores import bundle
from opentalking_local_storage.store import LocalStore

async def main(url, seed):
    async with LocalStore(url) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(40):
            try:
                await store.create(f"anna-{n}", bundle(seed=seed))
                print(f"anna-{n}", flush=True)
            except AlreadyExists:
                pass

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that runs a script in a new process. The end of the test closes the pipes of all processes."""
    with ExitStack() as children:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

        def start(script: str, *args: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", script, *args]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            return children.enter_context(child)

        yield start


def with_store(root: Path, scenario: Scenario) -> Any:
    async def main() -> Any:
        async with LocalStore(root.as_uri()) as store:
            return await scenario(store)

    return asyncio.run(main())


def by_hand(root: Path, avatar_id: str, files: dict[str, bytes] | None = None) -> Path:
    for path, content in (files or bundle()).items():
        file = root / avatar_id / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root / avatar_id


def remains(root: Path) -> list[Path]:
    hidden = root / ".opentalking"
    return list(hidden.iterdir()) if hidden.exists() else []


# -- crashes and other processes


def test_killed_writer_leaves_only_whole_bundles_and_swept_remains(tmp_path: Path, start: Start) -> None:
    dice = random.Random(0)
    for attempt in range(8):
        child = start(WRITER, tmp_path.as_uri(), f"a{attempt}", "100000")
        assert child.stdout is not None
        said = [child.stdout.readline()]
        time.sleep(dice.random() * 0.15)
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read().splitlines()  # not communicate(), which loses what readline() has buffered
        assert child.wait() == -signal.SIGKILL, said
        created = {line.split()[1] for line in said if line.startswith("created")}
        deleting = {line.split()[1] for line in said if line.startswith("deleting")}
        deleted = {line.split()[1] for line in said if line.startswith("deleted")}

        async def look(store: LocalStore, created: set[str] = created - deleting, gone: set[str] = deleted) -> None:
            there = set(await ids(store))
            assert created <= there
            assert not gone & there
            for name in there:
                assert await contents(store, name) == bundle(size=50_000)
                await store.delete(name)

        with_store(tmp_path, look)
        assert remains(tmp_path) == []


def test_sweep_spares_live_processes(tmp_path: Path, start: Start) -> None:
    child = start(SLOW_WRITER, tmp_path.as_uri())
    assert child.stdout is not None
    assert child.stdout.readline() == "halfway\n"

    async def nothing(store: LocalStore) -> None:
        assert await ids(store) == []

    with_store(tmp_path, nothing)
    assert len(remains(tmp_path)) == 2  # its folder and its lock
    child.communicate("go on\n", timeout=20)
    assert child.returncode == 0
    content = with_store(tmp_path, lambda store: read(store, "slow", "slow.bin"))
    assert content == b"x" * 3_000_000 + b"y"
    assert remains(tmp_path) == []


def test_sweep_removes_draft_of_killed_writer(tmp_path: Path, start: Start) -> None:
    child = start(SLOW_WRITER, tmp_path.as_uri())
    assert child.stdout is not None
    child.stdout.readline()
    child.kill()
    child.communicate()
    assert remains(tmp_path)
    assert with_store(tmp_path, ids) == []
    assert remains(tmp_path) == []


def test_processes_that_create_the_same_ids_never_overwrite_each_other(tmp_path: Path, start: Start) -> None:
    children = [start(RACER, tmp_path.as_uri(), str(seed)) for seed in range(3)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    won = [child.stdout.read().split() for child in children if child.stdout]
    assert sorted(chain(*won)) == sorted(f"anna-{n}" for n in range(40))

    async def look(store: LocalStore) -> None:
        for seed, names in enumerate(won):
            for name in names:
                assert await contents(store, name) == bundle(seed=seed)

    with_store(tmp_path, look)


def test_create_cancelled_at_any_time_leaves_whole_bundle_or_none(tmp_path: Path) -> None:
    async def scenario(store: LocalStore) -> None:
        cancelled = 0
        for n in range(60):
            creating = asyncio.create_task(
                store.create("anna", {**bundle(), "clip.mp4": pieces(b"x" * 2_100_000, 700_000)})
            )
            await asyncio.sleep(n / 10_000)
            creating.cancel()
            try:
                await creating
                assert len(await contents(store, "anna")) == 5
                await store.delete("anna")
            except asyncio.CancelledError:
                cancelled += 1
                assert await ids(store) == []
            (token,) = [path for path in remains(tmp_path) if path.is_dir()] or [tmp_path]
            assert token == tmp_path or not any(token.iterdir())
        assert cancelled > 5

    with_store(tmp_path, scenario)
    assert remains(tmp_path) == []


# -- files of the same content

PICTURES = ("reference.png", "preview.png", "frames/frame_00000.png")


def _same_pictures() -> dict[str, bytes]:
    return {MANIFEST: b"{}", **dict.fromkeys(PICTURES, os.urandom(4 * disk.MIN_CLONED_FILE_BYTES))}


def _create_and_read(root: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    async def scenario() -> dict[str, bytes]:
        async with LocalStore(root.as_uri()) as store:
            await store.create("anna", files)
            return await contents(store, "anna")

    return asyncio.run(scenario())


@pytest.mark.parametrize("can_clone", [True, False])
def test_create_clones_equal_files_where_the_file_system_can(
    tmp_path: Path, can_clone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[int] = []

    def ioctl(target: IO[bytes], request: int, source: int) -> int:
        requests.append(request)
        if not can_clone:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        target.write(os.pread(source, os.fstat(source).st_size, 0))
        return 0

    monkeypatch.setattr(disk.fcntl, "ioctl", ioctl)
    files = _same_pictures()
    assert _create_and_read(tmp_path / "avatars", files) == files
    assert requests == [disk._FICLONE] * 2


def test_create_on_btrfs_stores_equal_files_once(tmp_path: Path) -> None:
    (image := tmp_path / "image").touch()
    os.truncate(image, 256 * 1024**2)
    (root := tmp_path / "btrfs").mkdir()
    for command in (["mkfs.btrfs", "-q", image], ["mount", "-o", "loop", image, root]):
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a btrfs needs root, the right to mount, and the Debian package btrfs-progs")
    try:
        files = dict.fromkeys(PICTURES, os.urandom(20 * 1024**2)) | {MANIFEST: b"{}"}
        assert _create_and_read(root / "avatars", files) == files
        used = shutil.disk_usage(root).used
    finally:
        subprocess.run(["umount", root], check=True)
    assert used < 2 * 20 * 1024**2


# -- trouble with the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "small"
    root.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=200", "tmpfs", root], check=False
        ).returncode
    ):
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield root
    subprocess.run(["umount", "-l", root], check=True)


def test_full_disk_raises_store_full_and_allows_deletes(small_disk: Path) -> None:
    async def scenario(store: LocalStore) -> None:
        await store.create("anna", bundle())
        for big in (b"x" * 3_000_000, pieces(b"x" * 3_000_000, 500_000)):
            with pytest.raises(StoreFull):
                await store.create("ben", {**bundle(), "big.bin": big})
            assert await ids(store) == ["anna"]
        await store.create("ben", bundle(size=300_000))

    with_store(small_disk, scenario)
    shutil.rmtree(small_disk / ".opentalking")
    with suppress(OSError):  # until not even a folder can be made
        for n in range(1000):
            (small_disk / f"{n}.txt").touch()
    with_store(small_disk, lambda store: store.delete("anna"))
    assert with_store(small_disk, ids) == ["ben"]


def test_file_over_size_limit_raises_store_full(tmp_path: Path) -> None:
    async def scenario(store: LocalStore) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            with pytest.raises(StoreFull):
                await store.create("anna", {**bundle(), "big.bin": b"x" * 1_500_000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await ids(store) == []
        await store.create("anna", bundle())

    with_store(tmp_path, scenario)


def test_read_only_folder_can_be_read_but_not_changed(small_disk: Path) -> None:
    by_hand(small_disk, "anna")
    (small_disk / ".opentalking").mkdir()
    (small_disk / ".opentalking" / f"{'0' * 32}.lock").touch()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    async def scenario(store: LocalStore) -> None:
        assert await ids(store) == ["anna"]
        assert await contents(store, "anna") == bundle()
        with pytest.raises(StoreUnavailable, match="Read-only"):
            await store.create("ben", bundle())
        with pytest.raises(StoreUnavailable, match="Read-only"):
            await store.delete("anna")

    with_store(small_disk, scenario)


def test_vanished_root_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    root = tmp_path / "avatars"
    by_hand(root, "anna")

    async def scenario(store: LocalStore) -> None:
        await store.create("ben", bundle())
        root.rename(tmp_path / "away")
        for attempt in (
            ids(store),
            read(store, "anna", "preview.png"),
            store.create("carl", bundle()),
            store.delete("anna"),
        ):
            with pytest.raises(StoreUnavailable, match="avatars"):
                await attempt
        assert not root.exists()
        (tmp_path / "away").rename(root)
        assert await ids(store) == ["anna", "ben"]
        shutil.rmtree(root / ".opentalking")
        await store.create("carl", bundle())
        await store.delete("anna")
        assert await ids(store) == ["ben", "carl"]

    with_store(root, scenario)


# -- changes by hand


def test_scan_sees_bundles_created_edited_and_removed_by_hand(tmp_path: Path) -> None:
    async def scenario(store: LocalStore) -> None:
        async def versions() -> dict[str, str]:
            return {found.avatar_id: found.version async for found in store.scan()}

        empty = store.change_stamp()
        home = by_hand(tmp_path, "anna", {"preview.png": b"x"})
        assert store.change_stamp() != empty
        await asyncio.sleep(0.1)
        assert await versions() == {}  # no manifest yet: somebody is still copying
        unfinished = store.change_stamp()
        assert store.change_stamp() == unfinished
        (home / "manifest.json").write_bytes(b'{"fps": 24}')
        assert store.change_stamp() != unfinished
        await asyncio.sleep(0.1)
        first = await versions()
        times = (home / "manifest.json").stat()
        (home / "manifest.json").write_bytes(b'{"fps": 25}')
        os.utime(home / "manifest.json", ns=(times.st_atime_ns, times.st_mtime_ns))  # as `rsync -t` and `cp -p` do
        assert set(first) == set(await versions()) == {"anna"}
        assert first != await versions()
        await asyncio.sleep(0.1)
        before = store.change_stamp()
        shutil.rmtree(home)
        assert store.change_stamp() != before
        assert await versions() == {}

    with_store(tmp_path, scenario)


def test_entries_that_are_no_bundles_are_left_alone(tmp_path: Path) -> None:
    for name in (".git", "no manifest", "with.dot", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_bytes(b"x")
    (tmp_path / "with.dot" / "manifest.json").write_bytes(b"{}")
    (tmp_path / "README").write_bytes(b"x")
    os.mkfifo(by_hand(tmp_path, "anna") / "pipe")
    (tmp_path / "anna" / ".DS_Store").write_bytes(b"x")

    async def scenario(store: LocalStore) -> None:
        assert await ids(store) == ["anna"]
        assert set(await infos(store, "anna")) == set(bundle())
        for avatar_id, path in (
            ("anna", "pipe"),
            ("anna", ".DS_Store"),
            ("notes", "todo.txt"),
            ("README", "manifest.json"),
        ):
            with pytest.raises(NotFound):
                await read(store, avatar_id, path)
        for avatar_id in ("notes", "empty", "README", ".git"):
            with pytest.raises(NotFound):
                await store.delete(avatar_id)

    with_store(tmp_path, scenario)
    assert (tmp_path / "notes" / "todo.txt").exists()


def test_links_are_followed_only_to_files_inside_the_root(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = by_hand(tmp_path / "outside", "secret")
    root = tmp_path / "avatars"
    home = by_hand(root, "anna")
    (root / "linked").symlink_to(outside)
    (root / "alias").symlink_to("anna")
    (home / "secret.png").symlink_to(outside / "preview.png")
    (home / "secrets").symlink_to(outside)
    (home / "passwd").symlink_to("../../../../../../../../etc/passwd")
    (home / "reference.png").symlink_to("preview.png")
    (home / "loop").symlink_to("loop")
    by_hand(root, "fake", {"preview.png": b"x"})
    (root / "fake" / "manifest.json").symlink_to(outside / "manifest.json")

    async def scenario(store: LocalStore) -> None:
        assert await ids(store) == await ids(store) == ["anna"]
        assert set(await infos(store, "anna")) == {*bundle(), "reference.png"}
        assert await read(store, "anna", "reference.png") == bundle()["preview.png"]
        for path in ("secret.png", "secrets/preview.png", "passwd", "loop"):
            with pytest.raises(NotFound):
                await read(store, "anna", path)
        for avatar_id in ("linked", "alias"):
            for attempt in (read(store, avatar_id, "preview.png"), infos(store, avatar_id), store.delete(avatar_id)):
                with pytest.raises(NotFound):
                    await attempt
        await store.delete("anna")

    with_store(root, scenario)
    assert caplog.text.count("linked is a symbolic link") == 1
    assert {path.name for path in outside.iterdir()} == {"manifest.json", "preview.png", "frames"}
    link = tmp_path / "link to root"
    link.symlink_to(root)
    with_store(link, lambda store: store.create("ben", bundle()))
    assert with_store(root, ids) == ["ben"]


def test_sweep_refuses_hidden_folder_that_is_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious" / ("0" * 32)
    precious.mkdir(parents=True)
    root = tmp_path / "avatars"
    root.mkdir()
    (root / ".opentalking").symlink_to(precious.parent)
    with pytest.raises(StoreUnavailable, match="symbolic link"):
        with_store(root, lambda store: store.create("anna", bundle()))
    assert precious.exists()


def test_created_bundle_has_the_folder_layout_and_usual_permissions(tmp_path: Path) -> None:
    with_store(tmp_path, lambda store: store.create("anna", bundle()))
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files) == {f"anna/{path}" for path in bundle()}
    mask = os.umask(0)
    os.umask(mask)
    assert files["anna/preview.png"].stat().st_mode & 0o777 == 0o666 & ~mask


def test_version_of_file_just_changed_is_never_the_same_twice(tmp_path: Path) -> None:
    """The file may change again within the same tick of the file system's clock."""
    (tmp_path / "x").touch()
    status = (tmp_path / "x").stat()
    assert disk.version(status) != disk.version(status)
    time.sleep(0.1)
    assert disk.version(status) == disk.version(status)


# -- URLs


@pytest.mark.parametrize(
    "url", ["file://host/srv", "file:relative", "file:///srv?x=1", "file:///srv#x", "file:///a%00b", "file:"]
)
def test_malformed_file_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidURL, match="file"):
        open_bundle_store(url)


def test_plugin_opens_file_urls_only_and_touches_nothing(tmp_path: Path) -> None:
    assert open_bundle_store("s3://bucket") is None
    assert open_bundle_store("memory://x") is None
    for url in ((tmp_path / "a b%").as_uri(), "FILE://localhost/srv", "file:/srv"):
        store = open_bundle_store(url)
        assert store is not None
        assert store.url == url
    assert list(tmp_path.iterdir()) == []


def test_importing_plugin_does_not_import_its_store(start: Start) -> None:
    code = "import opentalking_local_storage, sys; sys.exit('opentalking_local_storage.store' in sys.modules)"
    child = start(code)
    child.communicate()
    assert child.returncode == 0
