"""The resources of the API document."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gzip
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

import falcon

from ..catalog import Listing, ListingQuery
from ..catalog.file_cache import CachedFile
from ..errors import InvalidRequest
from .conditional import accepts_gzip, is_unchanged, takes, wanted_range
from .replay import replay_while
from .upload import read_avatar_form, read_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from falcon.asgi import Request, Response

    from ..bundles.store import FileReader
    from ..service import AvatarService, StoredFile

#: From this size on a list is sent compressed to clients that take it: below, the headers weigh as much as it saves.
_WORTH_GZIP = 1400

#: What a query may ask for; other parameters, such as those that defeat caches, change nothing.
_QUERY = frozenset({"limit", "cursor", "model_type", "is_custom", "q"})
PAGE_SIZES = range(1, 1001)
THUMBNAIL_WIDTHS = range(16, 2049)


class AvatarList:
    """/avatars"""

    def __init__(self, service: AvatarService) -> None:
        self._service = service
        self._compressing = asyncio.Lock()
        self._gzipped = ("", b"")  # the last list's entity tag, and its body compressed

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the avatars that are not hidden: all of them, or the page that the query asks for."""
        resp.content_type = falcon.MEDIA_JSON
        if req.query_string and not _QUERY.isdisjoint(req.params):
            await self._get_page(req, resp)
            return
        listing = await self._service.listing()
        replay_while(req, listing, self._service.current_listing)
        if len(listing.body) >= _WORTH_GZIP:
            resp.set_header("Vary", "Accept-Encoding")
            if accepts_gzip(req):
                listing = await self._compressed(listing)
                resp.set_header("Content-Encoding", "gzip")
        if not is_unchanged(req, resp, listing.etag, listing.modified):
            resp.data = listing.body

    on_head = on_get

    async def _compressed(self, listing: Listing) -> Listing:
        async with self._compressing:
            etag, body = self._gzipped
            if etag != listing.etag:  # no other request has compressed it meanwhile
                body = await asyncio.to_thread(gzip.compress, listing.body, 6, mtime=0)
                self._gzipped = listing.etag, body
        return Listing(body, listing.etag + "-gzip", listing.modified)  # a strong tag is of these very bytes

    async def _get_page(self, req: Request, resp: Response) -> None:
        query = ListingQuery(
            limit=_integer(req, "limit", PAGE_SIZES),
            cursor=req.get_param("cursor", default=""),
            model_type=req.get_param("model_type"),
            is_custom=_true_or_false(req, "is_custom"),
            search=req.get_param("q", default=""),
        )
        page = await self._service.page(query)
        resp.set_header("X-Total-Count", str(page.total))
        if page.next_cursor is not None:
            params = {name: value for name, value in req.params.items() if name != "cursor"}
            target = urlencode({**params, "cursor": page.next_cursor}, doseq=True)
            resp.append_link(f"/avatars?{target}", "next")
        if not is_unchanged(req, resp, page.listing.etag, page.listing.modified):
            resp.data = page.listing.body


def _integer(req: Request, name: str, allowed: range) -> int | None:
    """Falcon's own reading takes all that Python's does, such as 3_20, and doesn't say what it was given."""
    text = req.get_param(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) in allowed):
        raise InvalidRequest(f"{name} is {text[:80]!r}; it may be {allowed[0]} to {allowed[-1]}")
    return int(text)


def _true_or_false(req: Request, name: str) -> bool | None:
    """Falcon's own reading takes a blank for true."""
    text = req.get_param(name)
    if text is None:
        return None
    if text.lower() not in ("true", "false"):
        raise InvalidRequest(f"{name} is {text[:80]!r}; it may be true or false")
    return text.lower() == "true"


class Avatar:
    """/avatars/{avatar_id}"""

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        """The complete manifest, as it is stored."""
        if cached := self._service.cached_manifest(avatar_id):
            replay_while(req, cached, functools.partial(self._service.cached_manifest, avatar_id))
            _answer_file(req, resp, cached, falcon.MEDIA_JSON)
            return
        async with contextlib.AsyncExitStack() as stack:
            file = await stack.enter_async_context(self._service.manifest(avatar_id))
            _answer_file(req, resp, file, falcon.MEDIA_JSON, stack)

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, avatar_id: str) -> None:
        """Delete a custom avatar."""
        await self._service.delete(avatar_id)
        resp.media = {"deleted": True}


class _Word(Avatar):
    """A path with a meaning of its own; for methods that have none there, the avatar that has this word as its id."""

    word: ClassVar[str]

    async def on_get(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        """As for any other avatar."""
        await super().on_get(req, resp, self.word)

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        """As for any other avatar."""
        await super().on_delete(req, resp, self.word)


class CustomAvatars(_Word):
    """/avatars/custom"""

    word = "custom"

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make an avatar from a portrait."""
        async with self._service.upload():
            with self._service.metrics.stage("receive"):
                form = await read_avatar_form(req, resp)
            resp.media = dataclasses.asdict(await self._service.create(form.name, form.base_avatar_id, form.image))


class PortraitChecks(_Word):
    """/avatars/check"""

    word = "check"

    async def on_post(self, req: Request, resp: Response) -> None:
        """Say whether a portrait is fit to be an avatar; nothing is stored."""
        async with self._service.upload():
            with self._service.metrics.stage("receive"):
                image = await read_image(req, resp)
            resp.media = dataclasses.asdict(await self._service.check(image))


class Preview:
    """/avatars/{avatar_id}/preview"""

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        """The raw preview.png, or its place in the store; with `width`, a smaller copy: WebP where Accept takes it."""
        if req.query_string and (width := _integer(req, "width", THUMBNAIL_WIDTHS)) is not None:
            resp.set_header("Vary", "Accept")
            webp = takes(req.accept, "image/webp") is True
            thumbnail = await self._service.thumbnail(avatar_id, width, "WEBP" if webp else "PNG")
            if thumbnail is not None:
                content_type = "image/webp" if webp else falcon.MEDIA_PNG
                _answer_file(req, resp, thumbnail, content_type)
                return
        if (url := await self._service.preview_url(avatar_id)) is not None:
            resp.status = falcon.HTTP_307
            resp.location = url
            resp.cache_control = ["no-store"]
            return
        if cached := self._service.cached_preview(avatar_id):
            replay_while(req, cached, functools.partial(self._service.cached_preview, avatar_id))
            _answer_file(req, resp, cached, falcon.MEDIA_PNG)
            return
        async with contextlib.AsyncExitStack() as stack:
            file = await stack.enter_async_context(self._service.preview(avatar_id))
            _answer_file(req, resp, file, falcon.MEDIA_PNG, stack)

    on_head = on_get


def _answer_file(
    req: Request, resp: Response, file: StoredFile, content_type: str, stack: contextlib.AsyncExitStack | None = None
) -> None:
    """Answer with a file, or the range of it that is asked for; `stack` closes it, after streaming if need be."""
    info = file.info
    resp.content_type = content_type
    if is_unchanged(req, resp, info.etag, info.modified):
        return
    resp.set_header("Accept-Ranges", "bytes")
    start, stop = 0, info.size
    if (wanted := wanted_range(req, info.size, info.etag)) is not None:
        start, stop = wanted
        resp.status = falcon.HTTP_206
        resp.content_range = (start, stop - 1, info.size, "bytes")
    if isinstance(file, CachedFile):
        resp.data = file.data if wanted is None else file.data[start:stop]
        return
    resp.content_length = stop - start
    if req.method != "HEAD" and stack is not None:
        resp.stream = _Streamed(file, start, stop, stack.pop_all())  # type: ignore[assignment]  # an iterable will do


class _Streamed:
    """A part of a file as a response's body: Falcon iterates over it, and closes it whatever happens meanwhile."""

    def __init__(self, file: FileReader, start: int, stop: int, stack: contextlib.AsyncExitStack) -> None:
        self._chunks = file.chunks(start, stop)
        self._stack = stack

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def close(self) -> None:
        await self._stack.aclose()
