"""Requests exactly as written, and their answers exactly as they came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Headers = Mapping[str, str] | Iterable[tuple[str, str]]

T = TypeVar("T")


class Answer(NamedTuple):
    """Its status, its headers (names in lower case), and its body as it was sent, compressed or not."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(client: httpx.Client, path: str, headers: Headers = (), method: str = "GET") -> Answer:
    """Send these headers and none that httpx would add, but for those that HTTP needs."""
    request = client.build_request(method, path)
    for name in ("accept", "accept-encoding", "user-agent"):
        del request.headers[name]
    given = headers.items() if hasattr(headers, "items") else headers
    request.headers = httpx.Headers(
        [*request.headers.raw, *((name.encode(), value.encode("latin-1")) for name, value in given)]
    )
    answer = client.send(request, stream=True)
    try:
        return Answer(answer.status_code, dict(answer.headers), b"".join(answer.iter_raw()))
    finally:
        answer.close()


def let_tags_settle() -> None:
    """Wait until the tags of files that were just written stay: a folder tells times apart 50 ms later."""
    time.sleep(0.06)


def wait_for(what: Callable[[], T | None]) -> T:
    """What it returns as soon as that is true; fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found
