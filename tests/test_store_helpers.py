"""The helpers that bundle stores share, above all what they do when they are cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from opentalking_core import MANIFEST, check_new_bundle, chunk_ranges, concurrently, finish

if TYPE_CHECKING:
    from collections.abc import Iterator


# -- check_new_bundle


def test_check_new_bundle_accepts_mapping_with_manifest() -> None:
    check_new_bundle("anna", {MANIFEST: b"{}", "frames/frame_00000.png": b"x"})


@pytest.mark.parametrize(
    ("avatar_id", "files"),
    [
        ("../anna", [MANIFEST]),
        ("", [MANIFEST]),
        ("anna", []),
        ("anna", ["preview.png"]),
        ("anna", [MANIFEST, "../preview.png"]),
        ("anna", [MANIFEST, "/etc/passwd"]),
        ("anna", [MANIFEST, ".hidden"]),
    ],
)
def test_check_new_bundle_rejects_malformed_bundle(avatar_id: str, files: list[str]) -> None:
    with pytest.raises(ValueError, match="not a bundle") as caught:
        check_new_bundle(avatar_id, files)
    assert all(repr(part) in str(caught.value) for part in (avatar_id, *files))


# -- chunk_ranges


@pytest.mark.parametrize(
    ("size", "start", "stop", "expected"),
    [
        (10, 0, None, [(0, 4), (4, 4), (8, 2)]),
        (8, 0, None, [(0, 4), (4, 4)]),
        (10, 3, 9, [(3, 4), (7, 2)]),
        (10, 3, 5, [(3, 2)]),
        (10, 8, 100, [(8, 2)]),
        (10, 10, None, []),
        (10, 12, None, []),
        (10, 5, 5, []),
        (0, 0, None, []),
    ],
)
def test_chunk_ranges_cover_requested_bytes(
    size: int, start: int, stop: int | None, expected: list[tuple[int, int]]
) -> None:
    assert list(chunk_ranges(size, start, stop, 4)) == expected


# -- finish


def test_finish_returns_result() -> None:
    async def work() -> str:
        return "done"

    assert asyncio.run(finish(work())) == "done"


def test_finish_raises_exception_of_work() -> None:
    async def work() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        asyncio.run(finish(work()))


def test_finish_cancelled_repeatedly_waits_then_raises_cancellation() -> None:
    async def scenario() -> None:
        release, done = asyncio.Event(), False

        async def work() -> None:
            nonlocal done
            await release.wait()
            done = True

        finishing = asyncio.create_task(finish(work()))
        for _ in range(5):
            await asyncio.sleep(0)
            finishing.cancel()
            await asyncio.sleep(0.001)
            assert not finishing.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await finishing
        assert done

    asyncio.run(scenario())


def test_finish_cancelled_while_work_fails_raises_cancellation_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        release = asyncio.Event()

        async def work() -> None:
            await release.wait()
            raise OSError("full")

        finishing = asyncio.create_task(finish(work()))
        await asyncio.sleep(0)
        finishing.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await finishing

    asyncio.run(scenario())
    assert not caplog.records


def test_finish_raises_cancellation_if_work_is_cancelled() -> None:
    async def scenario() -> None:
        work = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(0.001, work.cancel)
        with pytest.raises(asyncio.CancelledError):
            await finish(work)

    asyncio.run(scenario())


def test_finish_inside_timeout_becomes_timeout_error() -> None:
    async def scenario() -> None:
        done = False

        async def work() -> None:
            nonlocal done
            await asyncio.sleep(0.05)
            done = True

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await finish(work())
        assert done

    asyncio.run(scenario())


# -- concurrently


@pytest.mark.parametrize("limit", [0, -1])
def test_concurrently_rejects_limit_below_one(limit: int) -> None:
    async def work(item: int) -> None:
        raise AssertionError(item)

    with pytest.raises(ValueError, match=f"limit is {limit}"):
        asyncio.run(concurrently([1], work, limit))


def test_concurrently_calls_function_once_per_item_and_keeps_limit() -> None:
    seen: list[int] = []
    running = most = 0

    async def function(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        seen.append(item)

    asyncio.run(concurrently(range(10), function, 3))
    assert sorted(seen) == list(range(10))
    assert most == 3


def test_concurrently_advances_iterable_only_when_a_call_has_ended() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(5):
            drawn += 1
            yield item

    async def function(item: int) -> None:
        await asyncio.sleep(0)
        assert drawn <= item + 2

    asyncio.run(concurrently(items(), function, 2))
    assert drawn == 5


def test_concurrently_accepts_no_items() -> None:
    async def function(item: int) -> None:
        raise AssertionError(item)

    asyncio.run(concurrently([], function, 4))


def test_concurrently_raises_first_exception_and_cancels_other_calls() -> None:
    started: list[int] = []
    cleaned: list[int] = []

    async def function(item: int) -> None:
        started.append(item)
        if item == 1:
            raise OSError("full")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(item)

    async def scenario() -> None:
        with pytest.raises(OSError, match="full"):
            await concurrently(range(100), function, 3)
        assert cleaned == [item for item in started if item != 1]

    asyncio.run(scenario())
    assert len(started) <= 3


def test_concurrently_cancelled_repeatedly_waits_until_calls_have_cleaned_up() -> None:
    cleaned: list[int] = []

    async def function(item: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            cleaned.append(item)

    async def scenario() -> None:
        working = asyncio.create_task(concurrently(range(10), function, 3))
        await asyncio.sleep(0.001)
        for _ in range(3):
            working.cancel()
            await asyncio.sleep(0.001)
        with pytest.raises(asyncio.CancelledError):
            await working
        assert sorted(cleaned) == [0, 1, 2]

    asyncio.run(scenario())
