"""Send 100 uploads of 10 MiB at the same time, and measure the most memory that the service and its workers take.

python -m tests.soak.memory [--uploads 100]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..helpers.server import form, portrait, serving, write_demo
from .load import sample

_IMAGE_BYTES = 10 * 1024 * 1024


def run(uploads: int, avatars: Path) -> tuple[Counter[int], list[float], list[float], float]:
    """Return what was answered and measured.

    Returns:
        How often clients got each status; the resident memory of service and workers before the uploads, and the most
        during them, in MiB; the seconds that the slowest list took.
    """
    write_demo(avatars)
    image = portrait().ljust(_IMAGE_BYTES, b"\0")
    with serving(avatars) as server, server.client() as client:
        client.post("/avatars/custom", files=form("Warm", portrait()))
        before = [part.memory for part in sample(server)]
        highest, slowest, done = list(before), 0.0, threading.Event()

        def upload(_: int) -> int:
            with server.client(timeout=300) as own:
                return own.post("/avatars/custom", files=form("Big", image)).status_code

        def watch() -> None:
            while not done.wait(0.02):
                for index, part in enumerate(sample(server)):
                    highest[index] = max(highest[index], part.memory)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(uploads) as pool:
            running = pool.map(upload, range(uploads))
            for _ in range(50):
                started = time.monotonic()
                client.get("/avatars").raise_for_status()
                slowest = max(slowest, time.monotonic() - started)
            statuses = Counter(running)
        done.set()
        watcher.join()
    return statuses, before, highest, slowest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        statuses, before, highest, slowest = run(options.uploads, Path(folder) / "avatars")
    print(f"{options.uploads} uploads of 10 MiB at the same time: {dict(statuses)}; slowest list {slowest:.2f} s")
    for what, index in (("service", 0), ("workers", 1)):
        print(f"{what}: {before[index]:.0f} MiB before, at most {highest[index]:.0f} MiB")
