"""Clients that send too much, too slowly or no valid HTTP, or that don't read the responses they requested."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from opentalking_core.api import http_protocol, upload
from opentalking_core.testing import running
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

HEAD = b"POST /avatars/custom HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"

GET = b"GET /avatars HTTP/1.1\r\nHost: x\r\n\r\n"


class Watched(http_protocol.LimitedHttpProtocol):
    """Lets a test check the progress of its only connection at any time, and count the bytes that arrive there."""

    last: Watched
    keep_alive_seconds = 5.0
    checks_after_each_chunk = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        Watched.last = self
        self.timeout_keep_alive = self.keep_alive_seconds
        self.bytes_received = 0
        self.lost = threading.Event()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.checks_after_each_chunk:
            self.check_progress()
        self.bytes_received += len(data)

    def check_progress_now(self) -> None:
        checked = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (self.check_progress(), checked.set()))
        assert checked.wait(30)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make services use the protocol `Watched`."""
    monkeypatch.setattr(running, "LimitedHttpProtocol", Watched)


@contextlib.contextmanager
def connection(service: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((service.base_url.host, service.base_url.port or 80), timeout=30) as sock:
        yield sock


def receive_all(sock: socket.socket) -> bytes:
    """Receive until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


def receive_some(sock: socket.socket) -> bytes:
    """Receive what is there; fail if the server has closed the connection."""
    data = sock.recv(65536)
    assert data, "closed by the server"
    return data


def next_answer(sock: socket.socket) -> bytes:
    """Receive the next response, make sure that nothing follows, and return its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive_some(sock)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    while len(body) < length:
        body += receive_some(sock)
    assert len(body) == length
    return head


def flood(sock: socket.socket, piece: bytes, times: int) -> bytes:
    """Send `piece` repeatedly, and return what the server sends before it closes the connection."""
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            sock.sendall(piece)
    return receive_all(sock)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /", b"a" * 65536),
        (b"GET /avatars HTTP/1.1\r\nX: ", b"a" * 65536),
        (b"GET /avatars HTTP/1.1\r\n", b"a" * 65536),
        (b"GET /avatars HTTP/1.1\r\n", b"X: a\r\n" * 10_000),
    ],
    ids=["path", "value", "name", "headers"],
)
def test_endless_head_closes_the_connection(service: httpx.Client, start: bytes, piece: bytes) -> None:
    with connection(service) as sock:
        sock.sendall(start)
        answer = flood(sock, piece, 1000)
    # The answer is lost if the client's last bytes reach a closed socket, and the system resets the connection.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert service.get("/avatars").status_code == 200


def test_many_pipelined_requests_do_not_count_as_one_large_head(service: httpx.Client) -> None:
    request = b"GET /avatars HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 30_000 + b"\r\n\r\n"
    with connection(service) as sock:
        sock.sendall(request * 19 + request.replace(b"X: ", b"Connection: close\r\nX: "))
        assert receive_all(sock).count(b"HTTP/1.1 200 ") == 20


def test_endless_trailers_close_the_connection(service: httpx.Client) -> None:
    with connection(service) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\nX: ")
        answer = flood(sock, b"a" * 1024 * 1024, 200)
    assert b"HTTP/1.1 5" not in answer
    assert service.get("/avatars").status_code == 200


def test_incomplete_head_closes_the_connection(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "PROGRESS_CHECK_SECONDS", 0.2)
    with running_service(store_url) as service:
        for start in (
            b"",
            b"GET /av",
            b"GET /avatars HTTP/1.1\r\nHost: x\r\n",
            b"GET /avatars HTTP/1.1\r\n\r\nGET /av",
        ):
            with connection(service) as sock:
                sock.sendall(start)
                answer = receive_all(sock)  # returns once the server closes
            assert answer.count(b"HTTP/1.1 200") == start.count(b"\r\n\r\n")
        assert service.get("/avatars").status_code == 200


@pytest.mark.usefixtures("watched")
def test_heads_that_always_straddle_two_chunks_keep_the_connection(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head is incomplete at every check, but a different one each time."""
    monkeypatch.setattr(Watched, "checks_after_each_chunk", True)
    with running_service(store_url) as service, connection(service) as sock:
        sock.sendall(GET[:20])
        for _ in range(5):
            sock.sendall(GET[20:] + GET[:20])
            assert next_answer(sock).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_request_without_need_of_its_body_is_answered_at_once(service: httpx.Client, method: str) -> None:
    with connection(service) as sock:
        sock.sendall(method.encode() + b" /avatars HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("times", [1, 10_000], ids=["once", "now and then"])
@pytest.mark.parametrize(
    ("request_bytes", "piece"),
    [(GET, b"\r\n"), (GET.replace(b"Host", b"Content-Length: 100000\r\nHost"), b"x")],
    ids=["line ends", "body"],
)
def test_trickle_after_a_response_closes_the_connection(
    store_url: str, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes, piece: bytes, times: int
) -> None:
    monkeypatch.setattr(http_protocol, "PROGRESS_CHECK_SECONDS", 0.2)
    with running_service(store_url) as service, connection(service) as sock:
        sock.sendall(request_bytes)
        next_answer(sock)
        closed = False
        sock.settimeout(0.01)
        with contextlib.suppress(ConnectionError):
            for _ in range(times):
                sock.sendall(piece)
                with contextlib.suppress(TimeoutError):
                    closed = sock.recv(65536) == b""
                    break
        sock.settimeout(30)
        assert closed or receive_all(sock) == b""


@pytest.mark.usefixtures("watched")
def test_rest_of_a_refused_upload_may_arrive_slowly(store_url: str) -> None:
    piece = bytes(100_000)
    with running_service(store_url) as service, connection(service) as sock:
        sock.sendall(HEAD.replace(b"multipart/form-data", b"image/png") + b"Content-Length: 500000\r\n\r\n")
        assert next_answer(sock).startswith(b"HTTP/1.1 400 ")
        expected = Watched.last.bytes_received
        for _ in range(5):
            sock.sendall(piece)
            expected += len(piece)
            while Watched.last.bytes_received < expected:
                assert not Watched.last.lost.is_set()
                time.sleep(0.001)
            Watched.last.check_progress_now()
        sock.sendall(GET)
        assert next_answer(sock).startswith(b"HTTP/1.1 200 ")


def test_too_many_pipelined_requests_close_the_connection(service: httpx.Client) -> None:
    times = 14_000
    with connection(service) as sock:
        assert flood(sock, b"HEAD / HTTP/1.1\r\n\r\n" * times, 1).count(b"HTTP/1.1 ") < times
    assert service.get("/avatars").status_code == 200


def test_pipelined_requests_are_read_no_faster_than_answered(service: httpx.Client) -> None:
    """The requests of one chunk are fewer than the limit; those of several chunks exceed the limit."""
    request = b"HEAD /avatars HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 400 + b"\r\n\r\n"
    times = 5000
    with connection(service) as sock:
        sender = threading.Thread(target=flood_without_reading, args=[sock, request * times])
        sender.start()
        answers = b""
        while (data := sock.recv(65536)) and (answers := answers + data).count(b"\r\n\r\n") < times:
            pass
        sender.join()
    assert answers.count(b"HTTP/1.1 200 ") == times


def flood_without_reading(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(data)


@pytest.fixture
def preview(put_bundle: PutBundle) -> bytes:
    """Store a preview of anna that exceeds the socket buffers of server and client, and return it."""
    content = random.Random(1).randbytes(1024) * 20 * 1024
    put_bundle("anna", files={"preview.png": content})
    return content


PREVIEW = b"GET /avatars/anna/preview HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def narrow_connection(service: httpx.Client) -> Iterator[socket.socket]:
    """Connect with a small receive buffer."""
    with socket.socket() as sock:
        sock.settimeout(30)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.connect((service.base_url.host, service.base_url.port or 80))
        yield sock


@pytest.mark.parametrize("cache_mb", [1, 200], ids=["streamed", "from memory"])
@pytest.mark.usefixtures("watched")
def test_unread_response_closes_the_connection(
    store_url: str, preview: bytes, monkeypatch: pytest.MonkeyPatch, cache_mb: int
) -> None:
    """A response from memory is complete for the server, so the keep-alive timeout closes the connection."""
    monkeypatch.setattr(http_protocol, "PROGRESS_CHECK_SECONDS", 0.2)
    monkeypatch.setattr(Watched, "keep_alive_seconds", 0.1)
    with running_service(store_url, cache_mb=cache_mb) as service, narrow_connection(service) as sock:
        sock.sendall(PREVIEW)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        assert Watched.last.lost.wait(30)
        assert len(receive_all(sock)) < len(preview)


@pytest.mark.parametrize("cache_mb", [1, 200], ids=["streamed", "from memory"])
@pytest.mark.usefixtures("watched")
def test_slowly_read_response_arrives_whole(store_url: str, preview: bytes, cache_mb: int) -> None:
    with running_service(store_url, cache_mb=cache_mb) as service, narrow_connection(service) as sock:
        sock.sendall(PREVIEW.replace(b"Host", b"Connection: close\r\nHost"))
        received = b""
        for end in range(0, 9_000_000, 300_000):
            while len(received) <= end:
                received += receive_some(sock)
            Watched.last.check_progress_now()
        received += receive_all(sock)
        assert received.endswith(b"\r\n\r\n" + preview)


@pytest.mark.parametrize("nonsense", [b"GET /" + b"a" * 500_000, b"\x00" * 100], ids=["431", "400"])
def test_malformed_request_does_not_interrupt_a_response(store_url: str, preview: bytes, nonsense: bytes) -> None:
    with running_service(store_url, cache_mb=1) as service, connection(service) as sock:
        sock.sendall(PREVIEW)
        start = sock.recv(100)
        sock.sendall(nonsense)
        head, _, body = (start + receive_all(sock)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert preview.startswith(body)


def test_trickling_upload_is_answered_408_and_frees_its_place(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "UPLOAD_GRACE_SECONDS", 0.4)
    with running_service(store_url, upload_queue=1) as service, connection(service) as sock:
        sock.sendall(HEAD + b"Content-Length: 100000\r\n\r\n--b\r\n")
        while service.post("/avatars/custom").status_code != 503:  # it has the only place
            time.sleep(0.01)
        answer = b""
        sock.settimeout(0.05)
        deadline = time.monotonic() + 20
        while not answer:
            assert time.monotonic() < deadline, "the upload still occupies its place"
            sock.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = receive_some(sock)
        sock.settimeout(20)
        while not answer.endswith(b"}"):
            answer += receive_some(sock)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"KiB/s" in answer
        assert service.post("/avatars/custom").status_code == 400


def test_slow_but_steady_upload_succeeds(
    store_url: str, base: str, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "UPLOAD_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(upload, "MIN_BYTES_PER_SECOND", 200)
    with running_service(store_url) as service, connection(service) as sock:
        form = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="' + name + b'"; filename=a\r\n\r\n' + value + b"\r\n"
            for name, value in ((b"name", b"Alice"), (b"base_avatar_id", base.encode()), (b"image", portrait))
        )
        body = form + b"--b--\r\n"
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), len(body) // 10):
            sock.sendall(body[start : start + len(body) // 10])
            time.sleep(0.1)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /avatars HTTP/9.9\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET http://elsewhere/avatars HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //avatars/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /avatars/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /avatars/..%2f..%2fetc/preview HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /avatars HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /avatars/custom HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /avatars/custom HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /avatars/custom HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"GET /avatars HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        b"GET /avatars HTTP/1.1\r\nIf-None-Match: \xff\r\nRange: bytes=a\r\nAuthorization: \xff\xfe\r\n\r\n",
        b"DELETE /avatars/x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_unusual_request_responds_no_500(
    service: httpx.Client, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connection(service) as sock:
        sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(2)
        with contextlib.suppress(TimeoutError):
            assert b" 500 " not in receive_all(sock)
    assert service.get("/avatars").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text
