"""Sends requests exactly as written, and returns responses exactly as received."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Headers = Mapping[str, str] | Iterable[tuple[str, str]]

T = TypeVar("T")


class Answer(NamedTuple):
    """A response: status, headers (names in lower case), and the body as sent, compressed or not."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(client: httpx.Client, path: str, headers: Headers = (), method: str = "GET") -> Answer:
    """Send a request with these headers, without the optional headers that httpx adds."""
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
    """Wait until the tags of just written files are stable: for 50 ms, a folder can't tell changes apart."""
    time.sleep(0.06)


def wait_for(what: Callable[[], T | None]) -> T:
    """Return the result of `what` as soon as it is true, or fail after ten seconds."""
    deadline = time.monotonic() + 10
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def hang_up(client: httpx.Client) -> None:
    """Close the connections of a client although another thread is reading from them."""
    for connection in client._transport._pool.connections:  # type: ignore[attr-defined]
        with contextlib.suppress(OSError, AttributeError):  # it is closed already, or not open yet
            connection._connection._network_stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    client.close()
