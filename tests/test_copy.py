"""opentalking-core copy, over any store: what it copies, takes up again, and refuses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.bundles.copying import copy_bundles
from opentalking_core.cli import app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from opentalking_core.bundles.store import FileReader
    from opentalking_core.testing.fixtures import PutBundle, StoredFiles

FILES = {"preview.png": b"p" * 1000, "frames/frame_00000.png": b"f" * 3_000_000, "frames/frame_00001.png": b""}


@pytest.fixture
def copy(store_url: str, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs `copy` from the store to a folder, or the other way round; its exit code and what it printed."""

    def run(*options: str, back: bool = False) -> tuple[int, str]:
        stores = [store_url, str(tmp_path / "copy")]
        result = CliRunner().invoke(app, ["copy", *(stores[::-1] if back else stores), *options])
        return result.exit_code, result.output

    return run


def test_there_and_back_is_identical(
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


def test_a_bundle_that_differs_is_left_alone(
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


def test_what_comes_back_other_than_it_was_sent_is_deleted() -> None:
    class Forgetful(MemoryStore):
        async def create(self, avatar_id: str, files: object) -> None:
            await super().create(avatar_id, {**files, "preview.png": b"something else"})  # type: ignore[dict-item]

    async def scenario() -> None:
        source, target = MemoryStore("memory://copy-source"), Forgetful("memory://copy-target")
        await source.create("anna", {"manifest.json": b"{}", "preview.png": b"p", "clip.mp4": b"c"})
        (result,) = [result async for result in copy_bundles(source, target, ["anna"])]
        assert result.outcome == "failed"
        assert [found async for found in target.scan()] == []

    asyncio.run(scenario())


def test_a_source_that_is_cut_short_leaves_nothing() -> None:
    class Short:
        def __init__(self, file: FileReader) -> None:
            self.info = file.info

        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"x"

    class Cut(MemoryStore):
        def open(self, avatar_id: str, path: str) -> object:  # type: ignore[override]
            opened = super().open(avatar_id, path)

            class Opened:
                async def __aenter__(self) -> Short:
                    return Short(await opened.__aenter__())

                async def __aexit__(self, *exc: object) -> None:
                    await opened.__aexit__(None, None, None)

            return Opened()

    async def scenario() -> None:
        source, target = Cut("memory://cut-source"), MemoryStore("memory://cut-target")
        await source.create("anna", {"manifest.json": b"{}", "clip.mp4": b"12345"})
        (result,) = [result async for result in copy_bundles(source, target, ["anna"])]
        assert result.outcome == "failed"
        assert "it changed meanwhile" in result.problem
        assert [found async for found in target.scan()] == []

    asyncio.run(scenario())
