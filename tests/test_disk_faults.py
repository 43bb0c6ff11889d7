"""Disks that are full, read-only, forbidden or gone: the service answers clearly, leaves no half-written files, and
needs no restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from opentalking_core import list_avatar_dirs, load_avatar_bundle
from opentalking_core.testing.running import running_service

from .helpers.server import BASE, form, portrait, write_demo
from .helpers.service import opened_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts disks and changes users")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_demo(folder := tmp_path_factory.mktemp("demo"))
    return folder


@pytest.fixture
def avatars(tmp_path: Path, demo: Path) -> Path:
    return shutil.copytree(demo, tmp_path / "avatars")


@pytest.fixture
def disk(tmp_path: Path, demo: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB with the demo avatars, which take half of the disk."""
    (folder := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        yield shutil.copytree(demo, folder, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def upload(service: httpx.Client) -> httpx.Response:
    return service.post("/avatars/custom", files=form("Alice", portrait()))


def assert_whole(service: httpx.Client, avatars: Path) -> None:
    """Assert that every bundle in the folder is listed and valid, and that nothing else is there."""
    assert_folder_is_whole(avatars, {avatar["id"] for avatar in service.get("/avatars").json()})


def assert_folder_is_whole(avatars: Path, listed: set[str]) -> None:
    assert {path.name for path in avatars.iterdir() if path.name != ".opentalking"} == listed
    assert {path.name for path in list_avatar_dirs(avatars)} == listed
    for avatar_id in listed:
        load_avatar_bundle(avatars / avatar_id, strict=True)
    assert not list((avatars / ".opentalking").glob("*/*"))


def test_full_disk_refuses_uploads_and_allows_deletes(disk: Path) -> None:
    with running_service(disk.as_uri()) as service:
        made = []
        while (answer := upload(service)).status_code == 200:
            made.append(answer.json()["id"])
            assert len(made) < 100
        assert answer.status_code == 507
        assert "room" in answer.json()["detail"] or "full" in answer.json()["detail"]
        assert_whole(service, disk)
        assert service.get(f"/avatars/{BASE}/preview").status_code == 200
        assert service.delete(f"/avatars/{made.pop()}").status_code == 200  # a delete needs no room
        assert upload(service).status_code == 200
        assert_whole(service, disk)


def test_disk_that_becomes_read_only_refuses_writes_until_writable(disk: Path) -> None:
    with running_service(disk.as_uri()) as service:
        mine = upload(service).json()["id"]
    with running_service(disk.as_uri()) as service:  # nothing is open for writing, or the system refuses to remount
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for answer in (upload(service), service.delete(f"/avatars/{mine}")):
            assert answer.status_code == 503
            assert "read-only" in answer.json()["detail"].lower()
            assert answer.headers["Retry-After"]
        assert service.get(f"/avatars/{mine}/preview").status_code == 200
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert_whole(service, disk)
        assert service.delete(f"/avatars/{mine}").status_code == 200
        assert upload(service).status_code == 200
        assert_whole(service, disk)


@contextlib.contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """Take this process's right to write to `folder`."""
    if os.geteuid() == 0:
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == 0 and parent != parent.parent and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)


def test_folder_without_write_permission_refuses_writes(avatars: Path) -> None:
    with running_service(avatars.as_uri()) as service:
        mine = upload(service).json()["id"]
        with forbidden(avatars):
            for answer in (upload(service), service.delete(f"/avatars/{mine}")):
                assert answer.status_code == 503
                assert "ermission denied" in answer.json()["detail"]
            assert service.get(f"/avatars/{mine}").status_code == 200
        assert_whole(service, avatars)
        assert service.delete(f"/avatars/{mine}").status_code == 200
        assert upload(service).status_code == 200
        assert_whole(service, avatars)


def test_folder_that_vanishes_is_served_again_when_back(avatars: Path) -> None:
    with running_service(avatars.as_uri(), refresh_seconds=0.05) as service:
        before = service.get("/avatars").json()
        away = avatars.with_name("away")
        avatars.rename(away)
        assert upload(service).status_code == 503
        assert service.get("/avatars").json() == before  # the last known list
        assert service.get("/health").status_code == 503
        assert not avatars.exists(), "nothing must be written below a mount point"
        away.rename(avatars)
        assert upload(service).status_code == 200
        assert service.get("/health").status_code == 200
        assert_whole(service, avatars)


def test_emptied_folder_lists_no_avatars(avatars: Path, demo: Path) -> None:
    with running_service(avatars.as_uri(), refresh_seconds=0.05) as service:
        assert upload(service).status_code == 200
        for path in avatars.iterdir():
            shutil.rmtree(path)
        deadline = time.monotonic() + 20
        while service.get("/avatars").json() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert service.get("/avatars").json() == []
        assert upload(service).status_code == 404  # the base is gone
        shutil.copytree(demo, avatars, dirs_exist_ok=True)
        assert upload(service).status_code == 200
        assert_whole(service, avatars)


def test_create_gives_unique_ids_if_clock_is_set_back(avatars: Path) -> None:
    time_now = start = datetime(2026, 5, 13, 15, 30, tzinfo=UTC)

    async def main() -> None:
        nonlocal time_now
        async with opened_service(avatars.as_uri(), now=lambda: time_now) as service:
            ids = []
            for hours in (0, 1, 0, -24 * 365 * 60, 1, 0):
                time_now = start + timedelta(hours=hours)
                ids.append((await service.create("Alice", BASE, portrait())).id)
            assert len(set(ids)) == len(ids)
            listed = {avatar["id"] for avatar in json.loads((await service.listing()).body)}
            assert set(ids) < listed
            assert_folder_is_whole(avatars, listed)

    asyncio.run(main())
