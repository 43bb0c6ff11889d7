"""Work on avatars in a bundle store or through a server, with the same results."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from ..bundles.manifest import AvatarManifest, AvatarSummary, is_avatar_id
from ..bundles.reading import read_manifest
from ..bundles.store_helpers import concurrently
from ..errors import InvalidManifest, NotFound, OpenTalkingError
from ..portraits.formats import foreign_format
from .output import load_host, progress, read_settings, warn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ..bundles.store import BundleStore
    from ..client import AvatarClient, UploadProgress
    from ..host.host import PluginHost
    from ..service import AvatarService
    from ..source_intake import WorkProgress
    from .output import SourceProgress

T = TypeVar("T")

#: How many files of a store are read at the same time.
_CONCURRENT_READS = 16

#: How much of a file is read to tell a portrait from a video.
_HEAD_BYTES = 1024

#: The first bytes of JPEG, PNG and WebP.
_PICTURE_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"RIFF")

_VIDEO_SUFFIXES = frozenset({".mkv", ".mov", ".mp4", ".webm"})


class Avatars(Protocol):
    """The avatars of a store or of a server. Methods raise OpenTalkingError with a sentence for the user."""

    def summaries(self) -> list[AvatarSummary]:
        """Return the avatars that are not hidden, by id."""
        ...

    def manifest(self, avatar_id: str) -> AvatarManifest:
        """Return one avatar's manifest."""
        ...

    def create(self, name: str, base: str, source: Path, shown: SourceProgress) -> AvatarSummary:
        """Make an avatar from a portrait or a video."""
        ...

    def change(self, avatar_id: str, patch: dict[str, Any]) -> AvatarManifest:
        """Change a custom avatar by a JSON merge patch, and return its new manifest."""
        ...

    def delete(self, avatar_id: str) -> None:
        """Delete a custom avatar."""
        ...

    def check(self, source: Path, shown: SourceProgress) -> dict[str, Any]:
        """Check a portrait or a video without making an avatar of it; return the body of POST /avatars/check."""
        ...


@contextlib.contextmanager
def open_avatars(store: str | None, server: str | None, api_key: str | None) -> Iterator[Avatars]:
    """Open the avatars that a command's options name: --store, else --server, else the environment, else ./avatars.

    Raises:
        OpenTalkingError: they can't be opened.
    """
    if store and server:
        raise OpenTalkingError("--store and --server exclude each other: give one of them")
    server = server or (None if store else os.environ.get("OPENTALKING_SERVER"))
    if server:
        from ..client import AvatarClient, ServerError

        with AvatarClient(server, api_key or os.environ.get("OPENTALKING_API_KEY")) as client:
            try:
                yield OnServer(client)
            except ServerError as error:
                if error.status == 401:
                    raise OpenTalkingError(f"{error} (--api-key or OPENTALKING_API_KEY)") from None
                raise
    else:
        with asyncio.Runner() as runner:
            avatars = InStore(store, runner)
            try:
                yield avatars
            finally:
                runner.run(avatars.close())


def existing_store(host: PluginHost, location: str) -> str:
    """Return `location`. Refuse a missing folder: the store would make it, and a typo would look like no avatars.

    Raises:
        NotFound: there is no such folder.
        InvalidURL: there is no plugin for folders either.
    """
    if (folder := folder_of(location)) is not None and not folder.is_dir():
        host.open_bundle_store(location)
        command = f"opentalking-core demo --store {shlex.quote(str(folder))}"
        raise NotFound(f"there is no folder {folder}; `{command}` makes one with two avatars")
    return location


def folder_of(location: str) -> Path | None:
    """Return the folder that a store's path or URL names, or None if it names no folder."""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return None if "://" in location else Path(location).expanduser()


async def read_each(
    store: BundleStore, read: Callable[[BundleStore, str], Awaitable[T]], report: Callable[[int, int], None]
) -> dict[str, T | OpenTalkingError]:
    """Read every bundle of an opened store, several at once.

    Args:
        store: entered.
        read: reads one, given its id.
        report: called after each bundle with the number of bundles that were read, and the number of all.

    Returns:
        what `read` returned, or the NotFound or InvalidManifest that `read` raised, by id.
    """
    ids = sorted([bundle.avatar_id async for bundle in store.scan()])
    results: dict[str, T | OpenTalkingError] = {}

    async def read_one(avatar_id: str) -> None:
        try:
            results[avatar_id] = await read(store, avatar_id)
        except (InvalidManifest, NotFound) as error:
            results[avatar_id] = error
        report(len(results), len(ids))

    await concurrently(ids, read_one, _CONCURRENT_READS)
    return dict(sorted(results.items()))


class InStore:
    """The avatars of a bundle store, processed in this process.

    Args:
        location: the store's folder or URL; the configured one if None.
        runner: the event loop for all calls.
    """

    def __init__(self, location: str | None, runner: asyncio.Runner) -> None:
        settings = read_settings()
        if location:
            settings = settings.model_copy(update={"avatars_dir": location})
        # A command has one picture, so a second worker process would be idle.
        self._settings = settings.model_copy(update={"portrait_workers": min(settings.portrait_workers, 1)})
        self._host = load_host(settings)
        self._runner = runner
        self._service: AvatarService | None = None

    def summaries(self) -> list[AvatarSummary]:
        with progress("reading manifests") as report:
            found = self._runner.run(self._manifests(report))
        for avatar_id, manifest in found.items():
            if isinstance(manifest, InvalidManifest):
                warn(f"{avatar_id} is left out: {manifest}")
        return [
            manifest.summary(avatar_id)
            for avatar_id, manifest in found.items()
            if isinstance(manifest, AvatarManifest) and not manifest.is_hidden
        ]

    async def _manifests(self, report: Callable[[int, int], None]) -> dict[str, AvatarManifest | OpenTalkingError]:
        async with self._store() as store:
            return await read_each(store, read_manifest, report)

    def manifest(self, avatar_id: str) -> AvatarManifest:
        return self._runner.run(self._manifest(avatar_id))

    async def _manifest(self, avatar_id: str) -> AvatarManifest:
        if not is_avatar_id(avatar_id):
            raise NotFound(f"there is no avatar {avatar_id!r}")
        async with self._store() as store:
            try:
                return await read_manifest(store, avatar_id)
            except NotFound:
                raise NotFound(f"there is no avatar {avatar_id!r} in {store.url}") from None

    def create(self, name: str, base: str, source: Path, shown: SourceProgress) -> AvatarSummary:
        existing_store(self._host, self._settings.avatars_dir)
        content = _video_or_bytes(source)
        return self._runner.run(self._opened_service().create(name, base, content, _frames_shown(shown)))

    def change(self, avatar_id: str, patch: dict[str, Any]) -> AvatarManifest:
        existing_store(self._host, self._settings.avatars_dir)
        return self._runner.run(self._opened_service().change(avatar_id, patch)).manifest

    def delete(self, avatar_id: str) -> None:
        existing_store(self._host, self._settings.avatars_dir)
        self._runner.run(self._opened_service().delete(avatar_id))

    def check(self, source: Path, shown: SourceProgress) -> dict[str, Any]:
        checked = self._opened_service().check(_video_or_bytes(source), _frames_shown(shown))
        return dataclasses.asdict(self._runner.run(checked))

    def _store(self) -> BundleStore:
        return self._host.open_bundle_store(existing_store(self._host, self._settings.avatars_dir))[0]

    def _opened_service(self) -> AvatarService:
        """Return a service that isn't entered: it connects to the store on demand, and `check` needs none."""
        from ..service import AvatarService

        self._service = self._service or AvatarService(self._settings, self._host)
        return self._service

    async def close(self) -> None:
        """End the worker process and everything else that the service has started."""
        if self._service is not None:
            await self._service.__aexit__(None, None, None)


class OnServer:
    """The avatars of a server.

    Args:
        client: of the server.
    """

    def __init__(self, client: AvatarClient) -> None:
        self._client = client

    def summaries(self) -> list[AvatarSummary]:
        return self._client.list()

    def manifest(self, avatar_id: str) -> AvatarManifest:
        return self._client.show(avatar_id)

    def create(self, name: str, base: str, source: Path, shown: SourceProgress) -> AvatarSummary:
        with _opened(source) as file:
            content = shown.reading(file, source.stat().st_size)
            return self._client.create(name, base, content, _frames_shown(shown))

    def change(self, avatar_id: str, patch: dict[str, Any]) -> AvatarManifest:
        return self._client.update(avatar_id, patch)

    def delete(self, avatar_id: str) -> None:
        self._client.delete(avatar_id)

    def check(self, source: Path, shown: SourceProgress) -> dict[str, Any]:
        with _opened(source) as file:
            return self._client.check(shown.reading(file, source.stat().st_size), _frames_shown(shown))

    def health(self) -> dict[str, Any]:
        """Return the body of GET /health, with status 200 or 503."""
        return self._client.health()


def is_video(source: Path) -> bool:
    """Return whether a file is a video: by its first bytes or, if they tell nothing, by its name.

    Raises:
        OpenTalkingError: the file can't be read.
    """
    with _opened(source) as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_PICTURE_SIGNATURES):
        return False
    known = foreign_format(head)
    return known.startswith("a video") if known else source.suffix.lower() in _VIDEO_SUFFIXES


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        raise OpenTalkingError(f"{source} can't be read: {error.strerror}") from None


def _video_or_bytes(source: Path) -> bytes | Path:
    """Return what `AvatarService.create` takes."""
    if is_video(source):
        return source
    with _opened(source) as file:
        return file.read()


def _frames_shown(shown: SourceProgress) -> Callable[[WorkProgress | UploadProgress], None]:
    return lambda progress: shown.frames(progress.frames_done, progress.frames)
