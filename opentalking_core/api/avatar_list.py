"""The resource /avatars."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

import falcon

from .. import errors
from ..catalog import Listing, ListingQuery
from .conditional import accepts_gzip, answer_not_modified
from .operation import (
    COPY_HEADERS,
    Operation,
    json_response,
    not_modified_response,
    query_parameter,
    schema_reference,
)
from .query import read_boolean, read_integer
from .replay import replay_while

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..service import AvatarService

#: Smaller lists are not compressed: the additional headers weigh as much as compression saves.
_MIN_GZIP_BYTES = 1400

_PAGE_SIZES = range(1, 1001)

SUMMARY_EXAMPLE = {
    "id": "custom-alice-20260513-153012-001", "name": "Alice", "model_type": "wav2lip", "width": 1024, "height": 1024,
    "is_custom": True,
}  # fmt: skip

_QUERY_PARAMETERS = (
    query_parameter(
        "limit",
        {"type": "integer", "minimum": _PAGE_SIZES[0], "maximum": _PAGE_SIZES[-1]},
        "The largest number of avatars on the page.",
    ),
    query_parameter("cursor", {"type": "string"}, "Where the page starts; taken from the link to the next page."),
    query_parameter("model_type", {"type": "string"}, "Only avatars of this model type.", "wav2lip"),
    query_parameter("is_custom", {"type": "boolean"}, "Only avatars that were made from a portrait, or only others."),
    query_parameter("q", {"type": "string"}, "Only avatars whose id or name contains this text, in any case.", "ali"),
)
_PAGE_QUERY = frozenset(parameter["name"] for parameter in _QUERY_PARAMETERS)


class AvatarListResource:
    """Lists the avatars that are not hidden: all of them, or the page that the query asks for."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="list_avatars",
            tag="avatars",
            summary="List the avatars",
            description="The avatars that are not hidden and whose manifest can be read, sorted by id: all of them or, "
            "with a query, a page.",
            responses={
                200: json_response(
                    {"type": "array", "items": schema_reference("AvatarSummary")},
                    [SUMMARY_EXAMPLE],
                    (*COPY_HEADERS, "Vary", "X-Total-Count", "Link"),
                ),
                304: not_modified_response(),
            },
            errors=(errors.InvalidRequest, errors.StoreUnavailable),
            parameters=_QUERY_PARAMETERS,
            request_headers=("If-None-Match", "If-Modified-Since"),
        )
    }

    def __init__(self, service: AvatarService) -> None:
        self._service = service
        self._compressing = asyncio.Lock()
        self._gzipped = ("", b"")  # the last list's entity tag, and its body compressed

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        # Other parameters, such as those that defeat caches, don't change the response.
        if req.query_string and not _PAGE_QUERY.isdisjoint(req.params):
            await self._get_page(req, resp)
            return
        listing = await self._service.listing()
        replay_while(req, listing, self._service.current_listing)
        if len(listing.body) >= _MIN_GZIP_BYTES:
            resp.set_header("Vary", "Accept-Encoding")
            if accepts_gzip(req):
                listing = await self._compressed(listing)
                resp.set_header("Content-Encoding", "gzip")
        if not answer_not_modified(req, resp, listing.etag, listing.modified):
            resp.data = listing.body

    on_head = on_get

    async def _compressed(self, listing: Listing) -> Listing:
        async with self._compressing:
            etag, body = self._gzipped
            if etag != listing.etag:  # no other request has compressed the list in the meantime
                body = await asyncio.to_thread(gzip.compress, listing.body, 6, mtime=0)
                self._gzipped = listing.etag, body
        return Listing(body, listing.etag + "-gzip", listing.modified)  # a strong tag names exactly these bytes

    async def _get_page(self, req: Request, resp: Response) -> None:
        query = ListingQuery(
            limit=read_integer(req, "limit", _PAGE_SIZES),
            cursor=req.get_param("cursor", default=""),
            model_type=req.get_param("model_type"),
            is_custom=read_boolean(req, "is_custom"),
            search=req.get_param("q", default=""),
        )
        page = await self._service.page(query)
        resp.set_header("X-Total-Count", str(page.total))
        if page.next_cursor is not None:
            params = {name: value for name, value in req.params.items() if name != "cursor"}
            target = urlencode({**params, "cursor": page.next_cursor}, doseq=True)
            resp.append_link(f"/avatars?{target}", "next")
        if not answer_not_modified(req, resp, page.listing.etag, page.listing.modified):
            resp.data = page.listing.body
