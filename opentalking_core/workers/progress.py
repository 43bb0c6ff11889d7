"""A file in which a worker says how far it is, and which mouth detector it is asking."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

#: Each number has this many digits and a place of its own, so that threads don't overwrite each other's numbers.
_DIGITS = 10


class Progress(NamedTuple):
    """How far a worker is.

    Args:
        done: frames that are finished.
        total: frames that are expected; there may be fewer.
        detector: position in the task's detectors of the one that was asked last; -1 before the first.
    """

    done: int
    total: int
    detector: int


class ProgressFile:
    """Written by a worker while the server reads it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self) -> None:
        """Create the file, with nothing done yet."""
        self._write(0, 0, 0, -1)

    def finished(self, done: int, total: int) -> None:
        """Write down how many frames are finished, and how many are expected.

        Raises:
            OSError: the folder is gone, because nobody waits for the work any more.
        """
        self._write(0, done, total)

    def asking(self, detector: int) -> None:
        """Write down which detector is asked."""
        self._write(2, detector)

    def read(self) -> Progress | None:
        """Return what was written; None if nothing was."""
        try:
            text = self._path.read_bytes()
            return Progress(*(int(text[at : at + _DIGITS]) for at in range(0, 3 * _DIGITS, _DIGITS)))
        except (OSError, ValueError):
            return None

    def _write(self, position: int, *numbers: int) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.lseek(file, position * _DIGITS, os.SEEK_SET)
            os.write(file, "".join(f"{number:{_DIGITS}}" for number in numbers).encode())
        finally:
            os.close(file)
