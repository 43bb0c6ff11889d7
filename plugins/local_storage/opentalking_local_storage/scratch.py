"""Where a store writes before it publishes, safe from crashes and from other processes on the same folder.

    <root>/.opentalking/<token>/         what one open store is writing, or has taken away
    <root>/.opentalking/<token>.lock     flocked for as long as that store is open and its process alive

A crash leaves its rests under a token whose lock nobody holds: whoever enters the store next sweeps those, and never
what another live process is writing. The lock comes before the folder and goes after it, so a folder without one is a
dead process's, too. On a network file system this needs `flock` between its clients.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows is no target: importing works, writing doesn't
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path


_LOCK = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class Scratch:
    """One store's token. All methods block, and raise OSError unless they say otherwise.

    Args:
        root: the store's folder; nothing is written to it before the first `folder()`.
    """

    def __init__(self, root: Path) -> None:
        self._hidden = root / ".opentalking"
        self._claiming = threading.Lock()
        self._token = self._hidden / "none"
        self._lock = -1

    def sweep(self) -> None:
        """Remove what dead processes have left. Raises nothing: who may only read leaves it to others."""
        with suppress(OSError):
            self._refuse_link()
            names = {path.name.removesuffix(".lock") for path in self._hidden.iterdir()}
            for token in (self._hidden / name for name in names if re.fullmatch("[0-9a-f]{32}", name)):
                with suppress(OSError):  # BlockingIOError: it lives
                    lock = os.open(_lock_of(token), _LOCK)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(token, ignore_errors=True)
                        if not token.exists():
                            _lock_of(token).unlink()
                    finally:
                        os.close(lock)

    def folder(self) -> Path:
        """The token's folder; claimed when first needed, and again if somebody has removed it."""
        with self._claiming:
            if self._lock >= 0 and self._token.is_dir() and is_at(self._lock, _lock_of(self._token)):
                return self._token
            self.release()
            self._refuse_link()
            self._hidden.mkdir(exist_ok=True)
            while True:
                token = self._hidden / uuid.uuid4().hex
                lock = os.open(_lock_of(token), _LOCK | os.O_EXCL)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if is_at(lock, _lock_of(token)):
                        token.mkdir()
                        self._token, self._lock, lock = token, lock, -1
                        return token
                except BlockingIOError:
                    pass  # a sweep came between opening and locking, and took us for dead; once more
                finally:
                    if lock >= 0:
                        os.close(lock)

    def new(self) -> Path:
        """A path in the token's folder that nothing has yet."""
        return self.folder() / uuid.uuid4().hex

    def release(self) -> None:
        """Remove the token and what it holds. Raises nothing."""
        if self._lock >= 0:
            shutil.rmtree(self._token, ignore_errors=True)
            with suppress(OSError):
                _lock_of(self._token).unlink()
            os.close(self._lock)
            self._lock = -1

    def _refuse_link(self) -> None:
        if self._hidden.is_symlink():  # sweeping would empty whatever it leads to
            raise OSError(errno.ELOOP, "must not be a symbolic link", str(self._hidden))


def is_at(fd: int, path: Path) -> bool:
    """Whether what is open as `fd` is still what `path` names."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.lstat())
    return False


def _lock_of(token: Path) -> Path:
    return token.with_name(f"{token.name}.lock")
