"""Avatar bundles in an SQLite file. This store works as it stands; replace SQLite with your own backend.

The docstring of `opentalking_core.BundleStore` lists what a store promises, and the tests check these promises.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    InvalidURL,
    ManifestChanged,
    NotFound,
    StoreFull,
    StoreUnavailable,
    check_new_bundle,
    chunk_ranges,
    is_avatar_id,
    is_bundle_path,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
    from typing import Self

_CHUNK_BYTES = 1024 * 1024

_TABLES = """
    CREATE TABLE IF NOT EXISTS bundles (avatar_id TEXT PRIMARY KEY, version TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS files (
        avatar_id TEXT REFERENCES bundles ON DELETE CASCADE,
        path TEXT, content BLOB NOT NULL, etag TEXT NOT NULL, modified REAL NOT NULL,
        PRIMARY KEY (avatar_id, path)
    );
"""


@dataclass(slots=True)
class StoredFile:
    """A file in memory, so that its content stays the same if the bundle is deleted meanwhile."""

    info: FileInfo
    content: bytes

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        for offset, length in chunk_ranges(self.info.size, start, stop, _CHUNK_BYTES):
            yield self.content[offset : offset + length]

    async def read(self) -> bytes:
        return self.content


class ExampleStore:
    """A bundle store in an SQLite file.

    Args:
        url: example:///path/to/file.db

    Raises:
        InvalidURL: the URL names no file.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._file = Path(unquote(urlsplit(url).path))
        if urlsplit(url).netloc or not self._file.name:
            raise InvalidURL(f"{url!r} names no file: it looks like example:///srv/avatars.db")
        self._using = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._connect)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
            self._connection = None

    def _connect(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._file, timeout=30, check_same_thread=False)
            self._connection.executescript("PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON;" + _TABLES)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"{self.url} can't be opened: {error}") from error

    async def scan(self) -> AsyncIterator[BundleVersion]:
        for avatar_id, version in await self._query("SELECT avatar_id, version FROM bundles"):
            yield BundleVersion(avatar_id, version)

    async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        columns = "SELECT path, length(content), etag, modified FROM files WHERE avatar_id = ?"
        rows = await self._query(columns, avatar_id) if is_avatar_id(avatar_id) else []
        if not rows:
            raise NotFound(f"there is no avatar {avatar_id!r}")
        for row in rows:
            yield FileInfo(*row)

    @asynccontextmanager
    async def open(self, avatar_id: str, path: str) -> AsyncIterator[StoredFile]:
        columns = "SELECT content, etag, modified FROM files WHERE avatar_id = ? AND path = ?"
        valid = is_avatar_id(avatar_id) and is_bundle_path(path)
        rows = await self._query(columns, avatar_id, path) if valid else []
        if not rows:
            raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
        content, etag, modified = rows[0]
        yield StoredFile(FileInfo(path, len(content), etag, modified), content)

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """Write a new bundle in one transaction, so that it appears whole or not at all."""
        check_new_bundle(avatar_id, files)
        rows = []
        for path, source in files.items():
            content = source if isinstance(source, bytes) else b"".join([chunk async for chunk in source])
            rows.append((avatar_id, path, content, secrets.token_hex(8), time.time()))
        await asyncio.to_thread(self._insert, avatar_id, rows)

    def _insert(self, avatar_id: str, rows: list[tuple[str, str, bytes, str, float]]) -> None:
        with self._transaction() as database:
            try:
                database.execute("INSERT INTO bundles VALUES (?, ?)", (avatar_id, secrets.token_hex(8)))
            except sqlite3.IntegrityError:
                raise AlreadyExists(f"there is an avatar {avatar_id!r} already") from None
            database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", rows)

    async def delete(self, avatar_id: str) -> None:
        if not is_avatar_id(avatar_id) or not await asyncio.to_thread(self._remove, avatar_id):
            raise NotFound(f"there is no avatar {avatar_id!r}")

    def _remove(self, avatar_id: str) -> int:
        with self._transaction() as database:
            return database.execute("DELETE FROM bundles WHERE avatar_id = ?", (avatar_id,)).rowcount

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        return await asyncio.to_thread(self._replace, avatar_id, manifest, expected_etag)

    def _replace(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        new_etag = secrets.token_hex(8)
        bundle = (avatar_id, MANIFEST)
        change = "UPDATE files SET content = ?, etag = ?, modified = ? WHERE avatar_id = ? AND path = ? AND etag = ?"
        with self._transaction() as database:
            if not database.execute(change, (manifest, new_etag, time.time(), *bundle, expected_etag)).rowcount:
                if database.execute("SELECT 1 FROM bundles WHERE avatar_id = ?", (avatar_id,)).fetchone():
                    raise ManifestChanged(f"the manifest of avatar {avatar_id!r} has changed")
                raise NotFound(f"there is no avatar {avatar_id!r}")
            database.execute("UPDATE bundles SET version = ? WHERE avatar_id = ?", (new_etag, avatar_id))
        return new_etag

    async def _query(self, sql: str, *values: str) -> list[Any]:
        def query() -> list[Any]:
            with self._transaction() as database:
                return database.execute(sql, values).fetchall()

        return await asyncio.to_thread(query)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread at a time, and turn SQLite's exceptions into the host's."""
        if self._connection is None:
            raise RuntimeError("the store has not been entered: use it with `async with`")
        with self._using:
            try:
                with self._connection:
                    yield self._connection
            except sqlite3.Error as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise StoreFull(f"there is no room left for {self.url}") from error
                raise StoreUnavailable(f"{self.url} can't be used: {error}") from error
