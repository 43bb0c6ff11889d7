"""Turn the metadata that fsspec's file systems report, each in its own way, into `FileInfo`."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentalking_core import FileInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Keys whose values change with a file's content, in lower case. Times of access are not among them.
_VERSION_KEYS = {
    "etag", "md5hash", "crc32c", "generation", "checksum", "content_md5", "mtime", "last_modified", "updated",
    "lastmodified", "modified", "modify", "created", "ino", "size",
}  # fmt: skip
_TIME_KEYS = ("mtime", "last_modified", "LastModified", "updated", "modified", "modify", "created")


def etag(info: Mapping[str, Any]) -> str:
    """Return a digest of everything in `info` that tells versions of a file apart.

    A listing may write the same metadata in another way than the information about a single file: a time as a number,
    or a key in another case.
    """
    found = {key.lower(): _seconds(value) for key, value in info.items() if key.lower() in _VERSION_KEYS}
    version = sorted((key, str(value)) for key, value in found.items())
    return hashlib.sha256(repr(version).encode()).hexdigest()[:32]


def file_info(path: str, info: Mapping[str, Any]) -> FileInfo:
    """Return the FileInfo of the file `path` of a bundle. A file without a time counts as modified now."""
    modified = next((info[key] for key in _TIME_KEYS if info.get(key) is not None), None)
    if isinstance(modified, str):
        with suppress(ValueError):
            modified = datetime.fromisoformat(modified)
    modified = _seconds(modified)
    seconds = float(modified) if isinstance(modified, int | float) else time.time()
    return FileInfo(path, int(info.get("size") or 0), etag(info), seconds)


def _seconds(value: object) -> object:
    """Return a time as seconds since the epoch, and any other value as it is."""
    return value.timestamp() if isinstance(value, datetime) else value
