"""uvicorn's HTTP/1.1 with the limits that it lacks: how long a request's head may take, and how large it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

#: A request line and headers may have so many bytes, and must be there after so many seconds.
MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0

#: A request that doesn't announce its length may have so many bytes, whatever they are: an upload has fewer.
_MAX_UNANNOUNCED_BYTES = 16 * 1024 * 1024


class LimitedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a head that doesn't end, closes a connection whose head doesn't come, or whose body never ends.

    uvicorn would collect the head (and a chunked body's trailers, which nobody reads) in memory, and wait for ever.
    """

    _received = 0
    _of: object = None  # the request that these bytes are of
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock starts."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what came, but let uvicorn look at it first: most requests come in one piece.

        A piece in which a request begins, perhaps behind others, doesn't count.
        """
        super().data_received(data)
        request = self.scope
        self._received = self._received + len(data) if request is self._of else 0
        self._of = request
        if request is None:  # nothing but line ends, yet
            return
        if "method" in request:  # uvicorn sets it when the head is complete
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._received > _MAX_UNANNOUNCED_BYTES and not self._is_length_announced():
                self.transport.abort()
        elif self._received > MAX_HEAD_BYTES:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _is_length_announced(self) -> bool:
        return any(name == b"content-length" for name, _ in self.scope["headers"])
