"""Clients that send too much, too slowly, or something else than HTTP."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from opentalking_core.api import http_protocol, upload
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

HEAD = b"POST /avatars/custom HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"


@contextlib.contextmanager
def connection(service: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((service.base_url.host, service.base_url.port or 80), timeout=30) as sock:
        yield sock


def everything(sock: socket.socket) -> bytes:
    """What is sent until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


def flood(sock: socket.socket, piece: bytes, times: int) -> bytes:
    """Send `piece` again and again; what the server says before it closes the connection."""
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            sock.sendall(piece)
    return everything(sock)


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
def test_a_head_that_does_not_end(service: httpx.Client, start: bytes, piece: bytes) -> None:
    with connection(service) as sock:
        sock.sendall(start)
        answer = flood(sock, piece, 1000)
    assert answer == b"" or answer.split(b" ", 2)[1] in (b"431", b"400")
    assert service.get("/avatars").status_code == 200


def test_requests_that_come_all_at_once_are_not_taken_for_one_large_one(service: httpx.Client) -> None:
    request = b"GET /avatars HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 30_000 + b"\r\n\r\n"
    with connection(service) as sock:
        sock.sendall(request * 19 + request.replace(b"X: ", b"Connection: close\r\nX: "))
        assert everything(sock).count(b"HTTP/1.1 200 ") == 20


def test_trailers_that_do_not_end(service: httpx.Client) -> None:
    with connection(service) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\nX: ")
        answer = flood(sock, b"a" * 1024 * 1024, 200)
    assert b"HTTP/1.1 5" not in answer
    assert service.get("/avatars").status_code == 200


def test_a_head_that_does_not_come(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    with running_service(store_url) as service:
        for start in (
            b"",
            b"GET /av",
            b"GET /avatars HTTP/1.1\r\nHost: x\r\n",
            b"GET /avatars HTTP/1.1\r\n\r\nGET /av",
        ):
            with connection(service) as sock:
                sock.sendall(start)
                answer = everything(sock)  # returns once the server closes
            assert answer.count(b"HTTP/1.1 200") == start.count(b"\r\n\r\n")
        assert service.get("/avatars").status_code == 200


def test_an_upload_that_trickles_gives_its_place_back(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SECONDS_TO_BEGIN", 0.4)
    with running_service(store_url, upload_queue=1) as service, connection(service) as sock:
        sock.sendall(HEAD + b"Content-Length: 100000\r\n\r\n--b\r\n")
        while service.post("/avatars/custom").status_code != 503:  # it has the only place
            time.sleep(0.01)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < started + 20:
                sock.sendall(b"x")
                sock.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    answer = sock.recv(65536)
                    break
        sock.settimeout(20)
        while not answer.endswith(b"}"):
            answer += sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"KiB/s" in answer
        assert service.post("/avatars/custom").status_code == 400


def test_an_upload_that_is_slow_but_steady_is_taken(
    store_url: str, base: str, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SECONDS_TO_BEGIN", 0.5)
    monkeypatch.setattr(upload, "BYTES_PER_SECOND", 200)
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
def test_what_is_no_ordinary_request(
    service: httpx.Client, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connection(service) as sock:
        sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(2)
        with contextlib.suppress(TimeoutError):
            assert b" 500 " not in everything(sock)
    assert service.get("/avatars").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text
