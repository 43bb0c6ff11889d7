"""The baseline: Falcon on uvicorn, answering with bytes from memory, and nothing else.

`python -m benchmarks.bare FOLDER PORT` answers /<name> with the bytes of each file in FOLDER, and /not-modified with a
bare 304.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import uvicorn


class Bytes:
    """Answers with bytes from memory."""

    def __init__(self, data: bytes, content_type: str) -> None:
        self._data = data
        self._content_type = content_type

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = self._content_type
        resp.data = self._data


class NotModified:
    """Answers 304 without looking anything up."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.status = falcon.HTTP_304


def _serve(folder: Path, port: int) -> None:
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    app.add_route("/not-modified", NotModified())
    for file in folder.iterdir():
        content_type = falcon.MEDIA_PNG if file.suffix == ".png" else falcon.MEDIA_JSON
        app.add_route(f"/{file.name}", Bytes(file.read_bytes(), content_type))
    # the same server, event loop, HTTP parser and options as `opentalking-core serve`
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, server_header=False, log_level="warning")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
