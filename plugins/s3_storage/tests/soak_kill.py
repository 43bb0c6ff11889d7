"""Processes killed at random points while they create and delete bundles: none may leave half a bundle to see.

    python -m opentalking_s3_storage.testing python plugins/s3_storage/tests/soak_kill.py 50

Each round starts a writer, kills it (SIGKILL) at a random moment, and looks at every bundle that is listed. In the end
the sweep must have removed all that belongs to none.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import uuid

from opentalking_s3_storage.store import S3Store

from opentalking_core import AlreadyExists, NotFound, StoreUnavailable

_SETTINGS = {"OPENTALKING_S3_TIMEOUT_SECONDS": "0.5", "OPENTALKING_S3_GRACE_SECONDS": "0"}
_IDS = 6  # few, so that writers meet the remains of earlier ones


def _bundle(seed: int) -> dict[str, bytes]:
    noise = random.Random(seed)
    files = {f"frames/{n}.png": noise.randbytes(noise.randrange(1, 30_000)) for n in range(noise.randrange(1, 12))}
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return {"manifest.json": json.dumps(sums).encode(), **files}


async def write(url: str) -> None:
    """Create and delete until killed."""
    async with S3Store(url) as store:
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


async def check(url: str) -> int:
    """How many bundles are listed; raises AssertionError if one of them isn't whole."""
    async with S3Store(url) as store:
        found = [bundle.avatar_id async for bundle in store.scan()]
        for avatar_id in found:
            async with store.open(avatar_id, "manifest.json") as file:
                sums = json.loads(await file.read())
            assert {info.path async for info in store.files(avatar_id)} == {"manifest.json", *sums}, avatar_id
            for path, expected in sums.items():
                async with store.open(avatar_id, path) as file:
                    assert hashlib.sha256(await file.read()).hexdigest() == expected, f"{avatar_id}/{path}"
        return len(found)


async def sweep(url: str) -> set[str]:
    """Wait until the remains are old enough, sweep, and return the keys that then belong to no bundle."""
    await asyncio.sleep(5)
    async with S3Store(url) as store:
        found = {bundle.avatar_id async for bundle in store.scan()}
        if store._sweeping:
            await store._sweeping
        left = {meta["path"] async for meta in store._bucket.list("")}
        return {key for key in left if key.partition("/")[0] not in found}


def soak(rounds: int) -> str:
    """Run it; what happened, in one sentence. Raises AssertionError."""
    url = f"s3://avatars/soak-{uuid.uuid4().hex}"
    os.environ.update(_SETTINGS)
    listed = 0
    for _ in range(rounds):
        writer = subprocess.Popen([sys.executable, __file__, "write", url], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(random.uniform(0.0, 0.3))
        writer.kill()
        writer.communicate()
        listed += asyncio.run(check(url))
    left = asyncio.run(sweep(url))
    assert not left, left
    return f"{rounds} writers killed; all {listed} listings of bundles whole; nothing left after the sweep"


if __name__ == "__main__":
    if sys.argv[1] == "write":
        asyncio.run(write(sys.argv[2]))
    else:
        print(soak(int(sys.argv[1])))
