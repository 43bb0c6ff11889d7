"""The resources of the API document."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

import falcon

from .upload import read_avatar_form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from falcon.asgi import Request, Response

    from ..service import AvatarService
    from ..store import FileReader

#: A preview of at most so many bytes is answered in one piece, a larger one is streamed.
_WHOLE = 1024 * 1024


class AvatarList:
    """/avatars"""

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the avatars that are not hidden."""
        summaries = [dataclasses.asdict(summary) for summary in await self._service.list()]
        resp.content_type = falcon.MEDIA_JSON
        resp.data = json.dumps(summaries, ensure_ascii=False, separators=(",", ":")).encode()

    on_head = on_get


class Avatar:
    """/avatars/{avatar_id}"""

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        """The complete manifest, as it is stored."""
        _, resp.data = await self._service.manifest(avatar_id)
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, avatar_id: str) -> None:
        """Delete a custom avatar."""
        await self._service.delete(avatar_id)
        resp.media = {"deleted": True}


class CustomAvatars(Avatar):
    """/avatars/custom: where avatars are made; for the other methods, an avatar that has this word as its id."""

    async def on_get(self, req: Request, resp: Response, avatar_id: str = "custom") -> None:
        """As for any other avatar."""
        await super().on_get(req, resp, avatar_id)

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, avatar_id: str = "custom") -> None:
        """As for any other avatar."""
        await super().on_delete(req, resp, avatar_id)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make an avatar from a portrait."""
        form = await read_avatar_form(req, resp)
        resp.media = dataclasses.asdict(await self._service.create(form.name, form.base_avatar_id, form.image))


class Preview:
    """/avatars/{avatar_id}/preview"""

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        """The raw preview.png."""
        async with contextlib.AsyncExitStack() as stack:
            file = await stack.enter_async_context(self._service.preview(avatar_id))
            resp.content_type = falcon.MEDIA_PNG
            resp.content_length = file.info.size
            if req.method == "HEAD":
                return
            if file.info.size <= _WHOLE:
                resp.data = await file.read()
            else:
                resp.stream = _Streamed(file, stack.pop_all())  # type: ignore[assignment]  # an iterable will do

    on_head = on_get


class _Streamed:
    """A file as a response's body: Falcon iterates over it, and closes it whatever happens meanwhile."""

    def __init__(self, file: FileReader, stack: contextlib.AsyncExitStack) -> None:
        self._file = file
        self._stack = stack

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._file.chunks()

    async def close(self) -> None:
        await self._stack.aclose()
