"""uvicorn's HTTP/1.1 with the limits that it lacks: on what a client sends, how long it takes, and what it leaves."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sized

#: Each connection is looked at every so many seconds, and closed if its client hasn't got on since the last look.
SECONDS_BETWEEN_LOOKS = 30.0

#: A request line and headers may have about so many bytes: those of the piece in which they begin don't count.
MAX_HEAD_BYTES = 64 * 1024

#: A request that doesn't announce its length may have so many bytes, whatever they are: an upload has fewer.
_MAX_UNANNOUNCED_BYTES = 16 * 1024 * 1024

#: So many requests may wait for their turn on a connection. They all come in one piece, of up to 256 KiB.
_MOST_PIPELINED = 1000

#: What comes after an answer, such as the rest of a refused upload, must be so many bytes from one look to the next.
_LEAST_BYTES = 64 * 1024


class LimitedHttpProtocol(HttpToolsProtocol):
    """Closes connections of clients that send too much, or nothing more, or don't read what they asked for.

    uvicorn would collect a head (and a chunked body's trailers, which nobody reads) and pipelined requests in memory
    without end, and wait for ever for the rest of a head or for a client to read its answers. How long a body may
    take is for those to say who read it.
    """

    _counted: object = None  # the request that was the last one at the end of the last piece
    _received = 0  # its bytes, but for those of the pieces up to the one in which it began
    _awaited: tuple[object, int] | None = (None, 0)  # both, if the client was to send something at the last look
    _unread = 0  # bytes that the client was to read at the last look; 0 if it has got on since
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The looks begin."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._timer = self.loop.call_later(SECONDS_BETWEEN_LOOKS, self.look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to look at any more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what came, but let uvicorn look at it first: most requests come in one piece.

        A piece in which a request begins, perhaps behind others, doesn't count.
        """
        super().data_received(data)
        if len(self.pipeline) > _MOST_PIPELINED:
            self.transport.abort()
        elif self.scope is not self._counted:
            self._counted = self.scope
            self._received = 0
        else:
            self._received += len(data)
            self._check_size()

    def _check_size(self) -> None:
        request = self.scope
        if request is None:  # nothing but line ends, yet
            return
        if "method" in request:  # uvicorn sets it when the head is complete
            if self._received > _MAX_UNANNOUNCED_BYTES and not self._is_length_announced():
                self.transport.abort()
        elif self._received > MAX_HEAD_BYTES:
            if self._may_refuse():
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to what isn't HTTP, if no other answer is due, and close the connection."""
        if self._may_refuse():
            super().send_400_response(msg)
        else:
            self.transport.close()

    def resume_writing(self) -> None:
        """The client has read most of what was ready for it."""
        self._unread = 0
        super().resume_writing()

    def look(self) -> None:
        """Close the connection if nothing has come of what the client is to send, or to read, since the last look."""
        self._timer = self.loop.call_later(SECONDS_BETWEEN_LOOKS, self.look)
        before, self._awaited = self._awaited, None
        if self._is_client_to_send():
            self._awaited = self.scope, self._received
            if before and before[0] is self.scope and self._received < before[1] + _LEAST_BYTES:
                self.transport.close()
        unread = self._count_unread()
        if 0 < self._unread <= unread:
            self.transport.abort()  # close() would wait for the client to read
        self._unread = unread

    def _is_client_to_send(self) -> bool:
        """Whether it is for the client to go on, and no keep-alive timer runs: uvicorn stops it at any byte."""
        if self.flow.read_paused:
            return False
        if self.cycle is None or self.cycle.scope is not self.scope:  # a head isn't complete
            return True
        return self.cycle.response_complete and self.timeout_keep_alive_task is None

    def _may_refuse(self) -> bool:
        """Whether what is written now is neither taken for part of an answer nor for the one to another request."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        return cycle.more_body and not cycle.response_started and not self.pipeline  # its own body is malformed

    def _is_length_announced(self) -> bool:
        return any(name == b"content-length" for name, _ in self.scope["headers"])

    def _count_unread(self) -> int:
        """Bytes that wait for the client to read, if the answer or the closing of the connection waits for that."""
        if not (self.flow.write_paused or self.transport.is_closing()):
            return 0
        unread = self.transport.get_write_buffer_size()
        if unread and sys.platform == "linux":
            # The kernel asks for more only when a third of its own buffer is free, which may take a slow reader long.
            with contextlib.suppress(OSError):
                sock = self.transport.get_extra_info("socket").fileno()
                unread += int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return unread


class _Flow(FlowControl):
    """Reads on only when no request waits for its turn: uvicorn would after each answer, and let in hundreds more."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            super().resume_reading()
