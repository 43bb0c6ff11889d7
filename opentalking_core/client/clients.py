"""AvatarClient and AsyncAvatarClient: the same methods, waiting and asynchronous."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar

import httpx

from ..errors import OpenTalkingError
from ..portraits.formats import foreign_format
from . import operations
from .operations import EVENT_STREAM, EventParser, Operation, ServerUnreachable, error_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from ..bundles.manifest import AvatarManifest, AvatarSummary
    from .operations import FileEntry, ListenerEvent, UploadProgress

    OnProgress = Callable[[UploadProgress], None]

T = TypeVar("T")

#: How long a server may take to answer: an upload may wait in its queue, and the first detection loads a model.
TIMEOUT_SECONDS = 120.0

#: How much of a file is read to tell a portrait from a video.
_HEAD_BYTES = 1024


class AvatarClient:
    """The avatars of a server. A context manager; safe to share by threads.

    Methods raise InvalidRequest, NotFound, TooLarge, Overloaded, StoreFull, ManifestChanged or NotSupported with the
    server's sentence, ServerError for any other refusal, and ServerUnreachable.

    Args:
        server: the address of the server, such as http://avatars:8000.
        api_key: the key, if the server requires one.
        timeout: seconds to wait for the server.
    """

    def __init__(self, server: str, api_key: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self.server = _checked(server)
        self._http = httpx.Client(
            base_url=self.server, headers=_headers(api_key), timeout=timeout, follow_redirects=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def list(self) -> list[AvatarSummary]:
        """Return the avatars that are not hidden, by id."""
        return self._run(operations.list_avatars())

    def show(self, avatar_id: str) -> AvatarManifest:
        """Return the manifest of an avatar."""
        return self._run(operations.read_manifest(avatar_id))

    def files(self, avatar_id: str) -> Sequence[FileEntry]:
        """Return the files of an avatar's bundle, by path."""
        return self._run(operations.list_files(avatar_id))

    def create(
        self, name: str, base_avatar_id: str, source: bytes | Path | BinaryIO, on_progress: OnProgress | None = None
    ) -> AvatarSummary:
        """Make an avatar.

        Args:
            name: for people to read.
            base_avatar_id: the avatar that is the template.
            source: a portrait (JPEG, PNG, WebP) or a video (MP4, MOV, WebM, MKV): its bytes, its file, or an open file.
            on_progress: called with the frames of a video that are finished.
        """
        fields = {"name": name, "base_avatar_id": base_avatar_id}
        return operations.summary_of(self._send("/avatars/custom", source, fields, on_progress))

    def check(self, source: bytes | Path | BinaryIO, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Return the report of the portrait checks; nothing is stored. The arguments are those of `create`."""
        return operations.report_of(self._send("/avatars/check", source, {}, on_progress))

    def update(self, avatar_id: str, patch: Mapping[str, Any], etag: str | None = None) -> AvatarManifest:
        """Apply a JSON merge patch to a custom avatar's name and metadata; return the new manifest.

        Args:
            avatar_id: the avatar.
            patch: such as {"name": "Bob", "metadata": {"mood": None}}.
            etag: of the version to change. If another version is there, ManifestChanged is raised.
        """
        return self._run(operations.update(avatar_id, patch, etag))

    def delete(self, avatar_id: str) -> None:
        """Delete a custom avatar."""
        self._run(operations.delete(avatar_id))

    def health(self) -> dict[str, Any]:
        """Return the body of GET /health."""
        return self._run(operations.health())

    def events(self, last_id: str | None = None) -> Iterator[ListenerEvent]:
        """Yield the changes of the list as they happen, until the connection ends.

        Args:
            last_id: the id of the last event that was seen; None begins with the event `ready`.
        """
        headers = _event_headers(last_id)
        with (
            _in_words(self.server),
            self._http.stream("GET", "/avatars/events", headers=headers, timeout=None) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise error_of(answer)
            parser = EventParser()
            for line in answer.iter_lines():
                if (event := parser.feed(line)) is not None:
                    yield operations.listener_event(event)

    def _run(self, operation: Operation[T]) -> T:
        with _in_words(self.server):
            return operation.result(self._http.request(operation.method, operation.path, **operation.request))

    def _send(
        self, path: str, source: bytes | Path | BinaryIO, fields: Mapping[str, str], on_progress: OnProgress | None
    ) -> dict[str, Any]:
        with _opened(source) as file:
            form = {"data": fields, "files": {_field(file): ("source", file)}, "headers": {"Accept": EVENT_STREAM}}
            with _in_words(self.server), self._http.stream("POST", path, **form) as answer:  # type: ignore[arg-type]
                if answer.status_code != 200:
                    answer.read()
                    raise error_of(answer)
                parser = EventParser()
                for line in answer.iter_lines():
                    event = parser.feed(line)
                    result = event and operations.upload_event(event, on_progress)
                    if result:
                        return result
        raise _cut_off(self.server)


class AsyncAvatarClient:
    """The avatars of a server, for programs with an event loop; see `AvatarClient`. An async context manager.

    Args:
        server: the address of the server, such as http://avatars:8000.
        api_key: the key, if the server requires one.
        timeout: seconds to wait for the server.
    """

    def __init__(self, server: str, api_key: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self.server = _checked(server)
        self._http = httpx.AsyncClient(
            base_url=self.server, headers=_headers(api_key), timeout=timeout, follow_redirects=True
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def list(self) -> list[AvatarSummary]:
        """Return the avatars that are not hidden, by id."""
        return await self._run(operations.list_avatars())

    async def show(self, avatar_id: str) -> AvatarManifest:
        """Return the manifest of an avatar."""
        return await self._run(operations.read_manifest(avatar_id))

    async def files(self, avatar_id: str) -> Sequence[FileEntry]:
        """Return the files of an avatar's bundle, by path."""
        return await self._run(operations.list_files(avatar_id))

    async def create(
        self, name: str, base_avatar_id: str, source: bytes, on_progress: OnProgress | None = None
    ) -> AvatarSummary:
        """Make an avatar; see `AvatarClient.create`. The source's bytes are kept in memory."""
        fields = {"name": name, "base_avatar_id": base_avatar_id}
        return operations.summary_of(await self._send("/avatars/custom", source, fields, on_progress))

    async def check(self, source: bytes, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Return the report of the portrait checks; nothing is stored."""
        return operations.report_of(await self._send("/avatars/check", source, {}, on_progress))

    async def update(self, avatar_id: str, patch: Mapping[str, Any], etag: str | None = None) -> AvatarManifest:
        """Apply a JSON merge patch to a custom avatar; see `AvatarClient.update`."""
        return await self._run(operations.update(avatar_id, patch, etag))

    async def delete(self, avatar_id: str) -> None:
        """Delete a custom avatar."""
        await self._run(operations.delete(avatar_id))

    async def health(self) -> dict[str, Any]:
        """Return the body of GET /health."""
        return await self._run(operations.health())

    async def events(self, last_id: str | None = None) -> AsyncIterator[ListenerEvent]:
        """Yield the changes of the list as they happen, until the connection ends; see `AvatarClient.events`."""
        following = self._http.stream("GET", "/avatars/events", headers=_event_headers(last_id), timeout=None)
        with _in_words(self.server):
            async with following as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    raise error_of(answer)
                parser = EventParser()
                async for line in answer.aiter_lines():
                    if (event := parser.feed(line)) is not None:
                        yield operations.listener_event(event)

    async def _run(self, operation: Operation[T]) -> T:
        with _in_words(self.server):
            response = await self._http.request(operation.method, operation.path, **operation.request)
            return operation.result(response)

    async def _send(
        self, path: str, source: bytes, fields: Mapping[str, str], on_progress: OnProgress | None
    ) -> dict[str, Any]:
        files = {_field(io.BytesIO(source)): ("source", source)}
        form = {"data": fields, "files": files, "headers": {"Accept": EVENT_STREAM}}
        with _in_words(self.server):
            async with self._http.stream("POST", path, **form) as answer:  # type: ignore[arg-type]
                if answer.status_code != 200:
                    await answer.aread()
                    raise error_of(answer)
                parser = EventParser()
                async for line in answer.aiter_lines():
                    event = parser.feed(line)
                    result = event and operations.upload_event(event, on_progress)
                    if result:
                        return result
        raise _cut_off(self.server)


def _checked(server: str) -> str:
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL as error:
        raise OpenTalkingError(f"{server!r} is not the address of a server: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise OpenTalkingError(f"{server!r} is not the address of a server, which looks like http://localhost:8000")
    return server.rstrip("/")


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _event_headers(last_id: str | None) -> dict[str, str]:
    return {"Accept": EVENT_STREAM} | ({"Last-Event-ID": last_id} if last_id is not None else {})


@contextlib.contextmanager
def _in_words(server: str) -> Iterator[None]:
    """Turn errors of the connection into ServerUnreachable."""
    try:
        yield
    except httpx.TimeoutException:
        raise ServerUnreachable(f"{server} did not answer in time") from None
    except httpx.HTTPError as error:
        raise ServerUnreachable(f"{server} can't be reached: {error}; is it the address of a server?") from None


def _cut_off(server: str) -> ServerUnreachable:
    return ServerUnreachable(f"{server} closed the connection before it answered")


@contextlib.contextmanager
def _opened(source: bytes | Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif not isinstance(source, Path):
        yield source
    else:
        try:
            file = source.open("rb")
        except OSError as error:
            raise OpenTalkingError(f"{source} can't be read: {error.strerror}") from None
        with file:
            yield file


def _field(source: BinaryIO) -> str:
    """Return the field of the form for a portrait or a video, by its first bytes."""
    head = source.read(_HEAD_BYTES)
    source.seek(0)
    return "video" if (foreign_format(head) or "").startswith("a video") else "image"
