"""The types of ASGI, and a middleware that lets Falcon answer before a request's body has arrived."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_RECEIVE = "opentalking.receive"

#: The key of a scope with functions that end a stream, which the server calls when it begins to end.
STREAM_END = "opentalking.stream_end"


async def client_left(scope: Scope) -> None:
    """Return when the client of a request, whose body has been read, closes the connection."""
    while (await scope[_RECEIVE]())["type"] != "http.disconnect":
        pass


class DispatchBeforeBody:
    """ASGI middleware: tell the app at once that a body is coming.

    Falcon waits for the first bytes of a body before it dispatches a request. With this middleware, an upload whose
    Content-Length is too large is refused before the client sends it (and before "100 Continue" invites the client to),
    and a GET that announces a body is answered without waiting for the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_RECEIVE] = receive
        scope[STREAM_END] = []
        await self._app(scope, _starting_with_empty_chunk(receive) if scope["type"] == "http" else receive, send)


def _starting_with_empty_chunk(receive: Receive) -> Receive:
    dispatched = False

    async def receive_after_dispatch() -> Message:
        nonlocal dispatched
        if dispatched:
            return await receive()
        dispatched = True
        return {"type": "http.request", "body": b"", "more_body": True}

    return receive_after_dispatch
