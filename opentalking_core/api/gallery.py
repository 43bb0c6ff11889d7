"""The gallery: a page for people at /, made of the files in static/, which are read once."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi

from .conditional import is_unchanged

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

_STATIC = Path(__file__).parent / "static"

_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: Nothing but our own files is run, shown or talked to, and no text can become markup. blob: is the chosen photo.
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


def add_gallery(app: falcon.asgi.App[Any, Any]) -> None:
    """Serve the page at / and what it is made of below /gallery."""
    files = {path.name: _StaticFile(path) for path in _STATIC.iterdir() if path.suffix in _CONTENT_TYPES}
    app.add_route("/", _Page(files.pop("index.html")))
    app.add_route("/gallery/{name}", _Assets(files))


class _StaticFile:
    """A file of the page, in memory."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._content_type = _CONTENT_TYPES[path.suffix]
        self._etag = hashlib.sha256(self._data).hexdigest()[:16]
        self._read = time.time()  # installers give every version's files the same date, so theirs can't tell them apart

    def answer(self, req: Request, resp: Response) -> None:
        resp.content_type = self._content_type
        resp.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Referrer-Policy", "no-referrer")
        if not is_unchanged(req, resp, self._etag, self._read):
            resp.data = self._data


class _Page:
    """/"""

    def __init__(self, page: _StaticFile) -> None:
        self._page = page

    async def on_get(self, req: Request, resp: Response) -> None:
        self._page.answer(req, resp)

    on_head = on_get


class _Assets:
    """/gallery/{name}"""

    def __init__(self, files: dict[str, _StaticFile]) -> None:
        self._files = files

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        if name not in self._files:
            raise falcon.HTTPNotFound
        self._files[name].answer(req, resp)

    on_head = on_get
