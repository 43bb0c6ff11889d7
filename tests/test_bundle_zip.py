"""BundleZip: one version of a bundle or an error, reading ahead within limits, and nothing left after an end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import uuid
import zipfile
from typing import TYPE_CHECKING

import pytest

from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.bundles.bundle_zip import MAX_WHOLE_BYTES, BundleZip
from opentalking_core.errors import NotFound, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from opentalking_core.bundles.store import FileInfo, FileReader

LARGE = b"video" * (MAX_WHOLE_BYTES // 4)
FILES = {"manifest.json": b"{}", "a.png": b"a" * 1000, "source/video.mp4": LARGE, "z.txt": b"z"}


class Bundle:
    """A bundle in memory that a test can change at any time, and that counts the files that are open."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.store = MemoryStore(f"memory://{uuid.uuid4()}")
        self.contents = files
        self.opened: list[str] = []
        self.open_now: set[str] = set()
        self.most_open_bytes = 0
        #: files that can't be opened before this is set
        self.held: dict[str, asyncio.Event] = {}

    async def list_files(self) -> Sequence[FileInfo]:
        return sorted([info async for info in self.store.files("anna")], key=lambda info: info.path)

    @contextlib.asynccontextmanager
    async def open_file(self, path: str) -> AsyncIterator[FileReader]:
        self.opened.append(path)
        self.open_now.add(path)
        sizes = [len(self.contents[path]) for path in self.open_now]
        self.most_open_bytes = max(self.most_open_bytes, sum(sizes))
        try:
            if path in self.held:
                await self.held[path].wait()
            async with self.store.open("anna", path) as file:
                yield file
        finally:
            self.open_now.discard(path)

    async def archive(self) -> BundleZip:
        await self.store.create("anna", self.contents)
        return BundleZip("anna", await self.list_files(), self.open_file, self.list_files)

    async def replace(self) -> None:
        await self.store.delete("anna")
        await self.store.create("anna", self.contents)


def is_archive(data: bytes) -> bool:
    return zipfile.is_zipfile(io.BytesIO(data))


def test_archive_is_the_bundle_in_the_announced_size() -> None:
    async def read() -> tuple[BundleZip, bytes]:
        archive = await Bundle(FILES).archive()
        return archive, b"".join([chunk async for chunk in archive.chunks()])

    archive, data = asyncio.run(read())
    assert len(data) == archive.size
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == {f"anna/{p}": c for p, c in FILES.items()}


@pytest.mark.parametrize("change", ["replace", "delete"])
@pytest.mark.parametrize("after_bytes", [1, 1000, len(LARGE), len(LARGE) + 1000])
def test_bundle_that_changes_meanwhile_gives_no_archive(after_bytes: int, change: str) -> None:
    async def read() -> None:
        bundle, data = Bundle(FILES), b""
        archive = await bundle.archive()
        try:
            async for chunk in archive.chunks():
                if len(data) < after_bytes <= len(data) + len(chunk):
                    await (bundle.replace() if change == "replace" else bundle.store.delete("anna"))
                data += chunk
        finally:
            assert len(data) >= after_bytes
            assert len(data) < archive.size
            assert not is_archive(data)
            assert bundle.open_now == set()

    with pytest.raises((StoreUnavailable, NotFound), match="anna"):
        asyncio.run(read())


def test_file_of_another_version_ends_the_archive_before_the_file() -> None:
    async def read() -> None:
        bundle, data = Bundle(FILES), b""
        await bundle.store.create("anna", FILES)
        files = await bundle.list_files()
        await bundle.replace()

        async def list_old_files() -> Sequence[FileInfo]:
            return files

        try:
            async for chunk in BundleZip("anna", files, bundle.open_file, list_old_files).chunks():
                data += chunk
        finally:
            assert data == b""

    with pytest.raises(StoreUnavailable, match=r"a\.png of avatar 'anna' changed"):
        asyncio.run(read())


def test_small_files_are_read_ahead_within_limits() -> None:
    files = {"manifest.json": b"{}"} | {f"frames/{number:03}.png": bytes(MAX_WHOLE_BYTES) for number in range(20)}

    async def read() -> Bundle:
        bundle = Bundle(files)
        archive = await bundle.archive()
        bundle.held = {path: asyncio.Event() for path in files}
        chunks = archive.chunks()
        reading = asyncio.ensure_future(anext(chunks))
        while len(bundle.open_now) < 4:  # four of 1 MiB  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bundle.open_now) == 4
        for event in bundle.held.values():
            event.set()
        await reading
        async for _ in chunks:
            pass
        return bundle

    bundle = asyncio.run(read())
    assert bundle.most_open_bytes == 4 * MAX_WHOLE_BYTES
    assert sorted(bundle.opened) == sorted(files)


def test_archive_that_is_closed_early_leaves_no_file_open() -> None:
    async def read() -> Bundle:
        bundle = Bundle({**FILES, "b.png": b"b"})
        bundle.held["b.png"] = asyncio.Event()
        chunks = (await bundle.archive()).chunks()
        await anext(chunks)
        await chunks.aclose()
        assert len(asyncio.all_tasks()) == 1
        return bundle

    assert asyncio.run(read()).open_now == set()


def test_etag_differs_whenever_a_file_does() -> None:
    async def infos() -> Sequence[FileInfo]:
        bundle = Bundle(FILES)
        await bundle.archive()
        return await bundle.list_files()

    files = asyncio.run(infos())

    def etag(files: Sequence[FileInfo]) -> str:
        bundle = Bundle({})
        return BundleZip("anna", files, bundle.open_file, bundle.list_files).etag

    def changed(**changes: object) -> Sequence[FileInfo]:
        return [dataclasses.replace(files[0], **changes), *files[1:]]  # type: ignore[arg-type]

    versions = [files, files[1:], changed(path="b"), changed(size=1), changed(etag="x"), changed(modified=1.0)]
    assert etag(files) == etag(list(files))
    assert len({etag(version) for version in versions}) == len(versions)
