"""Answering with a file of a bundle, from memory or streamed from the store."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import falcon

from ..catalog.file_cache import CachedFile
from .conditional import answer_not_modified, requested_range
from .replay import replay_while

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from falcon.asgi import Request, Response

    from ..bundles.store import FileReader
    from ..service import StoredFile


async def answer_stored_file(
    req: Request,
    resp: Response,
    cached: Callable[[], CachedFile | None],
    opened: Callable[[], contextlib.AbstractAsyncContextManager[StoredFile]],
    content_type: str,
) -> None:
    """Answer with a file from memory if it is known to be fresh there, else from the store.

    Args:
        req: the request.
        resp: the response to fill in.
        cached: returns the file in memory; the response is replayed while it returns the same one.
        opened: opens the file in the store.
        content_type: of the file.
    """
    if file := cached():
        replay_while(req, file, cached)
        answer_file(req, resp, file, content_type)
        return
    async with contextlib.AsyncExitStack() as stack:
        answer_file(req, resp, await stack.enter_async_context(opened()), content_type, stack)


def answer_file(
    req: Request, resp: Response, file: StoredFile, content_type: str, stack: contextlib.AsyncExitStack | None = None
) -> None:
    """Answer with a file, or with the range of the file that the request asks for.

    Args:
        req: the request; conditional and range headers are honoured.
        resp: the response to fill in.
        file: the open file.
        content_type: of the file.
        stack: closes the file; if the response streams the file, the response takes the stack over.
    """
    info = file.info
    resp.content_type = content_type
    if answer_not_modified(req, resp, info.etag, info.modified):
        return
    resp.set_header("Accept-Ranges", "bytes")
    start, stop = 0, info.size
    if (requested := requested_range(req, info.size, info.etag)) is not None:
        start, stop = requested
        resp.status = falcon.HTTP_206
        resp.content_range = (start, stop - 1, info.size, "bytes")
    if isinstance(file, CachedFile):
        resp.data = file.data if requested is None else file.data[start:stop]
        return
    resp.content_length = stop - start
    if req.method != "HEAD" and stack is not None:
        resp.stream = _FileStream(file, start, stop, stack.pop_all())  # type: ignore[assignment]  # an iterable will do


class _FileStream:
    """A part of a file as the body of a response. Falcon calls `close()` even if the client disconnects."""

    def __init__(self, file: FileReader, start: int, stop: int, stack: contextlib.AsyncExitStack) -> None:
        self._chunks = file.chunks(start, stop)
        self._stack = stack

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def close(self) -> None:
        await self._stack.aclose()
