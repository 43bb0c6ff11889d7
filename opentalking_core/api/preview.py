"""The resource /avatars/{avatar_id}/preview."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

import falcon

from .. import errors
from .conditional import accepts
from .files import answer_file, answer_stored_file
from .operation import (
    FILE_HEADERS,
    READING_HEADERS,
    Operation,
    file_response,
    not_modified_response,
    query_parameter,
    range_responses,
    response,
)
from .query import read_integer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..service import AvatarService

_THUMBNAIL_WIDTHS = range(16, 2049)


class PreviewResource:
    """Answers with preview.png, with a redirect to the store, or with a thumbnail."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_preview",
            tag="avatars",
            summary="Read an avatar's preview",
            description="The raw preview.png, or with `width` a smaller copy: WebP if `Accept` names WebP, else PNG. "
            "If the store hands out previews itself, the response is a redirect to the store.",
            responses={
                200: file_response(("image/png", "image/webp"), (*FILE_HEADERS, "Vary")),
                304: not_modified_response(),
                307: response("The store hands out the preview.", headers=("Location", "Cache-Control")),
                **range_responses("image/png", "image/webp"),
            },
            errors=(errors.InvalidRequest, errors.NotFound, errors.StoreUnavailable, errors.WorkersUnavailable),
            parameters=(
                query_parameter(
                    "width",
                    {"type": "integer", "minimum": _THUMBNAIL_WIDTHS[0], "maximum": _THUMBNAIL_WIDTHS[-1]},
                    "Width of the copy in pixels. A preview that is not wider keeps its size.",
                    320,
                ),
            ),
            request_headers=READING_HEADERS,
        )
    }

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        if req.query_string and (width := read_integer(req, "width", _THUMBNAIL_WIDTHS)) is not None:
            resp.set_header("Vary", "Accept")
            webp = accepts(req.accept, "image/webp") is True
            thumbnail = await self._service.thumbnail(avatar_id, width, "WEBP" if webp else "PNG")
            if thumbnail is not None:
                answer_file(req, resp, thumbnail, "image/webp" if webp else falcon.MEDIA_PNG)
                return
        if (url := await self._service.preview_url(avatar_id)) is not None:
            resp.status = falcon.HTTP_307
            resp.location = url
            resp.cache_control = ["no-store"]
            return
        cached = functools.partial(self._service.cached_preview, avatar_id)
        opened = functools.partial(self._service.preview, avatar_id)
        await answer_stored_file(req, resp, cached, opened, falcon.MEDIA_PNG)

    on_head = on_get
