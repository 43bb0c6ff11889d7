"""ZipWriter: archives that other programs can read, of any size, and whose length is known in advance."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from opentalking_core.bundles.zip_format import ZipEntry, ZipWriter, archive_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GiB = 1024**3
CONTENTS = {"anna/manifest.json": b"{}", "anna/空的.bin": b"", "anna/frames/帧 0.png": b"\x89PNG" * 999}


def entries(contents: Mapping[str, bytes], is_streamed: bool, modified: float = 1_700_000_000.7) -> list[ZipEntry]:
    return [ZipEntry(name, len(content), modified, is_streamed) for name, content in contents.items()]


def archive(contents: Mapping[str, bytes], is_streamed: bool, modified: float = 1_700_000_000.7) -> bytes:
    writer, whole = ZipWriter(), b""
    for entry in entries(contents, is_streamed, modified):
        content = contents[entry.name]
        crc = zlib.crc32(content)
        whole += writer.begin(entry, 0 if is_streamed else crc) + content + writer.end(entry, crc)
    return whole + writer.finish()


@pytest.mark.parametrize("is_streamed", [False, True])
def test_archive_has_the_files_and_the_announced_size(is_streamed: bool) -> None:
    whole = archive(CONTENTS, is_streamed)
    assert len(whole) == archive_size(entries(CONTENTS, is_streamed))
    with zipfile.ZipFile(io.BytesIO(whole)) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == CONTENTS
        for info in found.infolist():
            assert info.date_time == (2023, 11, 14, 22, 13, 20)
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.external_attr >> 16 == 0o100644


@pytest.mark.parametrize("is_streamed", [False, True])
def test_archive_is_unpacked_by_unzip(tmp_path: Path, is_streamed: bool) -> None:
    if (unzip := shutil.which("unzip")) is None:
        pytest.skip("unzip is not installed")
    (file := tmp_path / "a.zip").write_bytes(archive({"anna/a": b"a" * 99, "anna/b/c": b""}, is_streamed))
    subprocess.run([unzip, "-q", file, "-d", tmp_path], check=True)
    assert (tmp_path / "anna/a").read_bytes() == b"a" * 99
    assert (tmp_path / "anna/b/c").read_bytes() == b""


@pytest.mark.parametrize(
    ("modified", "shown"),
    [
        (-1e12, (1980, 1, 1, 0, 0, 0)),
        (0.0, (1980, 1, 1, 0, 0, 0)),
        (1e12, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_time_that_the_format_lacks_becomes_the_nearest(modified: float, shown: tuple[int, ...]) -> None:
    with zipfile.ZipFile(io.BytesIO(archive({"a": b"a"}, False, modified))) as found:
        assert found.infolist()[0].date_time == shown


@pytest.mark.parametrize("size", [4 * GiB - 2, 4 * GiB - 1, 4 * GiB, 9 * GiB])
def test_archive_of_a_huge_file_is_readable(tmp_path: Path, size: int) -> None:
    """The huge file is a hole in a sparse file, so that nobody has to write it."""
    huge = ZipEntry("anna/source/video.mp4", size, 0.0, True)
    small = ZipEntry("anna/z.json", 2, 0.0, False)
    writer = ZipWriter()
    with (tmp_path / "a.zip").open("wb") as file:
        header = writer.begin(huge)
        assert (b"\1\0\x10\0" in header) == (size >= 4 * GiB - 1), "readers that don't seek need the field of ZIP64"
        file.write(header)
        file.seek(size, io.SEEK_CUR)
        file.write(writer.end(huge, 1))
        crc = zlib.crc32(b"{}")
        file.write(writer.begin(small, crc) + b"{}" + writer.end(small, crc) + writer.finish())
        assert file.tell() == archive_size([huge, small])
    with zipfile.ZipFile(tmp_path / "a.zip") as found:
        assert [(info.filename, info.file_size) for info in found.infolist()] == [
            ("anna/source/video.mp4", size),
            ("anna/z.json", 2),
        ]
        assert found.read("anna/z.json") == b"{}"
        with found.open("anna/source/video.mp4") as content:
            assert content.read(10) == bytes(10)


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_archive_of_many_files_is_readable(count: int) -> None:
    writer, parts = ZipWriter(), []
    for number in range(count):
        entry = ZipEntry(f"{number}", 0, 0.0, False)
        parts.append(writer.begin(entry) + writer.end(entry, 0))
    end = writer.finish()
    assert (b"PK\6\6" in end) == (count >= 65_535)
    with zipfile.ZipFile(io.BytesIO(b"".join([*parts, end]))) as found:
        assert len(found.infolist()) == count
        assert found.infolist()[-1].filename == f"{count - 1}"
