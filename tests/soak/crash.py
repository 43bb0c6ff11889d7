"""kill -9 of the real service at random moments, while clients create and delete.

    python -m tests.soak.crash [--rounds 200]

After each restart every listed bundle must be complete and valid, every create that was answered 200 there, every
delete that was answered 200 gone, and no rest of an unfinished write left.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from opentalking_core import list_avatar_dirs, load_avatar_bundle

from ..helpers.server import BASE, Server, form, portrait, write_demo

_CLIENTS = 4

#: Uploads are quick without the detector, so that many are in every state of being written when the service dies.
SETTINGS = {"OPENTALKING_DISABLE_PLUGINS": "mediapipe_mouth"}


class Truth:
    """What clients have been told."""

    def __init__(self) -> None:
        self.there: set[str] = set()  # created with a 200, and no delete of them was sent
        self.gone: set[str] = set()  # deleted with a 200
        self.counts: Counter[str] = Counter()


def work(server: Server, image: bytes, truth: Truth, lock: threading.Lock, seed: int) -> None:
    """Create and delete until the service is gone."""
    chance = random.Random(seed)
    try:
        with server.client(timeout=30) as client:
            while True:
                with lock:
                    victim = chance.choice(sorted(truth.there)) if truth.there and chance.random() < 0.45 else None
                    truth.there.discard(victim or "")  # from now on it may be there or not, until we are told
                if victim is None:
                    answer = client.post("/avatars/custom", files=form("Crash", image))
                    if answer.status_code == 200:
                        with lock:
                            truth.there.add(answer.json()["id"])
                else:
                    answer = client.delete(f"/avatars/{victim}")
                    if answer.status_code == 200:
                        with lock:
                            truth.gone.add(victim)
                with lock:
                    truth.counts[f"{answer.request.method} {answer.status_code}"] += 1
    except httpx.TransportError:
        return


def check(avatars: Path, client: httpx.Client, truth: Truth, sizes: dict[str, int]) -> None:
    """Raises AssertionError if anything was lost, is half there, or is litter."""
    listed = {avatar["id"] for avatar in client.get("/avatars").json()}
    lost = truth.there - listed
    assert not lost, f"created with a 200, and lost: {lost}"
    back = truth.gone & listed
    assert not back, f"deleted with a 200, and back: {back}"
    folders = {path.name for path in list_avatar_dirs(avatars)}
    assert folders == listed, f"on disk {folders - listed}, listed {listed - folders}"
    visible = {path.name for path in avatars.iterdir() if path.name != ".opentalking"}
    assert visible == folders, f"litter: {visible - folders}"
    for avatar_id in listed:
        load_avatar_bundle(avatars / avatar_id, strict=True)
        if avatar_id != "demo-avatar":
            preview = (avatars / avatar_id / "preview.png").read_bytes()
            still = (avatars / avatar_id / "frames" / "frame_00000.png").read_bytes()
            assert preview == still
            assert preview.endswith(b"IEND\xaeB`\x82"), f"the picture of {avatar_id} is cut short"
            if avatar_id != BASE:
                assert sizes.setdefault("custom", len(preview)) == len(preview)
    scratch = list((avatars / ".opentalking").glob("*/*")) if (avatars / ".opentalking").is_dir() else []
    assert not scratch, f"rests of unfinished writes: {scratch}"
    for avatar_id in sorted(listed - truth.there - {"demo-avatar", BASE}):  # nobody was told of these, or of their end
        client.delete(f"/avatars/{avatar_id}")


def run(rounds: int, avatars: Path, seed: int = 1, **environment: str) -> Counter[str]:
    """Returns what was answered how often. Raises AssertionError."""
    chance = random.Random(seed)
    truth, lock, image, sizes = Truth(), threading.Lock(), portrait(), dict[str, int]()
    write_demo(avatars)
    server = Server(avatars, **environment)
    for number in range(rounds):
        clients = [
            threading.Thread(target=work, args=[server, image, truth, lock, seed * 10_000 + number * 10 + who])
            for who in range(_CLIENTS)
        ]
        for client in clients:
            client.start()
        time.sleep(chance.uniform(0.05, 3.0))
        server.kill()
        for client in clients:
            client.join()
        server = Server(avatars, **environment)
        with server.client() as http:
            check(avatars, http, truth, sizes)
        if (number + 1) % 20 == 0:
            print(f"{number + 1} rounds, {len(truth.there)} avatars, {dict(truth.counts)}", flush=True)
    assert server.stop() in (0, -signal.SIGTERM)
    return truth.counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        counts = run(options.rounds, Path(folder) / "avatars", **SETTINGS)
    print(f"{options.rounds} kills in {time.monotonic() - started:.0f} s; answers: {dict(counts)}; nothing was lost")
