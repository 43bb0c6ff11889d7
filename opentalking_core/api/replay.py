"""Replays responses from memory while their source is current, without Falcon: this halves the time of a request."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon.asgi import Request

    from .asgi import ASGIApp, Message, Receive, Scope, Send
    from .observability import Observability

    Headers = list[tuple[bytes, bytes]]
    Key = tuple[str, tuple[tuple[bytes, bytes], ...]]

#: Request headers that a response may depend on. Authorization is not among them: where reading needs a key, the app is
#: not wrapped in the middleware.
_VARYING_HEADERS = frozenset(
    {b"accept-encoding", b"if-modified-since", b"if-none-match", b"if-range", b"origin", b"range"}
)

#: Keep at most this many responses, and none for a request whose varying headers exceed this many bytes in total, so
#: that a client can't fill memory by varying headers. Bodies are shared with the service's caches, not copied.
_MAX_RESPONSES = 4096
_MAX_HEADER_BYTES = 512

_SOURCE = "opentalking_core.source"


class _Response(NamedTuple):
    source: weakref.ref[object]
    current: Callable[[], object]
    route: str
    status: int
    headers: Headers
    body: Message


def replay_while(req: Request, source: object, current: Callable[[], object]) -> None:
    """Allow `ReplayMiddleware` to replay the response to `req` while `current()` returns `source`.

    Args:
        req: the request that is being answered.
        source: what the response is made of. The source, the path and the request headers determine the response.
        current: returns within microseconds what the response would be made of now, or None if that is not known.
    """
    # A weak reference, because the server keeps the scope for as long as the client stays connected.
    req.scope[_SOURCE] = weakref.ref(source), current, req.uri_template


class ReplayMiddleware:
    """ASGI middleware: record responses to GET requests without a query, and replay them.

    Args:
        app: answers every request that can't be replayed.
        observability: gives each replayed response its X-Request-ID, and counts the request.
    """

    def __init__(self, app: ASGIApp, observability: Observability) -> None:
        self._app = app
        self._observability = observability
        self._responses: dict[Key, _Response] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "GET" or scope["query_string"]:
            await self._app(scope, receive, send)
        elif not await self.replay(scope, send):
            await self._app(scope, receive, self._recording(scope, send))

    async def replay(self, scope: Scope, send: Send) -> bool:
        """Send the recorded response if it is current, and return whether a response was sent."""
        started = time.perf_counter()
        key, sent_id = _key(scope)
        response = self._responses.get(key)
        if response is None:
            return False
        try:
            source = response.current()
        except Exception:  # The store raised. The app meets the same error and reports it properly.
            return False
        if source is None or source is not response.source():
            return False
        own_id = self._observability.identify(sent_id)
        self._observability.finish(scope, response.route, response.status, started)
        headers = [*response.headers, (b"x-request-id", own_id.encode())]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send(response.body)
        return True

    def _recording(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that records the response if `replay_while` is called for the request."""
        start: Message = {}

        async def send_and_record(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif _SOURCE in scope and not message.get("more_body"):
                self._record(scope, start, message)
            await send(message)

        return send_and_record

    def _record(self, scope: Scope, start: Message, body: Message) -> None:
        key, _ = _key(scope)
        varying = key[1]
        # Ordinary clients send neither repeated nor very long headers, and a key made of such headers takes memory.
        if len(varying) > len(_VARYING_HEADERS) or sum(len(value) for _, value in varying) > _MAX_HEADER_BYTES:
            return
        source_ref, current, route = scope[_SOURCE]
        source = source_ref()
        # A 206 holds a copy of a part of the file, which takes memory; errors are rare. A source that is gone was
        # replaced while the response was made.
        if start["status"] not in (200, 304) or source is None:
            return
        if len(self._responses) >= _MAX_RESPONSES:
            self._responses.clear()
        evicting_ref = weakref.ref(source, lambda _: self._responses.pop(key, None))
        headers = [header for header in start["headers"] if header[0] != b"x-request-id"]
        self._responses[key] = _Response(evicting_ref, current, route, start["status"], headers, body)


def _key(scope: Scope) -> tuple[Key, str | None]:
    """Return what the response may depend on, and the request's X-Request-ID if there is exactly one."""
    varying, sent_id = [], None
    for header in scope["headers"]:
        if header[0] in _VARYING_HEADERS:
            varying.append(header)
        elif header[0] == b"x-request-id":  # Falcon joins two ids with a comma, which makes them invalid
            sent_id = header[1].decode("latin-1") if sent_id is None else ","
    return (scope["path"], tuple(varying)), sent_id
