"""Put mixed load on the real service for some minutes. Its memory and its open files must stay flat.

python -m tests.soak.load [--minutes 10]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..helpers.server import Server, form, portrait, serving, write_demo

#: Of all clients together.
_REQUESTS_PER_SECOND = 40

#: A cache of 1 MiB is full in a minute. The default one would keep filling, which looks like a leak.
_SETTINGS = {"OPENTALKING_CACHE_MB": "1"}


@dataclass(frozen=True, slots=True)
class Sample:
    """The resident memory (in MiB) and the open files of a service or of its workers."""

    memory: float
    files: int


def sample(server: Server) -> tuple[Sample, Sample]:
    """Return a sample of the service, and one of all its descendants together."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:  # the process has just ended
            continue
        parents[int(fields["Pid"])] = int(fields["PPid"])
    family = [server.process.pid]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    own, *others = map(_of_process, family)
    return own, Sample(sum(other.memory for other in others), sum(other.files for other in others))


def _of_process(pid: int) -> Sample:
    folder = Path(f"/proc/{pid}")
    try:
        fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return Sample(int(fields.get("VmRSS", "0").split()[0]) / 1024, len(list((folder / "fd").iterdir())))
    except OSError:
        return Sample(0, 0)


def work(server: Server, image: bytes, until: float, counts: Counter[str], seed: int, clients: int) -> None:
    """Send lists, manifests, previews, good and bad uploads and deletes, at this client's share of the rate."""
    chance = random.Random(seed)
    mine: list[str] = []
    with server.client() as client:
        while time.monotonic() < until:
            time.sleep(chance.uniform(0, 2 * clients / _REQUESTS_PER_SECOND))
            kind = chance.random()
            if kind < 0.04:
                answer = client.post("/avatars/custom", files=form("Soak", image))
                if answer.status_code == 200:
                    mine.append(answer.json()["id"])
            elif kind < 0.06:
                answer = client.post("/avatars/custom", files=form("Soak", image[: len(image) // 2]))
            elif kind < 0.10 and mine:
                answer = client.delete(f"/avatars/{mine.pop()}")
            elif kind < 0.4:
                answer = client.get("/avatars")
            elif kind < 0.7:
                answer = client.get(f"/avatars/{mine[-1] if mine else 'demo-avatar'}/preview")
            elif kind < 0.75:
                answer = client.get("/avatars/nosuch")
            else:
                answer = client.get("/avatars/demo-wav2lip")
            counts[f"{answer.request.method} {answer.status_code}"] += 1


def run(minutes: float, avatars: Path, clients: int = 8) -> tuple[Counter[str], list[tuple[Sample, Sample]]]:
    """Return how often clients got each answer, and the samples: one each second."""
    write_demo(avatars)
    counts: Counter[str] = Counter()
    image, samples = portrait(), []
    with serving(avatars, **_SETTINGS) as server:
        until = time.monotonic() + minutes * 60
        threads = [
            threading.Thread(target=work, args=[server, image, until, counts, seed, clients]) for seed in range(clients)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            time.sleep(1)
            samples.append(sample(server))
        for thread in threads:
            thread.join()
    return counts, samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, samples = run(options.minutes, Path(folder) / "avatars")
    print(f"{options.minutes:g} minutes, {counts.total()} requests: {dict(sorted(counts.items()))}")
    fifth = max(1, len(samples) // 5)
    for what, index in (("service", 0), ("workers", 1)):
        early, late = samples[fifth : 2 * fifth], samples[-fifth:]
        memory = [statistics.median(pair[index].memory for pair in part) for part in (early, late)]
        files = [statistics.median(pair[index].files for pair in part) for part in (early, late)]
        print(f"{what}: {memory[0]:.1f} -> {memory[1]:.1f} MiB, {files[0]:g} -> {files[1]:g} open files")
