"""opentalking-core copy, over any store, and `copy_bundles` with stores that misbehave."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from opentalking_core import AlreadyExists
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.bundles.copying import copy_bundles
from opentalking_core.cli import app
from opentalking_core.testing.stores import manifest_etag, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
    from pathlib import Path

    from opentalking_core import BundleStore, FileReader
    from opentalking_core.bundles.copying import CopyResult
    from opentalking_core.testing.fixtures import PutBundle, StoredFiles

    Files = Mapping[str, bytes | AsyncIterable[bytes]]

BUNDLE = {"manifest.json": b"{}", "preview.png": b"p", "clip.mp4": b"c"}
FILES = {"preview.png": b"p" * 1000, "frames/frame_00000.png": b"f" * 3_000_000, "frames/frame_00001.png": b""}


@pytest.fixture
def unique() -> str:
    """Return a name for memory stores that no other test uses."""
    return uuid.uuid4().hex


async def copy_all(source: BundleStore, target: BundleStore, *ids: str, **options: Any) -> list[CopyResult]:
    return [result async for result in copy_bundles(source, target, ids or ["anna"], **options)]


@pytest.fixture
def copy(store_url: str, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run `copy` from the store to a folder, or back, and return the exit code and the output."""

    def run(*options: str, back: bool = False) -> tuple[int, str]:
        stores = [store_url, str(tmp_path / "copy")]
        result = CliRunner().invoke(app, ["copy", *(stores[::-1] if back else stores), *options])
        return result.exit_code, result.output

    return run


def test_copy_to_folder_and_back_keeps_every_byte(
    copy: Callable[..., tuple[int, str]], put_bundle: PutBundle, stored_files: StoredFiles, tmp_path: Path
) -> None:
    put_bundle("anna", {"metadata": {"hidden": True}}, FILES)
    put_bundle("數位人")
    before = stored_files("anna")
    assert copy("--dry-run")[0] == 0
    assert not (tmp_path / "copy" / "anna").exists()
    code, text = copy()
    assert code == 0
    assert "2 avatars: 2 copied" in text
    assert {path: (tmp_path / "copy" / "anna" / path).read_bytes() for path in before} == before
    assert "2 present" in copy()[1]
    assert "2 present" in copy(back=True)[1]
    assert "1 present" in copy("anna")[1]


def test_copy_leaves_differing_bundle_in_target_alone(
    copy: Callable[..., tuple[int, str]], put_bundle: PutBundle, tmp_path: Path
) -> None:
    put_bundle("anna", files=FILES)
    put_bundle("ben")
    copy()
    preview = tmp_path / "copy" / "anna" / "preview.png"
    preview.write_bytes(b"q" * 1000)
    code, text = copy("nobody", "anna", "ben")
    assert code == 1
    assert "anna: another bundle is there: preview.png has another content" in text
    assert "nobody" in text
    assert "1 present" in text
    assert preview.read_bytes() == b"q" * 1000


def test_copy_that_reads_back_differently_is_deleted() -> None:
    class Corrupting(MemoryStore):
        async def create(self, avatar_id: str, files: Files) -> None:
            await super().create(avatar_id, {**files, "preview.png": b"something else"})

    async def scenario() -> None:
        source, target = MemoryStore("memory://corrupting-source"), Corrupting("memory://corrupting-target")
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target)
        assert result.outcome == "failed"
        assert "preview.png came back with another content" in result.problem
        assert [found async for found in target.scan()] == []

    asyncio.run(scenario())


def test_copy_whose_manifest_is_changed_at_once_stays() -> None:
    class Changing(MemoryStore):
        """A store in which a client changes each new avatar."""

        async def create(self, avatar_id: str, files: Files) -> None:
            await super().create(avatar_id, files)
            await self.replace_manifest(avatar_id, b'{"name": "Bea"}', await manifest_etag(self, avatar_id))

    async def scenario() -> None:
        source, target = MemoryStore("memory://unchanging-source"), Changing("memory://changing-target")
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target)
        assert result.outcome == "failed"
        assert "manifest.json came back with another content" in result.problem
        assert await read(target, "anna", "manifest.json") == b'{"name": "Bea"}'

    asyncio.run(scenario())


def test_copy_of_file_that_shrinks_meanwhile_leaves_nothing() -> None:
    class ShortReader:
        def __init__(self, file: FileReader) -> None:
            self.info = file.info

        async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
            yield b"x"

        async def read(self) -> bytes:
            return b"x"

    class Shrinking(MemoryStore):
        @asynccontextmanager
        async def open(self, avatar_id: str, path: str) -> AsyncIterator[ShortReader]:  # type: ignore[override]
            async with super().open(avatar_id, path) as file:
                yield ShortReader(file)

    async def scenario() -> None:
        source, target = Shrinking("memory://shrinking-source"), MemoryStore("memory://shrinking-target")
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target)
        assert result.outcome == "failed"
        assert "changed while it was copied" in result.problem
        assert [found async for found in target.scan()] == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("in_target", "difference"),
    [
        ({**BUNDLE, "extra.png": b"x"}, "it has extra.png"),
        ({"manifest.json": b"{}", "preview.png": b"p"}, "it has no clip.mp4"),
        ({**BUNDLE, "clip.mp4": b"longer"}, "clip.mp4 has 6 bytes instead of 1"),
        ({**BUNDLE, "clip.mp4": b"d"}, "clip.mp4 has another content"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_copy_reports_how_bundle_in_target_differs(
    unique: str, in_target: dict[str, bytes], difference: str, dry_run: bool
) -> None:
    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), MemoryStore(f"memory://{unique}-target")
        await source.create("anna", BUNDLE)
        await target.create("anna", in_target)
        (result,) = await copy_all(source, target, dry_run=dry_run)
        assert (result.outcome, result.problem) == ("failed", f"another bundle is there: {difference}")
        assert {info.path async for info in target.files("anna")} == set(in_target)

    asyncio.run(scenario())


def test_dry_run_tells_present_bundles_from_new_ones_and_writes_nothing(unique: str) -> None:
    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), MemoryStore(f"memory://{unique}-target")
        await source.create("anna", BUNDLE)
        await source.create("ben", BUNDLE)
        await target.create("anna", BUNDLE)
        results = {result.avatar_id: result for result in await copy_all(source, target, "anna", "ben", dry_run=True)}
        assert {name: result.outcome for name, result in results.items()} == {"anna": "present", "ben": "would copy"}
        assert (results["ben"].files, results["ben"].size) == (3, 4)
        assert [found.avatar_id async for found in target.scan()] == ["anna"]

    asyncio.run(scenario())


class ClaimedStore(MemoryStore):
    """A store in which other writers hold the ids: `create` is refused until it was called `refusals` times."""

    refusals = 0
    created_by_other: Files | None = None

    async def create(self, avatar_id: str, files: Files) -> None:
        if self.refusals:
            self.refusals -= 1
            if self.created_by_other is not None:
                await super().create(avatar_id, self.created_by_other)
            raise AlreadyExists(f"avatar {avatar_id!r} is being written by another process")
        await super().create(avatar_id, files)


def test_copy_retries_until_claim_of_dead_writer_expires(unique: str) -> None:
    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), ClaimedStore(f"memory://{unique}-target")
        target.refusals = 3
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target, poll_seconds=0)
        assert (result.outcome, result.problem) == ("copied", "")

    asyncio.run(scenario())


def test_copy_fails_if_claim_outlasts_the_wait(unique: str) -> None:
    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), ClaimedStore(f"memory://{unique}-target")
        target.refusals = 1000
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target, wait_seconds=-1, poll_seconds=0)
        assert result.outcome == "failed"
        assert "being written by another process" in result.problem
        assert target.refusals == 999

    asyncio.run(scenario())


@pytest.mark.parametrize(("by_other", "outcome"), [(BUNDLE, "present"), ({"manifest.json": b"{1}"}, "failed")])
def test_copy_compares_with_bundle_that_another_writer_created_meanwhile(
    unique: str, by_other: Files, outcome: str
) -> None:
    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), ClaimedStore(f"memory://{unique}-target")
        target.refusals, target.created_by_other = 1, by_other
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target, wait_seconds=0, poll_seconds=0)
        assert result.outcome == outcome

    asyncio.run(scenario())


def test_copy_of_file_name_that_target_refuses_is_a_failure(unique: str) -> None:
    class Picky(MemoryStore):
        async def create(self, avatar_id: str, files: Files) -> None:
            raise ValueError("can't hold a file of this name")

    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), Picky(f"memory://{unique}-target")
        await source.create("anna", BUNDLE)
        (result,) = await copy_all(source, target)
        assert (result.outcome, result.problem) == ("failed", "can't hold a file of this name")

    asyncio.run(scenario())


def test_copy_closed_early_stops_remaining_bundles(unique: str) -> None:
    class Slow(MemoryStore):
        async def create(self, avatar_id: str, files: Files) -> None:
            await asyncio.sleep(0)
            await super().create(avatar_id, files)

    async def scenario() -> None:
        source, target = MemoryStore(f"memory://{unique}-source"), Slow(f"memory://{unique}-target")
        names = [f"avatar-{n}" for n in range(50)]
        for name in names:
            await source.create(name, BUNDLE)
        async with aclosing(copy_bundles(source, target, names, at_once=1)) as copying:
            async for _ in copying:
                break
        copied = [found async for found in target.scan()]
        await asyncio.sleep(0.01)
        assert [found async for found in target.scan()] == copied
        assert len(copied) < 50

    asyncio.run(scenario())
