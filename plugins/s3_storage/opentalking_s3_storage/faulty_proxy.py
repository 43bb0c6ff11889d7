"""An HTTP proxy in front of an S3 server, for tests and benchmarks. It counts requests and fails some on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
NOT_IMPLEMENTED = b"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>No.</Message></Error>"
FORBIDDEN = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>"

#: What happens to a request. "pass" forwards it. "slow down", "not implemented" and "forbid" refuse it with 503, 501
#: and 403. "drop" closes the connection before the request is forwarded; "lose answer" closes it afterwards, so that
#: the server acts and the response is lost. "hang" never responds. "pretend" responds 200 without forwarding.
Fate = Literal["pass", "slow down", "not implemented", "forbid", "drop", "lose answer", "hang", "pretend"]


class FaultyProxy:
    """The proxy. It closes the connection after each request, so that each request can fail alone.

    Args:
        target: the port of the server on 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = 0
        self.requests: Counter[str] = Counter()  # by kind: LIST, GET, HEAD, PUT, POST, DELETE
        self.fate: Callable[[str, str, dict[str, str]], Fate] = lambda kind, path, headers: "pass"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, started: Callable[[], None], stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started()
        await stop.wait()
        server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError),
            contextlib.closing(writer),
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            kind = "LIST" if method == "GET" and "list-type=2" in path else method
            self.requests[kind] += 1
            fate = self.fate(kind, path, headers)
            if fate == "hang":
                await asyncio.sleep(3600)
            elif fate == "slow down":
                writer.write(_answer("503 Slow Down", SLOW_DOWN))
            elif fate == "not implemented":
                writer.write(_answer("501 Not Implemented", NOT_IMPLEMENTED))
            elif fate == "forbid":
                writer.write(_answer("403 Forbidden", FORBIDDEN))
            elif fate == "pretend":
                writer.write(_answer("200 OK", b"", 'ETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n'))
            elif fate != "drop":
                answer = await self._forward(head, body)
                if fate == "pass":
                    writer.write(answer)
            await writer.drain()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        with contextlib.closing(writer):
            writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
            return await reader.read()


def _answer(status: str, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@contextlib.contextmanager
def running_proxy(target: int) -> Iterator[FaultyProxy]:
    """Run a proxy in a thread of its own."""
    proxy, started = FaultyProxy(target), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(proxy.serve(started.set, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
