"""Answers that are given again while what they were made of is the same, without Falcon: it takes half the time."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from falcon.asgi import Request

    from .observability import Observability

    Scope = dict[str, Any]
    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Headers = list[tuple[bytes, bytes]]
    Key = tuple[str, tuple[tuple[bytes, bytes], ...]]

#: Request headers that an answer may depend on. Who may read isn't among them: nothing is replayed where it matters.
_DECISIVE = frozenset({b"accept-encoding", b"if-modified-since", b"if-none-match", b"if-range", b"origin", b"range"})

#: So many answers are kept, to requests whose decisive headers are no longer than that together, and not given again
#: and again: what clients make up shall not fill the memory. The bodies aren't copies.
_MOST_ANSWERS = 4096
_LONGEST_HEADERS = 512

_SOURCE = "opentalking_core.source"


class _Answer(NamedTuple):
    source: weakref.ref[object]
    current: Callable[[], object]
    route: str
    status: int
    headers: Headers
    body: Message


def replay_while(req: Request, source: object, current: Callable[[], object]) -> None:
    """Have the answer to this request given to others like it, too, for as long as `current()` is `source`.

    Args:
        req: the request that is being answered.
        source: what the answer is made of: it, and the request's path and headers, decide all of the answer.
        current: returns in microseconds what it would be made of now; None if that can't be told without waiting.
    """
    # A weak reference, because the server keeps the scope for as long as the client stays connected.
    req.scope[_SOURCE] = weakref.ref(source), current, req.uri_template


class Replay:
    """Keeps answers to GETs without a query, and gives them again.

    Args:
        observability: gives each answer its X-Request-ID, and counts it.
    """

    def __init__(self, observability: Observability) -> None:
        self._observability = observability
        self._answers: dict[Key, _Answer] = {}

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer the request if the answer is known; whether it was."""
        started = time.perf_counter()
        key, sent_id = _key(scope)
        answer = self._answers.get(key)
        if answer is None or scope["query_string"]:
            return False
        try:
            source = answer.current()
        except Exception:  # a store's bug: Falcon meets it, too, and has words for it
            return False
        if source is None or source is not answer.source():
            return False
        own_id = self._observability.identify(sent_id)
        self._observability.finish(scope, answer.route, answer.status, started)
        headers = [*answer.headers, (b"x-request-id", own_id.encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send(answer.body)
        return True

    def recording(self, scope: Scope, send: Send) -> Send:
        """A `send` that keeps the answer if `replay_while` is called meanwhile."""
        if scope["query_string"]:
            return send
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
        decisive = key[1]
        # Headers that are repeated or very long: ordinary clients don't send them, and keys made of them take memory.
        if len(decisive) > len(_DECISIVE) or sum(len(value) for _, value in decisive) > _LONGEST_HEADERS:
            return
        made_of, current, route = scope[_SOURCE]
        source = made_of()
        # The part of a file that a 206 has is a copy, which takes memory, and errors are rare. A source that is gone
        # was replaced while the answer was made.
        if start["status"] not in (200, 304) or source is None:
            return
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        gone = weakref.ref(source, lambda _: self._answers.pop(key, None))
        headers = [header for header in start["headers"] if header[0] != b"x-request-id"]
        self._answers[key] = _Answer(gone, current, route, start["status"], headers, body)


def _key(scope: Scope) -> tuple[Key, str | None]:
    """What the answer may depend on, and the request's id if it was sent with one."""
    decisive, sent_id = [], None
    for header in scope["headers"]:
        if header[0] in _DECISIVE:
            decisive.append(header)
        elif header[0] == b"x-request-id":  # two of them are none, as Falcon puts them together
            sent_id = header[1].decode("latin-1") if sent_id is None else ","
    return (scope["path"], tuple(decisive)), sent_id
