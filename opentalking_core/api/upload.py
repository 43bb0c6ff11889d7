"""Reading the multipart forms of POST /avatars/custom and /avatars/check from untrusted streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi
from falcon.media import MultipartFormHandler

from ..errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from falcon.asgi.multipart import BodyPart

#: The "10 MB" of the API document, read as the larger 10 MiB.
MAX_IMAGE_BYTES = 10 * 1024 * 1024

#: Limit of everything else in a form: field names, boundaries, ignored fields.
_MAX_OTHER_BYTES = 1024 * 1024

_MAX_TEXT_FIELD_BYTES = 8 * 1024

#: How much of a rejected body to read and discard, so that the browser sees the response rather than a reset.
_MAX_DRAIN_BYTES = 64 * 1024 * 1024

#: The form's reader buffers several chunks before it returns one. With small chunks it notices the limit in time.
_CHUNK_BYTES = 32 * 1024

#: An upload may take this many seconds, and one second more for each MIN_BYTES_PER_SECOND bytes that have arrived. Slow
#: mobile networks manage that; a client that keeps its place in the queue by sending a byte now and then does not.
UPLOAD_GRACE_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 16 * 1024

TOO_SLOW_DETAIL = f"the upload arrived at less than {MIN_BYTES_PER_SECOND // 1024} KiB/s and was aborted"

_form_handler = MultipartFormHandler()


@dataclass(frozen=True, slots=True)
class AvatarForm:
    """The fields of POST /avatars/custom."""

    name: str
    base_avatar_id: str
    image: bytes


async def read_avatar_form(req: falcon.asgi.Request, resp: falcon.asgi.Response) -> AvatarForm:
    """Read the form of POST /avatars/custom. Raises what `_read_form` raises."""
    fields = await _read_form(req, resp)
    return AvatarForm(_text(fields, "name"), _text(fields, "base_avatar_id"), fields["image"])


async def read_image(req: falcon.asgi.Request, resp: falcon.asgi.Response) -> bytes:
    """Read the form of POST /avatars/check. Raises what `_read_form` raises."""
    return (await _read_form(req, resp))["image"]


async def _read_form(req: falcon.asgi.Request, resp: falcon.asgi.Response) -> dict[str, bytes]:
    """Read a form with an image from the stream. Fields that the API document does not name are ignored.

    Raises:
        InvalidRequest: a field is missing, repeated or not text; or the form asks for something unsupported.
        TooLarge: the image, or the form as a whole, exceeds its limit; the rest of the form is not read.
        falcon.HTTPError: the body is not well-formed multipart/form-data, or arrives too slowly.
    """
    content_type = req.content_type or ""
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise InvalidRequest(f"send the form as multipart/form-data, not {content_type[:80] or 'an unnamed type'!r}")
    length = req.content_length
    if length is None or length > _MAX_DRAIN_BYTES:
        resp.set_header("Connection", "close")
    if length is not None and length > MAX_IMAGE_BYTES + _MAX_OTHER_BYTES:
        raise _too_large()
    form = await _form_handler.deserialize_async(
        limited(req.stream, MAX_IMAGE_BYTES + _MAX_OTHER_BYTES, _too_large),  # type: ignore[arg-type]  # an iterator does
        content_type,
        length,
    )
    fields: dict[str, bytes] = {}
    async for part in form:
        name = _name(part)
        if name == "video":
            raise InvalidRequest("the field video is not supported: avatars are created from the field image")
        if name in ("name", "base_avatar_id", "image", "remove_background"):
            if name in fields:
                raise InvalidRequest(f"the field {name} is repeated")
            fields[name] = await _read(part, MAX_IMAGE_BYTES if name == "image" else _MAX_TEXT_FIELD_BYTES)
    if _text(fields, "remove_background", "").strip().lower() not in ("", "false", "0", "no", "off"):
        raise InvalidRequest("remove_background is not supported: remove the background first, or send false")
    if "image" not in fields:
        raise InvalidRequest("the field image is missing: send a JPEG, PNG or WebP picture")
    return fields


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
            raise _too_large()
        raise TooLarge(f"the field {part.name} has more than {limit} bytes")
    return bytes(data)


def _text(fields: dict[str, bytes], name: str, default: str | None = None) -> str:
    if name not in fields:
        if default is None:
            raise InvalidRequest(f"the field {name} is missing")
        return default
    try:
        return fields[name].decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the field {name} is not UTF-8 text") from None


def _too_large() -> TooLarge:
    return TooLarge(f"the image exceeds {MAX_IMAGE_BYTES // 1024**2} MB; send a smaller one")
