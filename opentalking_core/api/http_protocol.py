"""uvicorn's HTTP/1.1 protocol with limits that uvicorn lacks: on the size of requests and on idle clients.

It relies on private names of uvicorn, which tests/test_http_protocol.py lists; pyproject.toml bounds uvicorn's version.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .asgi import STREAM_END

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sized

#: Check each connection this often, and close it if its client has made no progress since the previous check.
PROGRESS_CHECK_SECONDS = 30.0

#: Limit of a request line and headers. The chunk in which they start does not count.
MAX_HEAD_BYTES = 64 * 1024

#: Limit of a request without Content-Length, in total. Uploads are smaller.
_MAX_UNANNOUNCED_BYTES = 16 * 1024 * 1024

#: How many requests may wait on a connection. They arrive in one chunk, of up to 256 KiB.
_MAX_PIPELINED_REQUESTS = 1000

#: What a client sends after a response, such as the rest of a refused upload, is at least this much between two checks.
_MIN_PROGRESS_BYTES = 64 * 1024


class LimitedHttpProtocol(HttpToolsProtocol):
    """Closes connections of clients that send too much, stop sending, or don't read the responses that they requested.

    Without it, uvicorn collects an endless head (and the trailers of a chunked body, which nothing reads) and pipelined
    requests in memory without limit, and waits without limit for the rest of a head, or for a client to read. How long
    a body may take is decided by the code that reads the body.
    """

    _last_request: object = None  # the request that was current when the previous chunk ended
    _received_bytes = 0  # received for that request, without the chunks up to the one in which it started
    #: (request, received bytes) at the previous check, if the client was expected to send.
    _expected_at_check: tuple[object, int] | None = (None, 0)
    _unread_bytes = 0  # waiting for the client at the previous check; 0 if the client has made progress since
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _BackpressureFlow(transport, self.pipeline)
        self._timer = self.loop.call_later(PROGRESS_CHECK_SECONDS, self.check_progress)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # uvicorn parses first, because most requests come in one chunk. A chunk in which a request starts, perhaps
        # behind other requests, does not count.
        super().data_received(data)
        if len(self.pipeline) > _MAX_PIPELINED_REQUESTS:
            self.transport.abort()
        elif self.scope is not self._last_request:
            self._last_request = self.scope
            self._received_bytes = 0
        else:
            self._received_bytes += len(data)
            self._check_size()

    def _check_size(self) -> None:
        request = self.scope
        if request is None:  # only line ends so far
            return
        if "method" in request:  # uvicorn sets it when the head is complete
            if self._received_bytes > _MAX_UNANNOUNCED_BYTES and not self._is_length_announced():
                self.transport.abort()
        elif self._received_bytes > MAX_HEAD_BYTES:
            if self._can_refuse():
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to data that isn't HTTP if no other response is due, and close the connection."""
        if self._can_refuse():
            super().send_400_response(msg)
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Begin to end. Responses are finished, except streams without an end."""
        if self.cycle is not None:
            ends: list[Callable[[], object]] = self.cycle.scope.get(STREAM_END, [])  # type: ignore[assignment]
            for end in ends:
                end()
            if ends and self.flow.write_paused:
                self.transport.abort()  # nobody reads the stream, and its next event would wait for that
        super().shutdown()

    def resume_writing(self) -> None:
        self._unread_bytes = 0
        super().resume_writing()

    def check_progress(self) -> None:
        """Close the connection if the client has neither sent nor read what it should since the previous check."""
        self._timer = self.loop.call_later(PROGRESS_CHECK_SECONDS, self.check_progress)
        before, self._expected_at_check = self._expected_at_check, None
        if self._is_client_expected_to_send():
            self._expected_at_check = self.scope, self._received_bytes
            if before and before[0] is self.scope and self._received_bytes < before[1] + _MIN_PROGRESS_BYTES:
                self.transport.close()
        unread = self._count_unread_bytes()
        if 0 < self._unread_bytes <= unread:
            self.transport.abort()  # close() would wait for the client to read
        self._unread_bytes = unread

    def _is_client_expected_to_send(self) -> bool:
        """Return whether the client has to continue and no keep-alive timer runs: any byte stops uvicorn's timer."""
        if self.flow.read_paused:
            return False
        if self.cycle is None or self.cycle.scope is not self.scope:  # a head is incomplete
            return True
        return self.cycle.response_complete and self.timeout_keep_alive_task is None

    def _can_refuse(self) -> bool:
        """Return whether a client would take a response written now as the response to the refused request."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        return cycle.more_body and not cycle.response_started and not self.pipeline  # its own body is malformed

    def _is_length_announced(self) -> bool:
        return any(name == b"content-length" for name, _ in self.scope["headers"])

    def _count_unread_bytes(self) -> int:
        """Return how many bytes wait for the client to read, if the app or the end of the connection waits for that."""
        if not (self.flow.write_paused or self.transport.is_closing()):
            return 0
        unread = self.transport.get_write_buffer_size()
        if unread and sys.platform == "linux":
            # Linux accepts more data only when a third of its own send buffer is free. A slow reader may need longer
            # for that than the time between two checks.
            with contextlib.suppress(OSError):
                sock = self.transport.get_extra_info("socket").fileno()
                unread += int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return unread


class _BackpressureFlow(FlowControl):
    """Resumes reading only when no request waits. uvicorn resumes after each response, and accepts hundreds more."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            super().resume_reading()
