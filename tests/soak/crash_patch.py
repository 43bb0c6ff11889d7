"""Kill the real service with SIGKILL at random moments, while clients change manifests.

    python -m tests.soak.crash_patch [--rounds 200] [--patches 200]

In each round the clients send this many PATCHes, and the service dies among them. After each restart every manifest
must be whole. It must be the one of the last PATCH that was answered 200, or of the PATCH whose answer the kill has
swallowed. No unfinished write may have left files.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from opentalking_core import OpenTalkingError, load_avatar_bundle

from ..helpers.server import Server, without_detectors
from ..helpers.stores import wait_until, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

_AVATARS = ("anna", "ben", "carl", "dora")
_MAX_SECONDS_UNTIL_KILL = 0.5
#: Long, so that a torn manifest is noticed.
FILLER = "x" * 20_000


class Changes:
    """What one client has sent about its avatar.

    Args:
        avatar_id: the avatar.
    """

    def __init__(self, avatar_id: str) -> None:
        self.avatar_id = avatar_id
        self.answered = self.sent = 0  # the numbers of the last change that was answered 200, and of the last sent
        self.counts: Counter[int] = Counter()  # answers by status

    def send(self, server: Server, number_of_patches: int) -> None:
        """Change the avatar again and again, with the tag of the answer before, until the service is gone."""
        try:
            with server.client(timeout=30) as client:
                etag = client.get(f"/avatars/{self.avatar_id}").headers["etag"]
                for number in range(self.sent + 1, self.sent + 1 + number_of_patches):
                    self.sent = number
                    metadata = {"number": number, "filler": FILLER + str(number)}
                    change = {"name": f"change {number}", "metadata": metadata}
                    answer = client.patch(f"/avatars/{self.avatar_id}", json=change, headers={"If-Match": etag})
                    self.counts[answer.status_code] += 1
                    if answer.status_code == 200:
                        self.answered, etag = number, answer.headers["etag"]
        except httpx.TransportError:
            return

    def find_damage(self, avatars: Path, listed: dict[str, Any]) -> Iterator[str]:
        """Yield a sentence if the manifest is torn or lost, or if it is neither the old nor the new one."""
        try:
            manifest = load_avatar_bundle(avatars / self.avatar_id).manifest
        except OpenTalkingError as error:
            yield f"{self.avatar_id}: {error}"
            return
        number = manifest.metadata.get("number", 0)
        if number not in (self.answered, self.sent):
            yield f"{self.avatar_id} has change {number}, although {self.answered} was answered and {self.sent} sent"
        if number and (manifest.name, manifest.metadata["filler"]) != (f"change {number}", FILLER + str(number)):
            yield f"{self.avatar_id} mixes changes: {manifest.name}, {number}"
        if listed.get(self.avatar_id) != manifest.name:
            yield f"{self.avatar_id} is listed as {listed.get(self.avatar_id)}, and named {manifest.name}"
        if unexpected := self.counts.keys() - {200}:
            yield f"{self.avatar_id}: answers {unexpected}"
        self.answered = number  # whatever the swallowed answer was


def run(rounds: int, patches: int, avatars: Path, seed: int = 1) -> tuple[int, list[str]]:
    """Kill the service this many times, among this many PATCHes each time.

    Returns:
        the number of PATCHes that were answered 200, and what was damaged after a kill.
    """
    chance, damage = random.Random(seed), list[str]()
    for avatar_id in _AVATARS:
        write_bundle(avatars / avatar_id, model_type="mock", metadata={"custom_avatar": True})
    changes = [Changes(avatar_id) for avatar_id in _AVATARS]
    server = Server(avatars, **without_detectors())
    for _ in range(rounds):
        arguments = (server, patches // len(changes))
        clients = [threading.Thread(target=change.send, args=arguments) for change in changes]
        before = sum(change.counts[200] for change in changes)
        for client in clients:
            client.start()
        wait_until(lambda before=before: sum(change.counts[200] for change in changes) > before, 60)  # type: ignore[misc]
        time.sleep(chance.uniform(0, _MAX_SECONDS_UNTIL_KILL))
        server.kill()
        for client in clients:
            client.join()
        server = Server(avatars, **without_detectors())
        with server.client() as http:
            listed = {avatar["id"]: avatar["name"] for avatar in http.get("/avatars").json()}
        for change in changes:
            damage += change.find_damage(avatars, listed)
        if scratch := list(avatars.glob(".opentalking/*/*")):
            damage.append(f"files of unfinished writes: {scratch}")
    server.stop()
    return sum(change.counts[200] for change in changes), damage


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--patches", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        answered, damage = run(options.rounds, options.patches, Path(folder) / "avatars")
    print(f"{options.rounds} kills in {time.monotonic() - started:.0f} s; {answered} changes were answered 200")
    if damage:
        sys.exit("\n".join(damage))
    print("every manifest was whole, and the old one or the new one")
