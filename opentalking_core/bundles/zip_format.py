"""The ZIP format for uncompressed files of known sizes: the bytes around the files' contents.

The standard library can't tell the length of an archive before it is written. Of the libraries that write archives in
one pass, zipstream-ng takes no asynchronous sources, and stream-zip can't tell the length.

The numbers in comments are sections of PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # 4.3.7
_DESCRIPTOR = struct.Struct("<4s3L")  # 4.3.9
_DESCRIPTOR_64 = struct.Struct("<4sL2Q")
_CENTRAL_HEADER = struct.Struct("<4s4B4H3L5H2L")  # 4.3.12
_END_64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_END_64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END = struct.Struct("<4s4H2LH")  # 4.3.16

_MAX_16 = 0xFFFF  # a field with its largest value means: see the ZIP64 field
_MAX_32 = 0xFFFFFFFF
_VERSION, _VERSION_64 = 20, 45  # that a reader must understand
_UNIX = 3
_FILE_MODE = 0o100644 << 16
_NAMES_ARE_UTF8 = 1 << 11
_HAS_DESCRIPTOR = 1 << 3

#: 1980-01-01 and 2107-12-31 23:59:58, the first and the last time that the format has, in seconds since the epoch.
_FIRST_TIME, _LAST_TIME = 315532800, 4354819198


class ZipEntry(NamedTuple):
    """A file of an archive.

    Args:
        name: its path in the archive, separated by `/`.
        size: in bytes.
        modified: time of the last change, in seconds since the epoch.
        is_streamed: whether its CRC is only known at its end. The CRC then follows the content in a data descriptor.
            Readers that don't seek prefer entries without descriptors.
    """

    name: str
    size: int
    modified: float
    is_streamed: bool


class ZipWriter:
    """Makes the bytes before, between and after the contents of an archive's files."""

    def __init__(self) -> None:
        self._offset = 0
        self._directory: list[bytes] = []

    def begin(self, entry: ZipEntry, crc: int = 0) -> bytes:
        """Return the header of a file; the content has to follow.

        Args:
            entry: the file.
            crc: of its content, if the file is not streamed.
        """
        stored_size, zip64 = (0, b"") if entry.is_streamed else (entry.size, b"")
        if entry.is_streamed and entry.size >= _MAX_32:  # tells that the descriptor has fields of 64 bits
            stored_size, zip64 = _MAX_32, _zip64_field(0, 0)
        name = entry.name.encode()
        return (
            _LOCAL_HEADER.pack(
                b"PK\3\4", _VERSION_64 if zip64 else _VERSION, _flags(entry), 0, *_dos_time(entry.modified),
                crc, stored_size, stored_size, len(name), len(zip64),
            )
            + name
            + zip64
        )  # fmt: skip

    def end(self, entry: ZipEntry, crc: int) -> bytes:
        """Return what follows a file's content: nothing, or the descriptor of a streamed file."""
        self._directory.append(_central_header(entry, crc, self._offset))
        descriptor = b""
        if entry.is_streamed:
            layout = _DESCRIPTOR_64 if entry.size >= _MAX_32 else _DESCRIPTOR
            descriptor = layout.pack(b"PK\7\10", crc, entry.size, entry.size)
        self._offset += len(self.begin(entry)) + entry.size + len(descriptor)
        return descriptor

    def finish(self) -> bytes:
        """Return the end of the archive: the directory of its files."""
        directory = b"".join(self._directory)
        count, size, offset = len(self._directory), len(directory), self._offset
        end_64 = b""
        if count >= _MAX_16 or size >= _MAX_32 or offset >= _MAX_32:
            made_by = _UNIX << 8 | _VERSION_64
            end_64 = _END_64.pack(
                b"PK\6\6", _END_64.size - 12, made_by, _VERSION_64, 0, 0, count, count, size, offset
            ) + _END_64_LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
        short_count = min(count, _MAX_16)
        short_size, short_offset = min(size, _MAX_32), min(offset, _MAX_32)
        end = _END.pack(b"PK\5\6", 0, 0, short_count, short_count, short_size, short_offset, 0)
        return directory + end_64 + end


def archive_size(entries: Iterable[ZipEntry]) -> int:
    """Return the length in bytes of an archive of these files."""
    writer, size = ZipWriter(), 0
    for entry in entries:
        size += len(writer.begin(entry)) + entry.size + len(writer.end(entry, 0))
    return size + len(writer.finish())


def _central_header(entry: ZipEntry, crc: int, offset: int) -> bytes:
    zip64 = _zip64_field(*(value for value in (entry.size, entry.size, offset) if value >= _MAX_32))
    version = _VERSION_64 if zip64 else _VERSION
    name, size = entry.name.encode(), min(entry.size, _MAX_32)
    return (
        _CENTRAL_HEADER.pack(
            b"PK\1\2", version, _UNIX, version, 0, _flags(entry), 0, *_dos_time(entry.modified),
            crc, size, size, len(name), len(zip64), 0, 0, 0, _FILE_MODE, min(offset, _MAX_32),
        )
        + name
        + zip64
    )  # fmt: skip


def _flags(entry: ZipEntry) -> int:
    return _NAMES_ARE_UTF8 | (_HAS_DESCRIPTOR if entry.is_streamed else 0)


def _zip64_field(*values: int) -> bytes:
    """Return the extra field with these values, or nothing without values."""  # 4.5.3
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _dos_time(modified: float) -> tuple[int, int]:
    """Return the time and the date, in UTC: the format has no time zones."""  # 4.4.6
    moment = time.gmtime(min(max(modified, _FIRST_TIME), _LAST_TIME))
    return (
        moment.tm_hour << 11 | moment.tm_min << 5 | moment.tm_sec // 2,
        (moment.tm_year - 1980) << 9 | moment.tm_mon << 5 | moment.tm_mday,
    )
