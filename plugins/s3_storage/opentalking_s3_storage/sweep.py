"""Remove what dead writers have left: objects without a manifest, and claims."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentalking_core import MANIFEST, StoreUnavailable, is_avatar_id

from .bucket import modified
from .claims import Busy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from obstore import ObjectMeta

    from .bucket import Bucket
    from .claims import Claims
    from .clocks import Clocks

log = logging.getLogger(__name__)

MAX_SWEEP_INTERVAL_SECONDS = 60.0


@dataclass(slots=True)
class Leftovers:
    """What a scan has found, apart from manifests: candidates for a sweep.

    Args:
        objects: id -> when the last of its objects was written.
        claims: id -> when its claim was written.
        complete: ids that have a manifest.
    """

    objects: dict[str, float] = field(default_factory=dict)
    claims: dict[str, float] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)

    def add(self, meta: ObjectMeta) -> None:
        """Add an object of the scan."""
        avatar_id, _, path = meta["path"].partition("/")
        if path == MANIFEST:
            self.complete.add(avatar_id)
        elif avatar_id == ".opentalking":
            self.claims[path.rpartition("/")[2]] = modified(meta)
        elif path:
            self.objects[avatar_id] = max(modified(meta), self.objects.get(avatar_id, 0.0))

    def last_written(self) -> dict[str, float]:
        """Return when something was last written to each id that has a claim, or objects but no manifest."""
        unfinished = {key for key in self.objects if key not in self.complete} | self.claims.keys()
        return {
            key: max(self.objects.get(key, 0.0), self.claims.get(key, 0.0)) for key in unfinished if is_avatar_id(key)
        }


class Sweeper:
    """Sweeps in the background, at most one sweep at a time.

    Args:
        bucket: the bucket to sweep.
        claims: the sweeper holds an id's claim while it removes the id's objects.
        grace_seconds: older objects without a manifest are removed.
        clocks: for the time between sweeps.
    """

    def __init__(self, bucket: Bucket, claims: Claims, grace_seconds: float, clocks: Clocks) -> None:
        self._bucket = bucket
        self._claims = claims
        self._grace_seconds = grace_seconds
        self._clocks = clocks
        self._last_start = float("-inf")
        self._sweeping: asyncio.Task[None] | None = None

    def is_old(self, objects: Iterable[ObjectMeta]) -> bool:
        """Return whether none of the objects was written within the grace period."""
        return self._bucket.age(max(map(modified, objects))) > self._grace_seconds

    def start(self, leftovers: Leftovers) -> None:
        """Start to sweep what dead writers have left, unless a sweep is running or ended a moment ago."""
        written = leftovers.last_written()
        dead = [avatar_id for avatar_id in written if self._bucket.age(written[avatar_id]) > self._grace_seconds]
        idle = self._sweeping is None or self._sweeping.done()
        interval = min(self._grace_seconds, MAX_SWEEP_INTERVAL_SECONDS)
        if dead and idle and self._clocks.monotonic() - self._last_start > interval:
            self._last_start = self._clocks.monotonic()
            self._sweeping = asyncio.create_task(self._sweep(dead))

    async def wait(self) -> None:
        """Wait until the running sweep has ended."""
        if self._sweeping:
            await asyncio.wait([self._sweeping])

    async def stop(self) -> None:
        """Cancel the running sweep."""
        if self._sweeping:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
            self._sweeping = None

    async def _sweep(self, dead: list[str]) -> None:
        for avatar_id in dead:
            try:
                async with self._claims.hold(avatar_id, 0.0):
                    found = await self._bucket.list_folder(avatar_id)
                    if found and MANIFEST not in found and self.is_old(found.values()):
                        await self._bucket.delete([f"{avatar_id}/{path}" for path in found])
                        log.info("swept %d objects of the unfinished avatar %s", len(found), avatar_id)
            except Busy:
                continue
            except StoreUnavailable as error:
                log.warning("unfinished avatars can't be swept now: %s", error)
                return
