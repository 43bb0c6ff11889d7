"""/openapi.json, and /docs, which shows the document with Swagger UI. Readers can send requests there.

Swagger UI comes from the package flask-swagger-ui: the package that follows every release of Swagger UI. Only its
folder `dist` is used; neither the package nor Flask is imported. Without the package (it is the extra `docs`), the page
says how to install it.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import falcon

from .conditional import answer_not_modified
from .openapi import openapi_document
from .operation import (
    COPY_HEADERS,
    Operation,
    json_response,
    not_modified_response,
    page_operation,
    static_file_operation,
)
from .static_files import PageResource, StaticFile, StaticFilesResource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

_STATIC = Path(__file__).parent / "static" / "docs"
_SWAGGER_UI_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

#: No script runs but from our own files. data: is for the icons in Swagger UI's style sheet, blob: for the pictures
#: that "Execute" receives.
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def docs_routes(routes: Mapping[str, object]) -> dict[str, object]:
    """Return the document of `routes` (and of these routes themselves), and the page that shows the document."""
    folder = _swagger_ui_folder()
    own_files = {"init.js": _STATIC / "init.js"}
    files = own_files | {name: folder / name for name in _SWAGGER_UI_FILES} if folder else {}
    page = _STATIC / ("index.html" if folder else "missing.html")
    docs: dict[str, object] = {
        "/docs": DocsResource(StaticFile(page, _CONTENT_SECURITY_POLICY)),
        "/docs/{name}": DocsFileResource(
            {name: StaticFile(path, _CONTENT_SECURITY_POLICY) for name, path in files.items()}
        ),
    }
    docs["/openapi.json"] = OpenAPIResource({**routes, **docs})
    return docs


def _swagger_ui_folder() -> Path | None:
    """Return the folder of Swagger UI's files, or None if flask-swagger-ui is not installed."""
    spec = importlib.util.find_spec("flask_swagger_ui")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "dist"


class OpenAPIResource:
    """Answers with the OpenAPI document, which is made at the first request."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_openapi",
            tag="service",
            summary="This document",
            description="In OpenAPI 3.1.",
            responses={
                200: json_response({"type": "object", "required": ["openapi"]}, headers=COPY_HEADERS),
                304: not_modified_response(),
            },
            request_headers=("If-None-Match",),
        )
    }

    def __init__(self, routes: Mapping[str, object]) -> None:
        self._routes = {**routes, "/openapi.json": self}
        self._started = time.time()

    @functools.cached_property
    def _content(self) -> tuple[bytes, str]:
        data = json.dumps(openapi_document(self._routes), ensure_ascii=False, separators=(",", ":")).encode()
        return data, hashlib.sha256(data).hexdigest()[:16]

    async def on_get(self, req: Request, resp: Response) -> None:
        data, etag = await asyncio.to_thread(lambda: self._content)
        resp.content_type = falcon.MEDIA_JSON
        resp.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        if not answer_not_modified(req, resp, etag, self._started):
            resp.data = data

    on_head = on_get


class DocsResource(PageResource):
    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": page_operation("get_docs", "This document to read and to try", "text/html")
    }


class DocsFileResource(StaticFilesResource):
    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": static_file_operation(
            "get_docs_file", "A file of that page", ("text/css", "text/javascript", "image/png"), "docs"
        )
    }
