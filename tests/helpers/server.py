"""The service as people start it: `opentalking-core serve` in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import httpx

from opentalking_core.portraits.drawn import draw_portrait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-c", "from opentalking_core.cli import app; app()"]
BASE = "demo-wav2lip"


def portrait() -> bytes:
    """A JPEG with a face."""
    file = io.BytesIO()
    draw_portrait(300, 400, seed=7).image.save(file, "JPEG")
    return file.getvalue()


def write_demo(avatars: Path) -> None:
    """The demo avatars, of which BASE can be a base."""
    subprocess.run([*COMMAND, "demo", "--if-empty", str(avatars)], check=True, stdout=subprocess.DEVNULL)


class Server:
    """A running service, and clients of it. `address` is its URL."""

    def __init__(self, avatars: Path, **environment: str) -> None:
        command = [*COMMAND, "serve", "--port", "0", "--store", str(avatars)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.address = found[1]
                break
        else:
            raise AssertionError(f"it did not start: {''.join(self.log)}")
        self._reader = threading.Thread(target=self.log.extend, args=[self.process.stderr], daemon=True)
        self._reader.start()

    def client(self, timeout: float = 60) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=timeout, trust_env=False)

    def kill(self) -> None:
        """As the system does when it is out of memory."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As people and service managers do; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        code = self.process.wait(60)
        self._reader.join(10)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code


@contextlib.contextmanager
def serving(avatars: Path, **environment: str) -> Iterator[Server]:
    server = Server(avatars, **environment)
    try:
        yield server
    finally:
        server.stop()


def form(name: str, image: bytes) -> dict[str, tuple[str | None, str | bytes]]:
    """The form of POST /avatars/custom."""
    return {"name": (None, name), "base_avatar_id": (None, BASE), "image": ("a.jpg", image)}
