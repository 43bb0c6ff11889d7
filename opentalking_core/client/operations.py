"""What the API offers, as requests and the meaning of their responses. Nothing is sent here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from ..bundles.manifest import AvatarManifest, AvatarSummary, is_avatar_id
from ..errors import (
    InvalidRequest,
    ManifestChanged,
    NotFound,
    NotSupported,
    OpenTalkingError,
    Overloaded,
    StoreFull,
    TooLarge,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"


class ServerError(OpenTalkingError):
    """A server refused a request, or failed. `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerUnreachable(OpenTalkingError):
    """A server can't be reached, or did not answer in time."""


#: The errors that a client raises for these statuses; all others become ServerError.
_ERRORS: Mapping[int, type[OpenTalkingError]] = {
    400: InvalidRequest,
    404: NotFound,
    412: ManifestChanged,
    413: TooLarge,
    501: NotSupported,
    503: Overloaded,
    507: StoreFull,
}


class UploadProgress(NamedTuple):
    """How far the server is with a video.

    Args:
        frames_done: frames that are finished.
        frames: frames that are expected; there may be fewer.
        seconds_left: an estimate; None before the first frame is finished.
    """

    frames_done: int
    frames: int
    seconds_left: float | None


class ListenerEvent(NamedTuple):
    """An event of GET /avatars/events.

    Args:
        kind: `ready`, `reset` (read the list again), `created`, `changed` or `deleted`.
        avatar_id: the avatar; None for `ready` and `reset`.
        etag: the manifest's entity tag; None if the avatar is gone.
        id: send it as the last event's id to go on from here.
    """

    kind: str
    avatar_id: str | None
    etag: str | None
    id: str


class FileEntry(NamedTuple):
    """A file of a bundle, as the server lists it.

    Args:
        path: in the bundle, separated by `/`.
        size: in bytes.
        etag: the file's entity tag.
    """

    path: str
    size: int
    etag: str


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A request, and what its response means.

    Args:
        method: of HTTP.
        path: below the server's address.
        parse: returns the result of a successful response.
        request: further arguments of `httpx.Client.request`.
        accept: the statuses of success.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    request: dict[str, Any] = field(default_factory=dict)
    accept: tuple[int, ...] = (200,)

    def result(self, response: httpx.Response) -> T:
        """Return the result of a response that was read. Raises what `error_of` returns."""
        if response.status_code in self.accept:
            try:
                return self.parse(response)
            except (ValueError, KeyError, TypeError):  # another server, perhaps a proxy's page
                raise _foreign(response) from None
        raise error_of(response)


def list_avatars() -> Operation[list[AvatarSummary]]:
    return Operation("GET", "/avatars", lambda response: [_summary(fields) for fields in response.json()])


def read_manifest(avatar_id: str) -> Operation[AvatarManifest]:
    return Operation("GET", avatar_path(avatar_id), lambda response: AvatarManifest.parse(response.content))


def list_files(avatar_id: str) -> Operation[list[FileEntry]]:
    return Operation("GET", f"{avatar_path(avatar_id)}/files", parse_files)


def parse_files(response: httpx.Response) -> list[FileEntry]:
    return [FileEntry(entry["path"], entry["size"], entry["etag"]) for entry in response.json()]


def update(avatar_id: str, patch: Mapping[str, Any], etag: str | None) -> Operation[AvatarManifest]:
    headers = {"Content-Type": "application/merge-patch+json"}
    if etag is not None:
        headers["If-Match"] = f'"{etag}"'
    request = {"content": json.dumps(patch).encode(), "headers": headers}
    return Operation("PATCH", avatar_path(avatar_id), lambda response: AvatarManifest.parse(response.content), request)


def delete(avatar_id: str) -> Operation[None]:
    return Operation("DELETE", avatar_path(avatar_id), lambda response: None)


def health() -> Operation[dict[str, Any]]:
    return Operation("GET", "/health", lambda response: dict(response.json()), accept=(200, 503))


def summary_of(fields: Any) -> AvatarSummary:
    """Return the summary in the body of a response, or in an event."""
    return _summary(fields)


def report_of(fields: Any) -> dict[str, Any]:
    """Return the report in the body of a response, or in an event."""
    return dict(fields)


def avatar_path(avatar_id: str) -> str:
    """Return the path of an avatar. Raise NotFound for what is no id."""
    if not is_avatar_id(avatar_id):
        raise NotFound(f"there is no avatar {avatar_id!r}")
    return f"/avatars/{quote(avatar_id, safe='')}"


def file_path(avatar_id: str, path: str) -> str:
    """Return the path of a file of a bundle."""
    return f"{avatar_path(avatar_id)}/files/{quote(path)}"


def error_of(response: httpx.Response) -> OpenTalkingError:
    """Return the error for a response that was read, with the server's sentence."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = None
    status = response.status_code
    return error_with(status, detail) if isinstance(detail, str) else _foreign(response)


def _foreign(response: httpx.Response) -> ServerError:
    """Return the error for a response that our API doesn't give."""
    server = f"{response.request.url.scheme}://{response.request.url.netloc.decode()}"
    status = response.status_code
    return ServerError(f"{server} answered {status} {response.reason_phrase}; is it an opentalking-core?", status)


def error_with(status: int, detail: str) -> OpenTalkingError:
    """Return the error for a status and a sentence of the server."""
    kind = _ERRORS.get(status)
    return ServerError(detail, status) if kind is None else kind(detail)


class EventParser:
    """Collects the lines of a stream of Server-Sent Events (WHATWG HTML, section 9.2)."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> tuple[str, dict[str, Any], str] | None:
        """Take a line without its end; return (name, data, id) when an event is complete."""
        if line == "" and "event" in self._fields:
            fields, self._fields = self._fields, {}
            return fields["event"], json.loads(fields.get("data", "{}")), fields.get("id", "")
        key, _, value = line.partition(":")
        if key in ("event", "data", "id"):
            self._fields[key] = value.removeprefix(" ")
        return None


def listener_event(event: tuple[str, dict[str, Any], str]) -> ListenerEvent:
    name, data, event_id = event
    return ListenerEvent(name, data.get("id"), data.get("etag"), event_id)


def upload_event(
    event: tuple[str, dict[str, Any], str], on_progress: Callable[[UploadProgress], None] | None
) -> dict[str, Any] | None:
    """Return the result of an upload if this event has it. Raise the error if this event tells one."""
    name, data, _ = event
    if name == "progress" and on_progress is not None:
        on_progress(UploadProgress(data["frames_done"], data["frames"], data["seconds_left"]))
    if name == "error":
        raise error_with(data["status"], data["detail"])
    return data if name in ("avatar", "report") else None


def _summary(fields: Mapping[str, Any]) -> AvatarSummary:
    names = ("id", "name", "model_type", "width", "height", "is_custom")
    return AvatarSummary(*(fields[name] for name in names))
