"""Keep what MediaPipe's native code writes to standard error off the terminal.

MediaPipe 1.2 writes four lines while its first landmarker starts. It has no setting that silences them, and its logging
callback only adds a second place. So standard error is redirected for that moment, in worker processes alone: they run
one call at a time, and nothing else writes there meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_STDERR = 2

#: A line of MediaPipe's (absl's format: level, month and day, time, thread, source file), TensorFlow Lite's, LiteRT's.
_NATIVE_LINE = re.compile(
    rb"[IWEF]\d{4} \d\d:\d\d:\S+ +\d+ \S+:\d+\]|WARNING: (All log|Logging before)"
    rb"|INFO: Created TensorFlow Lite |INFO: \[\w+\.cc:\d+\]"
)


@contextlib.contextmanager
def native_lines_as_debug_log() -> Iterator[None]:
    """In a worker process, redirect standard error; afterwards log native lines as DEBUG and write the others.

    If the process dies meanwhile, what it has written is lost. Elsewhere, and on systems without memory files, nothing
    is redirected.
    """
    if multiprocessing.parent_process() is None or not hasattr(os, "memfd_create"):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stderr = os.dup(_STDERR)
            stack.callback(os.close, stderr)
            withheld = stack.enter_context(open(os.memfd_create("stderr"), "rb", closefd=True))  # noqa: PTH123
            os.dup2(withheld.fileno(), _STDERR)
        except OSError:  # there is no standard error, or no descriptor is left
            yield
            return
        try:
            yield
        finally:
            os.dup2(stderr, _STDERR)
            withheld.seek(0)
            for line in withheld:
                if _NATIVE_LINE.match(line):
                    log.debug("%s", line.decode(errors="replace").rstrip())
                else:
                    os.write(stderr, line)
