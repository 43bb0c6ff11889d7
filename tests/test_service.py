"""AvatarService: what it asks of a store, and the ids that it gives to new avatars."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from opentalking_core.errors import NotFound, Overloaded, StoreUnavailable
from opentalking_core.metrics import Metrics
from opentalking_core.store_connection import StoreConnection
from opentalking_core.upload_slots import UploadSlots

from .helpers.service import opened_service
from .helpers.stores import WatchedStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping
    from typing import Self

    from opentalking_core.bundles.store import FileReader
    from opentalking_core.service import AvatarService

#: The moment of the API document's example.
MOMENT = datetime(2026, 5, 13, 15, 30, 12, 1000, UTC)

NOT_IDS = ("", ".", "..", "../anna", "anna/../bert", "anna/", ".anna", "anna\0", "anna\n", "x" * 5000, "\ud800")


class RecordingStore(WatchedStore):
    """A store that records every id that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    @contextlib.asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[FileReader]:
        self.asked.append(avatar_id)
        async with super().open(avatar_id, path) as file:
            yield file

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        self.asked.append(avatar_id)
        await super().create(avatar_id, files)

    async def delete(self, avatar_id: str) -> None:
        self.asked.append(avatar_id)
        await super().delete(avatar_id)

    async def presigned_url(self, avatar_id: str, path: str, seconds: float) -> str:
        self.asked.append(avatar_id)
        raise NotFound(path)


async def read_everything(service: AvatarService, avatar_id: str, portrait: bytes) -> None:
    """Ask for an avatar in every way. Each must end in NotFound."""
    for open_file in (service.manifest, service.preview):
        with pytest.raises(NotFound):
            async with open_file(avatar_id):
                pass
    for call in (service.preview_url(avatar_id), service.thumbnail(avatar_id, 64, "PNG"), service.delete(avatar_id)):
        with pytest.raises(NotFound):
            await call
    if avatar_id:  # a blank base is a missing field
        with pytest.raises(NotFound):
            await service.create("Alice", avatar_id, portrait)


def test_store_is_never_asked_for_malformed_ids(portrait: bytes) -> None:
    async def main() -> None:
        store = RecordingStore()
        async with opened_service(store.url, {"recording": store}, preview_redirect=True) as service:
            for avatar_id in NOT_IDS:
                await read_everything(service, avatar_id, portrait)
            assert store.asked == []
            await read_everything(service, "anna", portrait)
            assert set(store.asked) == {"anna"}

    asyncio.run(main())


def test_create_in_one_millisecond_gives_each_avatar_its_own_id(store_url: str, base: str, portrait: bytes) -> None:
    async def main() -> None:
        async with opened_service(store_url, now=lambda: MOMENT) as service:
            first = await service.create("Alice", base, portrait)
            assert first.id == "custom-alice-20260513-153012-001"
            more = await asyncio.gather(*(service.create("Alice", base, portrait) for _ in range(16)))
            made = {summary.id for summary in more}
            assert made == {f"custom-alice-20260513-153012-{n:03d}" for n in range(2, 18)}
            listed = {avatar["id"] for avatar in json.loads((await service.listing()).body)}
            assert made < listed
            assert (await service.create("Bob", base, portrait)).id == "custom-bob-20260513-153012-001"

    asyncio.run(main())


def test_create_gives_up_if_every_id_is_taken(portrait: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opentalking_core.service.MAX_ID_ATTEMPTS", 3)

    async def main() -> None:
        store = WatchedStore()
        await put_base(store)
        async with opened_service(store.url, {"watched": store}, now=lambda: MOMENT) as service:
            for _ in range(3):
                await service.create("Alice", "base", portrait)
            with pytest.raises(Overloaded, match="try again"):
                await service.create("Alice", "base", portrait)
            await service.create("Bob", "base", portrait)

    asyncio.run(main())


async def put_base(store: WatchedStore) -> None:
    await asyncio.to_thread(store.put, "base", model_type="wav2lip")


class FlakyStore(WatchedStore):
    """A store that can't be entered for the first few times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.entered = 0

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        self.entered += 1
        if self.entered <= self.failures:
            raise StoreUnavailable(f"failure {self.entered}", retry_after=7)
        return self


def test_connection_shares_failure_among_waiting_calls() -> None:
    connected: list[bool] = []

    async def main() -> None:
        store = FlakyStore(failures=1)
        connection = StoreConnection(store, lambda: connected.append(True))
        failures = await asyncio.gather(*(connection.open() for _ in range(5)), return_exceptions=True)
        assert [str(failure) for failure in failures] == ["failure 1"] * 5
        assert {failure.retry_after for failure in failures if isinstance(failure, StoreUnavailable)} == {7}
        assert (store.entered, connection.is_open, connected) == (1, False, [])
        await asyncio.gather(*(connection.open() for _ in range(5)))
        assert (store.entered, connection.is_open, connected) == (2, True, [True])

    asyncio.run(main())


def test_upload_slots_refuse_beyond_limit_and_come_back() -> None:
    metrics = Metrics()
    slots = UploadSlots(2, metrics.uploads)
    with slots.take():
        with contextlib.suppress(ZeroDivisionError), slots.take():
            assert b"opentalking_uploads_running 2.0" in metrics.exposition()
            with pytest.raises(Overloaded, match="2 uploads"), slots.take():
                pass
            raise ZeroDivisionError
        with slots.take():
            pass
    assert b"opentalking_uploads_running 0.0" in metrics.exposition()
