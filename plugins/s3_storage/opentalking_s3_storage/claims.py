"""Claims: of all processes that write to one id, one at a time.

Whoever creates or removes the bundle `anna` holds `.opentalking/claims/anna` meanwhile, an object that only one can
create (If-None-Match: *). Creators of one id write to the same keys before any manifest is there, and who removes files
must not remove those of a successor: the manifest's own conditional create would come too late for both.

A claim is renewed while its holder lives. One that isn't for the length of a lease is a dead writer's, and the next one
who needs it takes it over (If-Match, so again only one does).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from opentalking_core import AlreadyExists, NotFound, OpenTalkingError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bucket import Bucket

FOLDER = ".opentalking/claims"


class Busy(Exception):
    """Another process holds the claim."""


@dataclass(slots=True)
class Claim:
    """A claim that this process has.

    Args:
        key: of its object.
        etag: of the object.
        renewed: when it was last written, by the monotonic clock.
        inherited: taken over from a dead writer, who may have left something.
        keep: don't release it: something may still arrive that was written under it.
    """

    key: str
    etag: str | None
    renewed: float
    inherited: bool = False
    keep: bool = False


class Claims:
    """The claims of one store.

    Args:
        bucket: where they are.
        lease: seconds after which a claim that isn't renewed is a dead writer's; several times a request's limit.
    """

    def __init__(self, bucket: Bucket, lease: float) -> None:
        self._bucket = bucket
        self.lease = lease
        self._token = secrets.token_hex(8).encode()
        self._kept: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def is_safe(self, claim: Claim) -> bool:
        """Whether nobody can take it over before a request that starts now has ended."""
        return time.monotonic() - claim.renewed < self.lease * 2 / 3

    @asynccontextmanager
    async def hold(self, avatar_id: str, patience: float) -> AsyncIterator[Claim]:
        """Hold the claim of an id. Raises Busy if another process still holds it after `patience` seconds."""
        lock = self._locks.setdefault(avatar_id, asyncio.Lock())
        async with lock:
            claim = await self._take(f"{FOLDER}/{avatar_id}", patience)
            renewing = asyncio.create_task(self._renew(claim))
            try:
                yield claim
            finally:
                renewing.cancel()
                await asyncio.wait([renewing])
                if claim.keep:
                    self._kept.add(claim.key)
                elif self.is_safe(claim):
                    with suppress(StoreUnavailable):  # then it lapses
                        await self._bucket.delete([claim.key])

    async def _take(self, key: str, patience: float) -> Claim:
        body = self._new_body()
        deadline, pause = time.monotonic() + patience, 0.02
        while True:
            began = time.monotonic()
            try:
                return Claim(key, await self._bucket.put(key, body, create=True), began)
            except AlreadyExists:
                pass
            try:
                found = await self._bucket.get(key)
            except NotFound:
                continue
            etag = found.meta["e_tag"]
            if found.data == body:  # the answer to our own create was lost, and its repetition refused
                return Claim(key, etag, began)
            # One of ours, and the lock says that none of ours is at work: it could not be released.
            own_remains = (found.data or b"").startswith(self._token) and key not in self._kept
            if own_remains or self._bucket.age(found.meta["last_modified"].timestamp()) > self.lease:
                began = time.monotonic()
                with suppress(AlreadyExists, NotFound):
                    claim = Claim(key, await self._bucket.put(key, body, replace=etag), began, inherited=True)
                    self._kept.discard(key)
                    return claim
                continue
            if time.monotonic() + pause > deadline:
                raise Busy
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - not a secret
            pause = min(pause * 2, 0.5)

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self.lease / 4)
            began, body = time.monotonic(), self._new_body()  # a new one, so that the entity tag tells of the renewal
            with suppress(OpenTalkingError):  # once more soon; `is_safe` sees when it was too long
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
