"""Claims: a claim lets one process at a time write to an avatar id.

A process that creates or removes the bundle `anna` holds the object `.opentalking/claims/anna`, which only one process
can create (If-None-Match: *). The manifest's own conditional create would come too late: creators of one id write to
the same keys before any manifest exists, and a process that removes files must not remove its successor's.

The holder of a claim renews it. A claim that was not renewed for the length of a lease belongs to a dead writer, and
the next process that needs the claim takes it over (If-Match, so again only one process succeeds).
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from opentalking_core import AlreadyExists, NotFound, OpenTalkingError, StoreUnavailable

from .clocks import Clocks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bucket import Bucket, Object

FOLDER = ".opentalking/claims"

_MIN_PAUSE_SECONDS = 0.02  # between two attempts to take a claim; doubled after each attempt
_MAX_PAUSE_SECONDS = 0.5


class Busy(Exception):
    """Another process holds the claim."""


@dataclass(slots=True)
class Claim:
    """A claim that this process holds.

    Args:
        key: the key of the claim's object.
        etag: the entity tag of the object.
        renewed: when the object was last written, by the monotonic clock.
        inherited: the claim was taken over from a dead writer, who may have left objects.
        keep: don't remove the claim at the end, because a request made under it may still take effect.
    """

    key: str
    etag: str | None
    renewed: float
    inherited: bool = False
    keep: bool = False


class Claims:
    """The claims of one store.

    Args:
        bucket: where to keep the claims.
        lease_seconds: a claim that is not renewed for this long belongs to a dead writer. Several times the longest
            time of a request.
        clocks: for the times of renewals.
    """

    def __init__(self, bucket: Bucket, lease_seconds: float, clocks: Clocks = Clocks()) -> None:  # noqa: B008 - immutable
        self._bucket = bucket
        self._clocks = clocks
        self.lease_seconds = lease_seconds
        self._token = secrets.token_hex(8).encode()  # tells this process's claims from other processes'
        self._kept: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def is_safe(self, claim: Claim) -> bool:
        """Return whether a request that starts now will end before another process can take over the claim."""
        return self._clocks.monotonic() - claim.renewed < self.lease_seconds * 2 / 3

    @asynccontextmanager
    async def hold(self, avatar_id: str, wait_seconds: float) -> AsyncIterator[Claim]:
        """Hold the claim of an id. Raises Busy if another process still holds the claim after `wait_seconds`."""
        lock = self._locks.setdefault(avatar_id, asyncio.Lock())
        async with lock:
            claim = await self._take(f"{FOLDER}/{avatar_id}", wait_seconds)
            renewing = asyncio.create_task(self._renew(claim))
            try:
                yield claim
            finally:
                renewing.cancel()
                await asyncio.wait([renewing])
                if claim.keep:
                    self._kept.add(claim.key)
                elif self.is_safe(claim):
                    with suppress(StoreUnavailable):  # the claim then expires
                        await self._bucket.delete([claim.key])

    async def _take(self, key: str, wait_seconds: float) -> Claim:
        body = self._new_body()
        deadline, pause = self._clocks.monotonic() + wait_seconds, _MIN_PAUSE_SECONDS
        while True:
            began = self._clocks.monotonic()
            try:
                return Claim(key, await self._bucket.put(key, body, create=True), began)
            except AlreadyExists:
                pass
            try:
                found = await self._bucket.get(key)
            except NotFound:
                continue
            etag = found.meta["e_tag"]
            if found.data == body:  # the put succeeded, its response was lost, and the retry found our own object
                return Claim(key, etag, began)
            if self._is_free(key, found):
                began = self._clocks.monotonic()
                with suppress(AlreadyExists, NotFound):
                    claim = Claim(key, await self._bucket.put(key, body, replace=etag), began, inherited=True)
                    self._kept.discard(key)
                    return claim
                continue
            if self._clocks.monotonic() + pause > deadline:
                raise Busy
            await self._clocks.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - not a secret
            pause = min(pause * 2, _MAX_PAUSE_SECONDS)

    def _is_free(self, key: str, found: Object) -> bool:
        """Return whether an existing claim has no living holder. The caller holds the lock of the id."""
        # This process wrote the claim, and the lock shows that no task of ours holds it: an earlier release failed.
        if (found.data or b"").startswith(self._token) and key not in self._kept:
            return True
        return self._bucket.age(found.meta["last_modified"].timestamp()) > self.lease_seconds

    async def _renew(self, claim: Claim) -> None:
        while True:
            await self._clocks.sleep(self.lease_seconds / 4)
            began, body = self._clocks.monotonic(), self._new_body()  # a new body gives the object a new entity tag
            with suppress(OpenTalkingError):  # the next attempt follows soon; `is_safe` notices if it comes too late
                try:
                    claim.etag = await self._bucket.put(claim.key, body, replace=claim.etag)
                except AlreadyExists:
                    found = await self._bucket.get(claim.key)
                    if found.data != body:
                        continue
                    claim.etag = found.meta["e_tag"]
                claim.renewed = began

    def _new_body(self) -> bytes:
        return self._token + b" " + secrets.token_hex(8).encode()
