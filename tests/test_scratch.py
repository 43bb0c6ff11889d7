"""Folders for uploads: removed at the end, and swept after a process was killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from opentalking_core.scratch import scratch_folder, sweep_scratch_folders

_HOLD_FOLDER = """
import asyncio, sys
from opentalking_core.scratch import scratch_folder
async def hold():
    async with scratch_folder() as folder:
        (folder / "upload").write_bytes(b"video")
        print(folder, flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def _age(folder: Path) -> None:
    os.utime(folder, (0, 0))


def test_scratch_folder_is_removed_at_the_end(temporary_folder: Path) -> None:
    async def use() -> None:
        async with scratch_folder() as folder:
            (folder / "files").mkdir()
            (folder / "files" / "frame.jpg").write_bytes(b"jpeg")

    asyncio.run(use())
    assert list(temporary_folder.iterdir()) == []


def test_scratch_folder_is_removed_when_its_task_is_cancelled(temporary_folder: Path) -> None:
    async def use(entered: asyncio.Event) -> None:
        async with scratch_folder():
            entered.set()
            await asyncio.Event().wait()

    async def cancel() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(use(entered))
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    assert list(temporary_folder.iterdir()) == []


def test_sweep_removes_the_folder_of_a_killed_process_and_keeps_that_of_a_living_one() -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _HOLD_FOLDER], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        of_killed, of_living = (Path(process.stdout.readline().strip()) for process in processes if process.stdout)
        _age(of_killed)
        _age(of_living)
        sweep_scratch_folders()
        assert of_killed.exists()
        processes[0].kill()
        processes[0].wait()
        sweep_scratch_folders()
        assert not of_killed.exists()
        assert (of_living / "upload").exists()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_sweep_keeps_a_new_folder_that_may_not_be_locked_yet(temporary_folder: Path) -> None:
    unlocked = temporary_folder / "opentalking-upload-new"
    unlocked.mkdir()
    sweep_scratch_folders()
    assert unlocked.exists()
    _age(unlocked)
    sweep_scratch_folders()
    assert not unlocked.exists()


def test_sweep_does_not_follow_a_link(temporary_folder: Path) -> None:
    elsewhere = temporary_folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_bytes(b"")
    _age(elsewhere)
    (temporary_folder / "opentalking-upload-link").symlink_to(elsewhere)
    sweep_scratch_folders()
    assert (elsewhere / "kept").exists()
