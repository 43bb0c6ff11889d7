"""Kill the real service with SIGKILL at random moments, while clients create and delete.

    python -m tests.soak.crash [--rounds 200]

After each restart every listed bundle must be complete and valid, every avatar whose creation was answered 200 must be
there, every avatar whose deletion was answered 200 must be gone, and no unfinished write may have left files.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from opentalking_core import OpenTalkingError, list_avatar_dirs, load_avatar_bundle

from ..helpers.server import BASE, Server, form, portrait, without_detectors, write_demo
from ..helpers.stores import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENTS = 4
_MAX_SECONDS_UNTIL_KILL = 3.0
_DEMO = {"demo-avatar", BASE}


class Answers:
    """The avatars whose creation or deletion was answered 200."""

    def __init__(self) -> None:
        self.created: set[str] = set()  # answered 200, and no client has asked to delete them
        self.deleted: set[str] = set()  # answered 200
        self.counts: Counter[str] = Counter()


def create_and_delete(server: Server, image: bytes, answers: Answers, lock: threading.Lock, seed: int) -> None:
    """Create and delete avatars until the service is gone."""
    chance = random.Random(seed)
    try:
        with server.client(timeout=30) as client:
            while True:
                with lock:
                    wants_delete = answers.created and chance.random() < 0.45
                    victim = chance.choice(sorted(answers.created)) if wants_delete else None
                    answers.created.discard(victim or "")  # until the answer comes, it may be there or gone
                if victim is None:
                    answer = client.post("/avatars/custom", files=form("Crash", image))
                    if answer.status_code == 200:
                        with lock:
                            answers.created.add(answer.json()["id"])
                else:
                    answer = client.delete(f"/avatars/{victim}")
                    if answer.status_code == 200:
                        with lock:
                            answers.deleted.add(victim)
                with lock:
                    answers.counts[f"{answer.request.method} {answer.status_code}"] += 1
    except httpx.TransportError:
        return


def find_damage(avatars: Path, listed: set[str], answers: Answers) -> Iterator[str]:
    """Yield a sentence for each lost avatar, each incomplete bundle, and each file that was left behind."""
    if lost := answers.created - listed:
        yield f"avatars whose creation was answered 200 are not listed: {lost}"
    if back := answers.deleted & listed:
        yield f"avatars whose deletion was answered 200 are listed: {back}"
    folders = {path.name for path in list_avatar_dirs(avatars)}
    if folders != listed:
        yield f"bundles in the folder alone: {folders - listed}; listed alone: {listed - folders}"
    visible = {path.name for path in avatars.iterdir() if path.name != ".opentalking"}
    if visible != folders:
        yield f"files that belong to no bundle: {visible - folders}"
    for avatar_id in listed & folders:
        yield from _find_damage_in_bundle(avatars / avatar_id)
    if scratch := list(avatars.glob(".opentalking/*/*")):
        yield f"files of unfinished writes: {scratch}"


def _find_damage_in_bundle(folder: Path) -> Iterator[str]:
    try:
        bundle = load_avatar_bundle(folder, strict=True)
    except OpenTalkingError as error:
        yield f"{folder.name}: {error}"
        return
    if folder.name not in _DEMO:
        expected = bundle.manifest.metadata["source_image_hash"]
        for path in ("preview.png", "reference.png", "frames/frame_00000.png"):
            if hashlib.sha256((folder / path).read_bytes()).hexdigest() != expected:
                yield f"{folder.name}: {path} is not the picture that was uploaded"


def run(rounds: int, avatars: Path, seed: int = 1) -> tuple[Counter[str], list[str]]:
    """Kill the service this many times.

    Returns:
        How often clients got each answer, and what was damaged after a kill.
    """
    chance = random.Random(seed)
    answers, lock, image, damage = Answers(), threading.Lock(), portrait(), list[str]()
    write_demo(avatars)
    # Without detectors uploads are quick, so that many are being written when the service dies.
    server = Server(avatars, **without_detectors())
    for number in range(rounds):
        clients = [
            threading.Thread(
                target=create_and_delete, args=[server, image, answers, lock, seed * 10_000 + number * 10 + client]
            )
            for client in range(_CLIENTS)
        ]
        for client in clients:
            client.start()
        if number == 0:  # on a busy machine the first upload may take longer than a round
            wait_until(lambda: answers.counts["POST 200"], 60)
        time.sleep(chance.uniform(0.05, _MAX_SECONDS_UNTIL_KILL))
        server.kill()
        for client in clients:
            client.join()
        server = Server(avatars, **without_detectors())
        with server.client() as http:
            listed = {avatar["id"] for avatar in http.get("/avatars").json()}
            damage += find_damage(avatars, listed, answers)
            for avatar_id in sorted(listed - answers.created - _DEMO):  # the kill swallowed the answers about these
                http.delete(f"/avatars/{avatar_id}")
        if (number + 1) % 20 == 0:
            print(f"{number + 1} rounds, {len(answers.created)} avatars, {dict(answers.counts)}", flush=True)
    if (code := server.stop()) not in (0, -signal.SIGTERM):
        damage.append(f"the service ended with exit code {code}")
    return answers.counts, damage


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        counts, damage = run(options.rounds, Path(folder) / "avatars")
    print(f"{options.rounds} kills in {time.monotonic() - started:.0f} s; answers: {dict(counts)}")
    if damage:
        sys.exit("\n".join(damage))
    print("nothing was lost")
