"""The hidden folder in which a store prepares bundles, safe from crashes and from other processes on the same root.

    <root>/.opentalking/<token>/         the bundles that one open store is writing or removing
    <root>/.opentalking/<token>.lock     locked (flock) while that store is open and its process is alive
    <root>/.opentalking/manifests.lock   locked (flock) for the moment in which a manifest is replaced; never removed

A crashed process leaves a token whose lock is free. The next store that is entered sweeps such tokens, and leaves the
tokens of live processes alone. The lock is created before the folder and removed after it, so a folder without a lock
also belongs to a dead process. On a network file system, `flock` must work between its clients.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows is not supported: importing works, writing fails
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class Scratch:
    """One store's token. All methods block and raise OSError, except where noted.

    Args:
        root: the store's folder. The first call of `folder` is the first to write to it.
    """

    def __init__(self, root: Path) -> None:
        self._hidden = root / ".opentalking"
        self._claiming = threading.Lock()
        self._token = self._hidden / "none"
        self._lock = -1

    def sweep(self) -> None:
        """Remove the tokens of dead processes. Raises nothing: a process that may only read leaves them to others."""
        with suppress(OSError):
            self._refuse_link()
            names = {path.name.removesuffix(".lock") for path in self._hidden.iterdir()}
            for token in (self._hidden / name for name in names if re.fullmatch("[0-9a-f]{32}", name)):
                with suppress(OSError):  # BlockingIOError: its process is alive
                    lock = os.open(_lock_of(token), _LOCK_FLAGS)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(token, ignore_errors=True)
                        if not token.exists():
                            _lock_of(token).unlink()
                    finally:
                        os.close(lock)

    def folder(self) -> Path:
        """Return the token's folder. Create it at the first call, and again if it was removed meanwhile."""
        with self._claiming:
            if self._lock >= 0 and self._token.is_dir() and is_at(self._lock, _lock_of(self._token)):
                return self._token
            self.release()
            self._refuse_link()
            self._hidden.mkdir(exist_ok=True)
            while True:
                token = self._hidden / uuid.uuid4().hex
                lock = os.open(_lock_of(token), _LOCK_FLAGS | os.O_EXCL)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if is_at(lock, _lock_of(token)):
                        token.mkdir()
                        self._token, self._lock, lock = token, lock, -1
                        return token
                except BlockingIOError:
                    pass  # a sweep ran between open() and flock() and removed the lock file: try again
                finally:
                    if lock >= 0:
                        os.close(lock)

    def new(self) -> Path:
        """Return an unused path in the token's folder."""
        return self.folder() / uuid.uuid4().hex

    @contextmanager
    def manifests_locked(self) -> Iterator[None]:
        """Keep the other threads and processes that use this root from replacing a manifest meanwhile."""
        self._refuse_link()
        self._hidden.mkdir(exist_ok=True)
        lock = os.open(self._hidden / "manifests.lock", _LOCK_FLAGS)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def release(self) -> None:
        """Remove the token with its contents. Raises nothing."""
        if self._lock >= 0:
            shutil.rmtree(self._token, ignore_errors=True)
            with suppress(OSError):
                _lock_of(self._token).unlink()
            os.close(self._lock)
            self._lock = -1

    def _refuse_link(self) -> None:
        if self._hidden.is_symlink():  # a sweep would empty the folder that the link points to
            raise OSError(errno.ELOOP, "must not be a symbolic link", str(self._hidden))


def is_at(fd: int, path: Path) -> bool:
    """Return whether the open file or folder `fd` is still the one at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.lstat())
    return False


def _lock_of(token: Path) -> Path:
    return token.with_name(f"{token.name}.lock")
