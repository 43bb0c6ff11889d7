"""Answering with files that belong to a page of ours."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from typing import TYPE_CHECKING

import falcon

from .conditional import answer_not_modified

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from falcon.asgi import Request, Response

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


class StaticFile:
    """A file that is read at the first request and kept in memory.

    Args:
        path: of the file; its suffix is in `CONTENT_TYPES`.
        policy: the Content-Security-Policy of the page.
    """

    def __init__(self, path: Path, policy: str) -> None:
        self._path = path
        self._policy = policy
        # Installers give the files of every version the same time, so the time of the file can't tell versions apart.
        self._modified = time.time()

    @functools.cached_property
    def _content(self) -> tuple[bytes, str]:
        data = self._path.read_bytes()
        return data, hashlib.sha256(data).hexdigest()[:16]

    async def answer(self, req: Request, resp: Response) -> None:
        data, etag = await asyncio.to_thread(lambda: self._content)
        resp.content_type = CONTENT_TYPES[self._path.suffix]
        resp.set_header("Content-Security-Policy", self._policy)
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Referrer-Policy", "no-referrer")
        if not answer_not_modified(req, resp, etag, self._modified):
            resp.data = data


class PageResource:
    """Answers with one file."""

    def __init__(self, page: StaticFile) -> None:
        self._page = page

    async def on_get(self, req: Request, resp: Response) -> None:
        await self._page.answer(req, resp)

    on_head = on_get


class StaticFilesResource:
    """Answers with the files of a page, by name."""

    def __init__(self, files: Mapping[str, StaticFile]) -> None:
        self._files = files

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        if name not in self._files:
            raise falcon.HTTPNotFound
        await self._files[name].answer(req, resp)

    on_head = on_get
