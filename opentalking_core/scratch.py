"""ScratchFolders: folders for uploads that are being worked on, which disappear however the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows, where what a killed process leaves stays in the temporary folder
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PREFIX = "opentalking-upload-"

#: A younger folder may belong to a process that has not locked the folder yet.
_MIN_SWEPT_AGE_SECONDS = 60.0


@contextlib.asynccontextmanager
async def scratch_folder() -> AsyncIterator[Path]:
    """Make a folder in the system's temporary folder, locked while it is in use, and remove it at the end.

    Raises:
        OSError: the folder can't be made.
    """
    folder, lock = await asyncio.to_thread(_make_folder)
    try:
        yield folder
    finally:
        # What still writes into the folder, such as a thread that can't be stopped, fails once the path is gone.
        gone = folder.with_name(folder.name + ".gone")
        with contextlib.suppress(OSError):
            folder.rename(gone)
        await asyncio.shield(asyncio.to_thread(_remove, gone, lock))


def sweep_scratch_folders() -> None:
    """Remove the folders of processes that were killed. Raise nothing."""
    if fcntl is None:
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # BlockingIOError: the folder's process is alive
            lock = _open_folder(folder)
            try:
                state = os.fstat(lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if state.st_uid == os.getuid() and time.time() - state.st_mtime > _MIN_SWEPT_AGE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _make_folder() -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if fcntl is None:
        return folder, -1
    lock = _open_folder(folder)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock >= 0:
        os.close(lock)
