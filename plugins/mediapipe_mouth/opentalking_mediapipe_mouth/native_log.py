"""Log the lines that MediaPipe's native code writes to standard error, instead of showing them on the terminal.

MediaPipe 1.2 writes four lines while its first landmarker starts. No setting silences them, and MediaPipe's logging
callback only copies them. So standard error is redirected while the landmarker starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_STDERR = 2

#: A line of MediaPipe's (absl's format: level, month and day, time, thread, source file) or of TensorFlow Lite's.
_NATIVE_LINE = re.compile(rb"([IWEF]\d{4} \d\d:\d\d:|INFO: |WARNING: (All log|Logging before))")


@contextlib.contextmanager
def native_lines_as_debug_log() -> Iterator[None]:
    """Redirect this process's standard error; afterwards log native lines as DEBUG and write all others to it.

    Lines of other threads arrive late, but none is lost.
    """
    try:
        stderr = os.dup(_STDERR)
    except OSError:  # this process has no standard error
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, stderr)
        withheld = stack.enter_context(tempfile.TemporaryFile())
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(withheld.fileno(), _STDERR)
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
