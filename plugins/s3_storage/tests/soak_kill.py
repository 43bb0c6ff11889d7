"""Kill processes at random points while they create and delete bundles. No reader may see half a bundle.

    python -m opentalking_s3_storage.testing python plugins/s3_storage/tests/soak_kill.py 50

Each round starts a writer, kills it with SIGKILL at a random moment, and reads every listed bundle. At the end, a sweep
must remove all objects that belong to no bundle.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field

from opentalking_s3_storage.clocks import Clocks
from opentalking_s3_storage.store import S3Store

from opentalking_core import MANIFEST, AlreadyExists, NotFound, StoreUnavailable

_SETTINGS = {"OPENTALKING_S3_TIMEOUT_SECONDS": "0.5", "OPENTALKING_S3_GRACE_SECONDS": "0"}
_IDS = 6  # few, so that writers meet what earlier writers have left
_MAX_SECONDS_BEFORE_KILL = 0.3


@dataclass
class Result:
    """The outcome of a soak.

    Args:
        rounds: number of writers that were killed.
        listed: number of bundles that were listed and read, over all rounds.
        broken: what was wrong with bundles that were not whole.
        left: keys that belonged to no bundle after the sweep.
    """

    rounds: int = 0
    listed: int = 0
    broken: list[str] = field(default_factory=list)
    left: set[str] = field(default_factory=set)


def _bundle(seed: int) -> dict[str, bytes]:
    """Return a bundle whose manifest has the SHA-256 of every other file."""
    noise = random.Random(seed)
    files = {f"frames/{n}.png": noise.randbytes(noise.randrange(1, 30_000)) for n in range(noise.randrange(1, 12))}
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return {MANIFEST: json.dumps(sums).encode(), **files}


async def write(url: str) -> None:
    """Create a bundle of its own, say "ready", then create and delete bundles until killed."""
    async with S3Store(url) as store:
        created = False
        while not created:
            with contextlib.suppress(StoreUnavailable):
                await store.create(f"first-{uuid.uuid4().hex}", _bundle(random.getrandbits(32)))
                created = True
        print("ready", flush=True)
        while True:
            avatar_id = f"avatar-{random.randrange(_IDS)}"
            try:
                if random.random() < 0.6:
                    await store.create(avatar_id, _bundle(random.getrandbits(32)))
                else:
                    await store.delete(avatar_id)
            except (AlreadyExists, NotFound, StoreUnavailable):
                pass


async def check(url: str, result: Result) -> None:
    """Read every listed bundle, and add what was found to `result`."""
    async with S3Store(url) as store:
        for avatar_id in [bundle.avatar_id async for bundle in store.scan()]:
            result.listed += 1
            async with store.open(avatar_id, MANIFEST) as file:
                sums = json.loads(await file.read())
            if {info.path async for info in store.files(avatar_id)} != {MANIFEST, *sums}:
                result.broken.append(f"{avatar_id} has other files than its manifest says")
            for path, expected in sums.items():
                async with store.open(avatar_id, path) as file:
                    if hashlib.sha256(await file.read()).hexdigest() != expected:
                        result.broken.append(f"{avatar_id}/{path} has another content than its manifest says")


async def sweep(url: str) -> set[str]:
    """Sweep as if an hour had passed, and return the keys that then belong to no bundle."""
    hour = 0.0
    async with S3Store(url, Clocks(wall=lambda: time.time() + hour)) as store:
        hour = 3600.0
        found = {bundle.avatar_id async for bundle in store.scan()}
        await store._sweeper.wait()
        left = {meta["path"] async for meta in store._bucket.list("")}
        return {key for key in left if key.partition("/")[0] not in found}


def soak(rounds: int) -> Result:
    """Start and kill a writer `rounds` times."""
    url = f"s3://avatars/soak-{uuid.uuid4().hex}"
    os.environ.update(_SETTINGS)
    result = Result()
    for _ in range(rounds):
        writer = subprocess.Popen([sys.executable, __file__, "write", url], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(random.uniform(0.0, _MAX_SECONDS_BEFORE_KILL))
        writer.kill()
        writer.communicate()
        result.rounds += 1
        asyncio.run(check(url, result))
    result.left = asyncio.run(sweep(url))
    return result


def main() -> None:
    """Run a soak, print its result, and exit with 1 if a bundle was broken or an object is left."""
    result = soak(int(sys.argv[1]))
    print(f"{result.rounds} writers killed, {result.listed} bundles read")
    for problem in [*result.broken, *(f"{key} is left after the sweep" for key in sorted(result.left))]:
        print(problem)
    sys.exit(bool(result.broken or result.left))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        asyncio.run(write(sys.argv[2]))
    else:
        main()
