"""The service as users start it: `opentalking-core serve` in a process of its own."""

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
from opentalking_core.testing.running import installed_detectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-c", "from opentalking_core.cli import app; app()"]
BASE = "demo-wav2lip"


def portrait() -> bytes:
    """Return a JPEG with a face."""
    file = io.BytesIO()
    draw_portrait(300, 400, seed=7).image.save(file, "JPEG")
    return file.getvalue()


def without_detectors() -> dict[str, str]:
    """Return settings for a service without the installed mouth detectors."""
    return {"OPENTALKING_DISABLE_PLUGINS": ",".join(installed_detectors())}


def write_demo(avatars: Path) -> None:
    """Write the demo avatars. BASE is one of them, and can be a base."""
    subprocess.run([*COMMAND, "demo", "--if-empty", "--store", str(avatars)], check=True, stdout=subprocess.DEVNULL)


class Server:
    """A running service. `address` is its URL."""

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
            raise AssertionError(f"the service did not start: {''.join(self.log)}")
        self._reader = threading.Thread(target=self.log.extend, args=[self.process.stderr], daemon=True)
        self._reader.start()

    def client(self, timeout: float = 60) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=timeout, trust_env=False)

    def kill(self) -> None:
        """Kill the service, as a system does that is out of memory."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End the service as users and service managers do; return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Wait until the service has ended; return its exit code."""
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
    """Return the form of POST /avatars/custom."""
    return {"name": (None, name), "base_avatar_id": (None, BASE), "image": ("a.jpg", image)}
