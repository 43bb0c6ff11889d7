"""A file in which a worker says how far it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

#: Two numbers of this many digits, so that each write replaces the one before.
_DIGITS = 10


class Progress(NamedTuple):
    """How far a worker is.

    Args:
        done: frames that are finished.
        total: frames that are expected; there may be fewer.
    """

    done: int
    total: int


def write_progress(path: Path, done: int, total: int) -> None:
    """Write down how many frames are finished, and how many are expected.

    Raises:
        OSError: the folder is gone, because nobody waits for the work any more.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(file, f"{done:{_DIGITS}}{total:{_DIGITS}}".encode())
    finally:
        os.close(file)


def read_progress(path: Path) -> Progress | None:
    """Return what was last written; None if nothing was."""
    try:
        text = path.read_bytes()
        return Progress(int(text[:_DIGITS]), int(text[_DIGITS:]))
    except (OSError, ValueError):
        return None
