"""Reading the multipart forms of POST /avatars/custom and /avatars/check from untrusted streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi
from falcon.media import MultipartFormHandler

from ..errors import InvalidRequest, StoreFull, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from falcon.asgi.multipart import BodyPart

#: The "10 MB" of the API document, read as the larger 10 MiB.
MAX_IMAGE_BYTES = 10 * 1024 * 1024

MAX_VIDEO_BYTES = 200 * 1024 * 1024

#: Limit of everything else in a form: field names, boundaries, ignored fields.
_MAX_OTHER_BYTES = 1024 * 1024

_MAX_TEXT_FIELD_BYTES = 8 * 1024

#: How much of a rejected body to read and discard, so that the browser sees the response rather than a reset.
_MAX_DRAIN_BYTES = 64 * 1024 * 1024

#: How much of a video is written by one call in a thread.
_WRITE_BYTES = 256 * 1024

#: The form's reader buffers several chunks before it returns one. With small chunks it notices the limit in time.
_CHUNK_BYTES = 32 * 1024

#: An upload may take this many seconds, and one second more for each MIN_BYTES_PER_SECOND bytes that have arrived. Slow
#: mobile networks manage that; a client that keeps its place in the queue by sending a byte now and then does not.
UPLOAD_GRACE_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 16 * 1024

TOO_SLOW_DETAIL = f"the upload arrived at less than {MIN_BYTES_PER_SECOND // 1024} KiB/s and was aborted"

_form_handler = MultipartFormHandler()


@dataclass(frozen=True, slots=True)
class SourceForm:
    """The form of POST /avatars/check.

    Args:
        source: the bytes of a portrait, or the file that a video was written to.
        size: of the portrait or the video, in bytes.
    """

    source: bytes | Path
    size: int


@dataclass(frozen=True, slots=True)
class AvatarForm(SourceForm):
    """The form of POST /avatars/custom."""

    name: str
    base_avatar_id: str


#: Makes a folder for a video.
NewFolder = Callable[[], Awaitable[Path]]


async def read_avatar_form(req: falcon.asgi.Request, resp: falcon.asgi.Response, new_folder: NewFolder) -> AvatarForm:
    """Read the form of POST /avatars/custom. Raises what `_read_form` raises."""
    fields = await _read_form(req, resp, new_folder)
    source = _source(fields)
    return AvatarForm(source.source, source.size, _text(fields, "name"), _text(fields, "base_avatar_id"))


async def read_source_form(req: falcon.asgi.Request, resp: falcon.asgi.Response, new_folder: NewFolder) -> SourceForm:
    """Read the form of POST /avatars/check. Raises what `_read_form` raises."""
    return _source(await _read_form(req, resp, new_folder))


async def _read_form(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, new_folder: NewFolder
) -> dict[str, bytes | SourceForm]:
    """Read a form from the stream. Fields that the API document does not name are ignored.

    Raises:
        InvalidRequest: a field is missing, repeated or not text; or the form asks for something unsupported.
        TooLarge: the image, the video, or the form as a whole, exceeds its limit; the rest of the form is not read.
        StoreFull: there is no room for the video.
        falcon.HTTPError: the body is not well-formed multipart/form-data, or arrives too slowly.
    """
    content_type = req.content_type or ""
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise InvalidRequest(f"send the form as multipart/form-data, not {content_type[:80] or 'an unnamed type'!r}")
    length = req.content_length
    if length is None or length > _MAX_DRAIN_BYTES:
        resp.set_header("Connection", "close")
    if length is not None and length > MAX_VIDEO_BYTES + _MAX_OTHER_BYTES:
        raise _too_large("upload", MAX_VIDEO_BYTES)
    form = await _form_handler.deserialize_async(
        limited(  # type: ignore[arg-type]  # an iterator does
            req.stream, MAX_VIDEO_BYTES + _MAX_OTHER_BYTES, lambda: _too_large("upload", MAX_VIDEO_BYTES)
        ),
        content_type,
        length,
    )
    fields: dict[str, bytes | SourceForm] = {}
    other_bytes = 0
    async for part in form:
        name = _name(part)
        if name in fields:
            raise InvalidRequest(f"the field {name} is repeated")
        if name == "image":
            if length is not None and length > MAX_IMAGE_BYTES + _MAX_OTHER_BYTES:
                raise _too_large("image", MAX_IMAGE_BYTES)
            image = await _read(part, MAX_IMAGE_BYTES)
            fields[name] = SourceForm(image, len(image))
        elif name == "video":
            fields[name] = await _save_video(part, new_folder)
        elif name in ("name", "base_avatar_id", "remove_background"):
            fields[name] = await _read(part, _MAX_TEXT_FIELD_BYTES)
        else:
            other_bytes += await _skip(part)
            if other_bytes > _MAX_OTHER_BYTES:
                raise TooLarge(f"the fields that are not used exceed {_MAX_OTHER_BYTES // 1024**2} MB; leave them out")
    if _text(fields, "remove_background", "").strip().lower() not in ("", "false", "0", "no", "off"):
        raise InvalidRequest("remove_background is not supported: remove the background first, or send false")
    return fields


def _source(fields: Mapping[str, bytes | SourceForm]) -> SourceForm:
    """Return the portrait or the video of a form, which must have one of them."""
    sources = [source for source in (fields.get("image"), fields.get("video")) if isinstance(source, SourceForm)]
    if len(sources) == 2:
        raise InvalidRequest("the form has both an image and a video: send one of them")
    if not sources:
        raise InvalidRequest("the field image is missing: send a JPEG, PNG or WebP picture, or a video as video")
    return sources[0]


def _name(part: BodyPart) -> str | None:
    try:
        return part.name
    except UnicodeDecodeError:
        raise InvalidRequest("the name of a field or of its file is not UTF-8 text") from None


async def limited(stream: Any, limit: int, too_large: Callable[[], TooLarge]) -> AsyncIterator[bytes]:
    """Yield the body of a request in chunks.

    Args:
        stream: the request's.
        limit: the largest number of bytes.
        too_large: returns the error to raise beyond `limit`.

    Raises:
        TooLarge: from `too_large`.
        falcon.HTTPError: 408, the chunks arrive too slowly.
    """
    chunks = aiter(stream)
    deadline = asyncio.get_running_loop().time() + UPLOAD_GRACE_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise falcon.HTTPError(
                falcon.HTTP_408,
                description=TOO_SLOW_DETAIL,
                headers={"Connection": "close"},
            ) from None
        deadline += len(chunk) / MIN_BYTES_PER_SECOND
        limit -= len(chunk)
        if limit < 0:
            raise too_large()
        for start in range(0, len(chunk), _CHUNK_BYTES):
            yield chunk[start : start + _CHUNK_BYTES]


async def _read(part: BodyPart, limit: int) -> bytes:
    data = await part.stream.read(limit + 1)
    if len(data) > limit:
        if part.name == "image":
            raise _too_large("image", MAX_IMAGE_BYTES)
        raise TooLarge(f"the field {part.name} has more than {limit} bytes")
    return bytes(data)


async def _skip(part: BodyPart) -> int:
    """Read a field that is not used, and return its size in bytes. Of a large one, only the beginning is read."""
    return len(await part.stream.read(_MAX_OTHER_BYTES + 1))


async def _save_video(part: BodyPart, new_folder: NewFolder) -> SourceForm:
    """Write a field to a file as it arrives. Raise StoreFull if there is no room."""
    size = 0
    try:
        path = await new_folder() / "video"
        file = await asyncio.to_thread(path.open, "wb")
        try:
            while chunk := await part.stream.read(_WRITE_BYTES):
                size += len(chunk)
                if size > MAX_VIDEO_BYTES:
                    raise _too_large("video", MAX_VIDEO_BYTES)
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
    except OSError as error:
        raise StoreFull(
            f"the video can't be kept while it is worked on: {error.strerror}; make room in the server's temporary"
            " folder"
        ) from None
    return SourceForm(path, size)


def _text(fields: Mapping[str, bytes | SourceForm], name: str, default: str | None = None) -> str:
    value = fields.get(name)
    if not isinstance(value, bytes):
        if default is None:
            raise InvalidRequest(f"the field {name} is missing")
        return default
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the field {name} is not UTF-8 text") from None


def _too_large(what: str, limit: int) -> TooLarge:
    return TooLarge(f"the {what} exceeds {limit // 1024**2} MB; send a smaller one")
