"""Claims, leases and sweeps. The tests set the clocks and release the pauses between renewals themselves."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.store import S3Store as Obstore
from opentalking_s3_storage.claims import FOLDER, Busy, Claims
from opentalking_s3_storage.clocks import Clocks
from opentalking_s3_storage.store import S3Store

from opentalking_core import AlreadyExists, StoreUnavailable
from opentalking_core.testing.stores import bundle, contents, ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentalking_s3_storage.faulty_proxy import FaultyProxy

CLAIM = f"{FOLDER}/anna"
GIVE_UP_SECONDS = 60


@pytest.fixture(autouse=True)
def grace_of_one_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the grace period as long as a lease: a minute. Only the tests' clocks make claims and objects that old."""
    monkeypatch.setenv("OPENTALKING_S3_GRACE_SECONDS", "0")


@dataclass
class FakeClocks:
    """Clocks that stand still until the test moves them.

    Args:
        now: the time of both clocks, in seconds.
        sleepers: the number of tasks that sleep.
        changed: notified when a sleep begins and when `pass_time` has moved the clocks.
    """

    now: float = field(default_factory=time.time)
    sleepers: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def clocks(self) -> Clocks:
        return Clocks(monotonic=lambda: self.now, wall=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        async with self.changed:
            end = self.now + seconds
            self.sleepers += 1
            self.changed.notify_all()
            try:
                await self.changed.wait_for(lambda: self.now >= end)
            finally:
                self.sleepers -= 1

    async def pass_time(self, seconds: float) -> None:
        """Wait until a task sleeps, then move the clocks and wake the tasks that have slept long enough."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.sleepers > 0)
            self.now += seconds
            self.changed.notify_all()


def raw(url: str) -> Obstore:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return Obstore(bucket, prefix=prefix, client_options={"allow_http": True})


def keys(url: str) -> set[str]:
    return {meta["path"] for page in obstore.list(raw(url)) for meta in page}


async def modified(url: str, key: str) -> float:
    return (await obstore.head_async(raw(url), key))["last_modified"].timestamp()


async def put_later_than(url: str, key: str, earlier: float, seconds: float) -> float:
    """Write an object at least `seconds` after `earlier` by the server's clock, and return its time."""
    while True:
        await obstore.put_async(raw(url), key, b"x")
        if (written := await modified(url, key)) >= earlier + seconds:
            return written
        await asyncio.sleep(0.2)


def paused_stream(started: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        started.set()
        await go_on.wait()
        yield b"y"

    return stream()


def test_claim_is_renewed_during_long_create_and_keeps_others_out(s3_url: str) -> None:
    """The second creator's clock says that the first claim has expired, and that its renewal has not."""

    async def scenario() -> None:
        ours, theirs = FakeClocks(), FakeClocks()
        started, go_on = asyncio.Event(), asyncio.Event()
        async with S3Store(s3_url, ours.clocks()) as first, S3Store(s3_url, Clocks(wall=lambda: theirs.now)) as second:
            stream = paused_stream(started, go_on)
            creating = asyncio.create_task(first.create("anna", {**bundle(), "clip.mp4": stream}))
            await started.wait()
            claimed = renewed = await modified(s3_url, CLAIM)
            lease, began = second._claims.lease_seconds, ours.now
            while renewed < claimed + 2 or ours.now < began + 2 * lease:  # the server's times have whole seconds
                await ours.pass_time(lease / 4)
                await asyncio.sleep(0.2)
                renewed = await modified(s3_url, CLAIM)
            theirs.now += lease + 1 - second._bucket.age(claimed)
            assert second._bucket.age(claimed) > lease > second._bucket.age(renewed)
            with pytest.raises(AlreadyExists, match="another process"):
                await second.create("anna", bundle(seed=2))
            go_on.set()
            await creating
            assert await contents(second, "anna") == {**bundle(), "clip.mp4": b"x" * 1000 + b"y"}
        assert CLAIM not in keys(s3_url)

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


def test_create_whose_claim_was_not_renewed_in_time_commits_nothing(s3_url: str) -> None:
    """Another process may have taken over the claim, and then removes the first creator's objects."""

    async def scenario() -> None:
        ours, theirs = FakeClocks(), FakeClocks()
        started, go_on = asyncio.Event(), asyncio.Event()
        async with S3Store(s3_url, ours.clocks()) as first, S3Store(s3_url, theirs.clocks()) as second:
            stream = paused_stream(started, go_on)
            creating = asyncio.create_task(first.create("anna", {**bundle(), "clip.mp4": stream}))
            await started.wait()
            ours.now += first._claims.lease_seconds  # without waking the task that renews the claim
            go_on.set()
            with pytest.raises(StoreUnavailable, match="could not be renewed in time; nothing was created"):
                await creating
            assert await ids(second) == []
            assert CLAIM in keys(s3_url)
            theirs.now += second._claims.lease_seconds + 2
            await second.create("anna", bundle(seed=2))
            assert await contents(second, "anna") == bundle(seed=2)

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


@pytest.mark.parametrize(("held_leases", "is_released"), [(0.0, True), (0.5, True), (0.7, False), (2.0, False)])
def test_claim_is_released_only_while_no_one_can_have_taken_it_over(
    s3_url: str, held_leases: float, is_released: bool
) -> None:
    async def scenario() -> None:
        fake = FakeClocks()
        async with S3Store(s3_url, fake.clocks()) as store, store._claims.hold("anna", 0):
            fake.now += held_leases * store._claims.lease_seconds
        assert (CLAIM not in keys(s3_url)) == is_released

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


def test_expired_claim_is_taken_over_by_exactly_one_of_many(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A loaded server may take long for nine writers of one key.
    monkeypatch.setenv("OPENTALKING_S3_TIMEOUT_SECONDS", "50")

    async def scenario() -> None:
        await obstore.put_async(raw(s3_url), CLAIM, b"a dead writer")
        fake = FakeClocks()
        async with S3Store(s3_url, fake.clocks()) as store:
            lease = store._claims.lease_seconds
            rivals = [Claims(store._bucket, lease, fake.clocks()) for _ in range(8)]
            all_tried = asyncio.Event()

            async def compete(rival: Claims) -> bool:
                async with rival.hold("anna", 0) as claim:
                    await all_tried.wait()
                    return claim.inherited

            with pytest.raises(Busy):
                await compete(rivals[0])
            died = await modified(s3_url, CLAIM)
            await put_later_than(s3_url, "later.png", died, 2)  # so that only the dead writer's claim is too old
            fake.now += lease + 1 - store._bucket.age(died)
            competing = [asyncio.create_task(compete(rival)) for rival in rivals]
            refused = 0
            for ending in asyncio.as_completed(competing):
                try:
                    await ending
                except Busy:
                    refused += 1
                    if refused == len(rivals) - 1:
                        all_tried.set()
            assert refused == len(rivals) - 1
            assert [task.result() for task in competing if task.exception() is None] == [True]

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


def test_id_of_dead_writer_can_be_used_once_its_claim_has_expired(s3_url: str) -> None:
    async def scenario() -> None:
        await obstore.put_async(raw(s3_url), "anna/old.png", b"x")
        await obstore.put_async(raw(s3_url), CLAIM, b"a dead writer")
        wall = FakeClocks()
        async with S3Store(s3_url, Clocks(wall=lambda: wall.now)) as store:
            with pytest.raises(AlreadyExists, match="another process"):
                await store.create("anna", bundle())
            wall.now += store._claims.lease_seconds + 2
            await store.create("anna", bundle())
            assert await contents(store, "anna") == bundle()

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


def test_sweep_removes_what_dead_writers_left_and_nothing_else(s3_url: str) -> None:
    async def scenario() -> None:
        store = raw(s3_url)
        await obstore.put_async(store, "dead/preview.png", b"x")
        await obstore.put_async(store, f"{FOLDER}/dead", b"a dead writer")
        fake = FakeClocks()
        async with S3Store(s3_url, fake.clocks()) as swept:
            await swept.create("ben", bundle())
            died = max(await modified(s3_url, "dead/preview.png"), await modified(s3_url, f"{FOLDER}/dead"))
            young = await put_later_than(s3_url, "young/preview.png", died, 2)
            grace = swept._sweeper._grace_seconds
            fake.now += grace - swept._bucket.age(died)
            await ids(swept)
            await swept._sweeper.wait()
            assert {"dead/preview.png", f"{FOLDER}/dead"} <= keys(s3_url), "swept within the grace period"
            fake.now += 1
            assert swept._bucket.age(died) > grace > swept._bucket.age(young)
            await ids(swept)
            await swept._sweeper.wait()
            assert keys(s3_url) == {"young/preview.png", *(f"ben/{path}" for path in bundle())}

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


def test_create_cancelled_after_its_commit_was_sent_is_undone(s3_url: str, proxy: FaultyProxy) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with S3Store(s3_url) as store:
            creating = asyncio.ensure_future(store.create("anna", bundle()))
            committed = 0

            def cancel_at_commit(kind: str, path: str, headers: dict[str, str]) -> str:
                nonlocal committed
                if kind == "PUT" and "manifest.json" in path:
                    committed += 1
                    loop.call_soon_threadsafe(creating.cancel)
                return "pass"

            proxy.fate = cancel_at_commit  # type: ignore[assignment]
            with pytest.raises(asyncio.CancelledError):
                await creating
            assert committed == 1
            assert await ids(store) == []

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))
    assert keys(s3_url) == set()


def test_create_cancelled_repeatedly_cleans_up_before_it_raises(s3_url: str) -> None:
    async def scenario() -> None:
        started, go_on = asyncio.Event(), asyncio.Event()
        async with S3Store(s3_url) as store:
            stream = paused_stream(started, go_on)
            creating = asyncio.create_task(store.create("anna", {**bundle(), "clip.mp4": stream}))
            await started.wait()
            while not creating.done():
                creating.cancel()
                await asyncio.sleep(0.001)
            assert creating.cancelled()
            assert keys(s3_url) == set()

    asyncio.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))
