"""fetch_bundle: keep copies of a server's bundles in a folder, and fetch what has changed.

    <cache>/<server>/<avatar id>/current.json               the version that was fetched last, and its files
    <cache>/<server>/<avatar id>/<version>/<avatar id>/...  a whole version of the bundle, which never changes
    <cache>/.partial-...                                    a version that is being fetched

A version appears by a rename, so that processes which share a cache see whole versions only. Readers of an old version
go on, because it stays for a while. Files that have not changed are hard links to those of the version before.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import httpx

from ..bundles.manifest import is_avatar_id, is_bundle_path
from ..errors import NotFound, OpenTalkingError, Overloaded
from . import operations
from .operations import FileEntry, ServerError, ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

#: How many files are fetched at the same time.
_CONCURRENT_FILES = 8

#: How often a fetch begins again because the bundle has changed meanwhile, and the pause before it, which grows. A
#: server may give an old version of a file for a second.
_MAX_ATTEMPTS, _PAUSE_SECONDS = 5, 0.2

_TIMEOUT_SECONDS = 30.0

#: A version that was used this recently is not removed: somebody may be reading it.
_KEPT_SECONDS = 600.0

#: What a killed process has left is removed after this time.
_PARTIAL_SECONDS = 3600.0

_CHUNK_BYTES = 1024 * 1024


class _Version(NamedTuple):
    """A version of a bundle in the cache.

    Args:
        folder: the bundle.
        etag: of the server's list of files.
        files: by path.
        checked: when the server was last asked, in seconds since the epoch.
    """

    folder: Path
    etag: str
    files: Mapping[str, FileEntry]
    checked: float


class _Changed(Exception):
    """The bundle has changed while it was fetched."""


def fetch_bundle(
    server: str,
    avatar_id: str,
    cache: str | os.PathLike[str],
    *,
    api_key: str | None = None,
    max_bytes: int = 10 * 1024**3,
) -> Path:
    """Return a folder with the current version of a bundle, fetched from a server if it has changed.

    Without a change, one request is sent. Of a new version, the files that have changed are fetched, several at once.
    The returned folder never changes; call this again for the next version. If the server can't be reached, the version
    that was fetched last is returned, and a warning in the log says how old it is. Processes may share a cache.

    Args:
        server: the address of the server, such as http://avatars:8000.
        avatar_id: the avatar.
        cache: the folder of the cache; made if it is missing.
        api_key: the key, if the server requires one.
        max_bytes: the size of the cache. Beyond it, versions that were not used for the longest time are removed.

    Returns:
        The bundle's folder, named like the avatar: `load_avatar_bundle(folder)` works.

    Raises:
        NotFound: the server has no such avatar.
        ServerUnreachable: the server can't be reached, and the cache has no version.
        ServerError: the server refuses the request.
        OpenTalkingError: the bundle changes faster than it can be fetched, or the cache can't be written.
    """
    if not is_avatar_id(avatar_id):
        raise NotFound(f"there is no avatar {avatar_id!r}")
    home = Path(cache) / quote(server.rstrip("/"), safe="") / avatar_id
    try:
        home.mkdir(parents=True, exist_ok=True)
        bundle = _BundleCache(Path(cache), home, server, avatar_id, api_key)
        folder = bundle.fetch()
        if bundle.has_grown:
            _make_room(Path(cache), max_bytes)
    except OSError as error:
        raise OpenTalkingError(f"the cache {cache} can't be used: {error}") from None
    return folder


class _BundleCache:
    """The versions of one bundle."""

    has_grown = False  #: whether a version was fetched

    def __init__(self, cache: Path, home: Path, server: str, avatar_id: str, api_key: str | None) -> None:
        self._cache = cache
        self._home = home
        self._server = server.rstrip("/")
        self._avatar_id = avatar_id
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=self._server, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
        )

    def fetch(self) -> Path:
        current = self._current()
        with self._http:
            try:
                return self._fetch_changes(current)
            except httpx.HTTPError as error:
                problem: OpenTalkingError = ServerUnreachable(f"{self._server} can't be reached: {error}")
            except ServerError as error:
                if error.status < 500:
                    raise
                problem = error
            except Overloaded as error:
                problem = error
        if current is None:
            raise problem
        age = (time.time() - current.checked) / 60
        log.warning("%s; avatar %s is used as it was %.0f minutes ago", problem, self._avatar_id, age)
        return _used(current.folder)

    def _fetch_changes(self, current: _Version | None) -> Path:
        for attempt in range(_MAX_ATTEMPTS):
            time.sleep(_PAUSE_SECONDS * attempt)
            headers = {"If-None-Match": f'"{current.etag}"'} if current else {}
            answer = self._http.get(f"{operations.avatar_path(self._avatar_id)}/files", headers=headers)
            if answer.status_code == 304 and current is not None:
                self._write_current(current._replace(checked=time.time()))
                return _used(current.folder)
            if answer.status_code != 200:
                raise operations.error_of(answer)
            etag = answer.headers.get("etag", "").removeprefix("W/").strip('"')
            files = {entry.path: entry for entry in operations.parse_files(answer) if is_bundle_path(entry.path)}
            with suppress(_Changed):
                return self._fetch_version(etag, files, current)
        raise OpenTalkingError(f"avatar {self._avatar_id!r} changes faster than it can be fetched; try again")

    def _fetch_version(self, etag: str, files: Mapping[str, FileEntry], current: _Version | None) -> Path:
        """Fetch what `current` lacks, and put the new version in its place. Raise _Changed if a file has changed."""
        name = "".join(char for char in etag if char.isalnum()) or uuid.uuid4().hex
        version = self._home / name
        folder = version / self._avatar_id
        if not folder.is_dir():
            partial = self._cache / f".partial-{uuid.uuid4().hex}"
            try:
                self._fill(partial / self._avatar_id, files, current)
                self.has_grown = True
                with suppress(OSError):  # another process was faster
                    partial.rename(version)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        if not folder.is_dir():
            raise OpenTalkingError(f"the new version of avatar {self._avatar_id!r} can't be put into {version}")
        self._write_current(_Version(folder, etag, files, time.time()))
        return _used(folder)

    def _fill(self, folder: Path, files: Mapping[str, FileEntry], current: _Version | None) -> None:
        folder.mkdir(parents=True)
        missing = []
        for path, entry in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            known = current.files.get(path) if current else None
            if current is None or known != entry or not _linked(current.folder / path, folder / path, entry.size):
                missing.append(entry)
        with ThreadPoolExecutor(_CONCURRENT_FILES) as threads:
            fetching = [threads.submit(self._fetch_file, folder / entry.path, entry) for entry in missing]
            try:
                for fetched in fetching:
                    fetched.result()
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    def _fetch_file(self, target: Path, entry: FileEntry) -> None:
        with self._http.stream("GET", operations.file_path(self._avatar_id, entry.path)) as answer:
            if answer.status_code == 404:
                raise _Changed
            if answer.status_code != 200:
                answer.read()
                raise operations.error_of(answer)
            if answer.headers.get("etag", "").removeprefix("W/").strip('"') != entry.etag:
                raise _Changed
            with target.open("wb") as file:
                for chunk in answer.iter_bytes(_CHUNK_BYTES):
                    file.write(chunk)
                if file.tell() != entry.size:
                    raise _Changed

    def _current(self) -> _Version | None:
        """Return the version that was fetched last, if it is there and whole."""
        try:
            known: dict[str, Any] = json.loads((self._home / "current.json").read_bytes())
            files = {path: FileEntry(path, size, etag) for path, size, etag in known["files"]}
            folder = self._home / known["version"] / self._avatar_id
            version = _Version(folder, known["etag"], files, known["checked"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version if folder.is_dir() else None

    def _write_current(self, version: _Version) -> None:
        known = {
            "version": version.folder.parent.name,
            "etag": version.etag,
            "checked": version.checked,
            "files": [list(entry) for entry in version.files.values()],
        }
        draft = self._home / f".current-{uuid.uuid4().hex}"
        draft.write_text(json.dumps(known))
        draft.replace(self._home / "current.json")


def _linked(source: Path, target: Path, size: int) -> bool:
    """Give a file another name, and return whether that was possible and the file has this size."""
    with suppress(OSError):
        if source.stat().st_size == size:
            os.link(source, target)
            return True
    return False


def _used(folder: Path) -> Path:
    """Note that a version is in use."""
    os.utime(folder.parent)
    return folder


def _make_room(cache: Path, max_bytes: int) -> None:
    """Remove the versions that were not used for the longest time, and what killed processes have left."""
    now = time.time()
    for partial in cache.glob(".partial-*"):
        if _age(partial, now) > _PARTIAL_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)
    versions = sorted((path for path in cache.glob("*/*/*") if path.is_dir()), key=lambda path: _age(path, now))
    total = 0
    counted: set[tuple[int, int]] = set()  # a linked file takes room once
    for version in versions:
        for file in version.rglob("*"):
            with suppress(OSError):
                state = file.stat()
                if (state.st_dev, state.st_ino) not in counted and file.is_file():
                    counted.add((state.st_dev, state.st_ino))
                    total += state.st_size
        if total > max_bytes and _age(version, now) > _KEPT_SECONDS:
            shutil.rmtree(version, ignore_errors=True)


def _age(path: Path, now: float) -> float:
    """Return the seconds since a folder was changed or noted as used."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return 0.0
