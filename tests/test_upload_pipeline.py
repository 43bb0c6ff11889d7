"""Uploads: the queue, the work on each picture, and the state after failures."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from opentalking_core import hookimpl
from opentalking_core.errors import StoreFull, StoreUnavailable
from opentalking_core.portraits import picture as portraits
from opentalking_core.testing.fixtures import FakeMouth
from opentalking_core.testing.running import running_service

from .helpers.images import STORED_AS, encoded
from .helpers.stores import StampedStore, serve, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from opentalking_core import MouthLandmarks

    Encoder = Callable[[NDArray[np.uint8]], bytes]

BASE = "demo-wav2lip"
CUSTOM = {"custom_avatar": True}


class SlowMouth(FakeMouth):
    """A fake detector whose calls can be held."""

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Hold detections until `go_on` is called or the block ends."""
        self._may_go_on.clear()
        try:
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        self._may_go_on.set()

    @hookimpl
    def detect_mouth(self, image: NDArray[np.uint8]) -> MouthLandmarks | None:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self._may_go_on.wait(20)
        with self._lock:
            self.running -= 1
        return super().detect_mouth(image)


@pytest.fixture
def mouth() -> SlowMouth:
    return SlowMouth()


@pytest.fixture
def store() -> StampedStore:
    """Return a store with an avatar that can be a base."""
    store = StampedStore()
    store.put(BASE, files={"preview.png": encoded(Image.new("RGB", (64, 64)))}, model_type="wav2lip")
    return store


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to have many cores: a detector and the encoder overlap only if there are cores to spare."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def form(image: bytes, base: str = BASE) -> dict[str, tuple[str | None, str | bytes]]:
    return {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("a.jpg", image)}


def upload(service: httpx.Client, image: bytes) -> httpx.Response:
    return service.post("/avatars/custom", files=form(image))


def custom_ids(service: httpx.Client) -> set[str]:
    return {avatar["id"] for avatar in service.get("/avatars").json() if avatar["is_custom"]}


def running(service: httpx.Client) -> int:
    """Return how many uploads the service is taking in or working on."""
    found = re.search(r"^opentalking_uploads_running (\d+)", service.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


# -- the queue


def test_full_queue_refuses_uploads_and_serves_reads(store: StampedStore, mouth: SlowMouth, portrait: bytes) -> None:
    store.put("gone-soon", metadata=CUSTOM)
    with (
        serve(store, mouth, upload_queue=2) as service,
        ThreadPoolExecutor(2) as pool,
        mouth.holding(),
    ):
        uploads = [pool.submit(upload, service, portrait) for _ in range(2)]
        wait_until(lambda: mouth.running == 2)
        assert running(service) == 2
        for answer in (
            upload(service, portrait),
            service.post("/avatars/check", files={"image": portrait}),
            httpx.post(f"{service.base_url}/avatars/custom", files=form(portrait), trust_env=False),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "2 uploads" in answer.json()["detail"]
        assert refused_before_the_body(service).startswith(b"HTTP/1.1 503 ")
        listing = service.get("/avatars")
        assert listing.status_code == 200
        assert service.get("/avatars", headers={"If-None-Match": listing.headers["ETag"]}).status_code == 304
        for path in (f"/avatars/{BASE}", f"/avatars/{BASE}/preview", f"/avatars/{BASE}/preview?width=32", "/health"):
            assert service.get(path).status_code == 200, path
        assert service.delete("/avatars/gone-soon").status_code == 200
        assert running(service) == 2
        mouth.go_on()
        made = {answer.result().json()["id"] for answer in uploads}
        assert custom_ids(service) == made
        assert running(service) == 0
        assert upload(service, portrait).status_code == 200


def refused_before_the_body(service: httpx.Client) -> bytes:
    """Return the answer to an upload of which only the head is sent."""
    head = b"POST /avatars/custom HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with connection(service) as sock:
        sock.sendall(head + b"Content-Length: 1000000\r\n\r\n")
        return sock.recv(1000)


def connection(service: httpx.Client) -> socket.socket:
    return socket.create_connection((service.base_url.host, service.base_url.port or 80), timeout=30)


def test_refused_upload_frees_its_slot(store: StampedStore, portrait: bytes) -> None:
    wrong: list[tuple[dict[str, Any], int, int]] = [  # the request, and the statuses of /custom and /check
        ({"files": form(b"no picture")}, 400, 400),
        ({"files": form(portrait[:-100])}, 400, 400),
        ({"files": form(portrait, base="nobody")}, 404, 200),  # a check needs no base
        ({"files": form(bytes(10 * 1024 * 1024 + 1))}, 413, 413),
        ({"files": {"name": (None, "Alice")}}, 400, 400),
        ({"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, 400),
        ({"content": b"{}"}, 400, 400),
    ]
    with serve(store, upload_queue=1) as service:
        for request, *statuses in wrong:
            for path, status in zip(("/avatars/custom", "/avatars/check"), statuses, strict=True):
                assert service.post(path, **request).status_code == status
                assert running(service) == 0
        assert upload(service, portrait).status_code == 200


def test_uploads_beyond_the_portrait_slots_wait_and_succeed(
    store: StampedStore, mouth: SlowMouth, portrait: bytes
) -> None:
    """With threads there are two portrait slots, independent of the cores."""
    with serve(store, mouth, upload_queue=12) as service, ThreadPoolExecutor(12) as pool, mouth.holding():
        uploads = [pool.submit(upload, service, portrait) for _ in range(12)]
        wait_until(lambda: running(service) == 12 and mouth.running == 2)
        mouth.go_on()
        answers = [answer.result() for answer in uploads]
        assert [answer.status_code for answer in answers] == [200] * 12
        made = {answer.json()["id"] for answer in answers}
        assert len(made) == 12
        assert custom_ids(service) == made
    assert mouth.most_running == 2


def test_thumbnail_does_not_wait_for_uploads(store: StampedStore, mouth: SlowMouth, portrait: bytes) -> None:
    with serve(store, mouth) as service, ThreadPoolExecutor(6) as pool, mouth.holding():
        for _ in range(6):
            pool.submit(upload, service, portrait)
        wait_until(lambda: running(service) == 6 and mouth.running == 2)
        answer = service.get(f"/avatars/{BASE}/preview?width=32")
        assert answer.status_code == 200
        assert Image.open(io.BytesIO(answer.content)).width == 32
        assert running(service) == 6


# -- the picture


def test_detection_and_encoding_overlap_in_threads(
    store: StampedStore, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them waits until the other has begun."""
    both = threading.Barrier(2, timeout=15)

    class WaitingMouth(FakeMouth):
        @hookimpl
        def detect_mouth(self, image: NDArray[np.uint8]) -> MouthLandmarks | None:
            both.wait()
            return super().detect_mouth(image)

    def wait_and_encode(pixels: NDArray[np.uint8]) -> bytes:
        both.wait()
        return encode_png(pixels)

    encode_png = monkeypatched_encoder(monkeypatch, wait_and_encode)
    with serve(store, WaitingMouth()) as service:
        made = upload(service, portrait).json()["id"]
        assert service.get(f"/avatars/{made}").json()["metadata"]["mouth_polygon_source"] == "fake_mouth"


#: The same in a worker process, which loads this plugin itself.
WAITING_PLUGIN = """
import multiprocessing, threading
from opentalking_core import MouthLandmarks, hookimpl
from opentalking_core.portraits import picture

LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))
both = threading.Barrier(2, timeout=15)
encode_png = picture.encode_png

def wait_and_encode(pixels):
    both.wait()
    return encode_png(pixels)

if multiprocessing.parent_process() is not None:
    picture.encode_png = wait_and_encode

@hookimpl
def detect_mouth(image):
    both.wait()
    return MouthLandmarks(LIPS, LIPS)
"""


def test_detection_and_encoding_overlap_in_a_worker(store: StampedStore, portrait: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "waiting.py").write_text(WAITING_PLUGIN)
    with running_service(store.url, plugins={"watched": store}, plugin_files=[file], portrait_workers=2) as service:
        made = upload(service, portrait).json()["id"]
        assert service.get(f"/avatars/{made}").json()["metadata"]["mouth_polygon_source"] == "waiting"


def monkeypatched_encoder(monkeypatch: pytest.MonkeyPatch, encode: Encoder) -> Encoder:
    """Replace the encoder of pictures by `encode`; return the encoder that it replaces."""
    before = portraits.encode_png
    monkeypatch.setattr(portraits, "encode_png", encode)
    return before


def test_picture_is_encoded_and_committed_once_with_two_detectors(
    store: StampedStore, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first detector finds no mouth, so the second one is asked."""
    pngs: list[bytes] = []

    def encode_and_note(pixels: NDArray[np.uint8]) -> bytes:
        pngs.append(encode_png(pixels))
        return pngs[-1]

    encode_png = monkeypatched_encoder(monkeypatch, encode_and_note)
    (blind := FakeMouth()).landmarks = None
    sighted = FakeMouth()
    plugins = {"watched": store, "a_blind_one": blind, "sighted": sighted}
    with running_service(store.url, plugins=plugins) as service:
        made = upload(service, portrait).json()["id"]
        metadata = service.get(f"/avatars/{made}").json()["metadata"]
    assert (len(blind.shapes), len(sighted.shapes)) == (1, 1)
    ((avatar_id, files),) = store.created
    assert avatar_id == made
    pictures = [content for path, content in files.items() if path != "manifest.json"]
    assert len(pictures) == 3
    assert all(picture is pngs[0] for picture in pictures)
    assert len(pngs) == 1
    assert metadata["source_image_hash"] == hashlib.sha256(pngs[0]).hexdigest()


FITTED = (90, 120)


def picture(scale: float) -> Image.Image:
    """Draw the same picture in any size. Turned or mirrored, it looks different."""
    width, height = (round(scale * side) for side in FITTED)
    grey = Image.linear_gradient("L").resize((width, height))
    image = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grey.rotate(180)])
    draw = ImageDraw.Draw(image)
    draw.ellipse([width * 0.1, height * 0.1, width * 0.4, height * 0.5], fill=(200, 60, 40))
    draw.rectangle([width * 0.5, height * 0.6, width * 0.9, height * 0.7], fill=(30, 80, 220))
    if scale > 1:  # fine lines, which turn grey in the smallest size
        for y in range(height // 2, height, 2):
            draw.line([(0, y), (width // 3, y)], fill="white")
            draw.line([(0, y + 1), (width // 3, y + 1)], fill="black")
    return image


def test_large_jpeg_is_fitted_like_a_resized_picture(store: StampedStore) -> None:
    """JPEG decoders can scale by 2, 4 and 8. The result must be as large, upright and sharp as without scaling."""
    with serve(store, custom_avatar_max_width=FITTED[0], custom_avatar_max_height=FITTED[1]) as service:
        for scale in (1, 1.5, 2, 3, 4, 5, 8, 9):
            upright = picture(scale)
            expected = np.asarray(upright.resize(FITTED, Image.Resampling.LANCZOS), dtype=np.int16)
            for orientation, how in STORED_AS.items():
                exif = Image.Exif()
                exif[0x0112] = orientation
                stored = upright if how is None else upright.transpose(how)
                answer = upload(service, jpeg(stored, exif=exif)).json()
                assert (answer["width"], answer["height"]) == FITTED
                result = Image.open(io.BytesIO(service.get(f"/avatars/{answer['id']}/preview").content))
                difference = np.abs(np.asarray(result, dtype=np.int16) - expected)
                assert difference.mean() < 2, (scale, orientation)
                assert np.quantile(difference, 0.95) < 10, (scale, orientation)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_large_jpeg_in_other_colour_modes_is_fitted(store: StampedStore, mode: str) -> None:
    with serve(store, custom_avatar_max_width=FITTED[0], custom_avatar_max_height=FITTED[1]) as service:
        large = picture(8).convert(mode)
        made = upload(service, jpeg(large)).json()["id"]
        result = Image.open(io.BytesIO(service.get(f"/avatars/{made}/preview").content))
    expected = large.resize(FITTED, Image.Resampling.LANCZOS).convert("RGB")
    difference = np.abs(np.asarray(result, dtype=np.int16) - np.asarray(expected, dtype=np.int16))
    assert difference.mean() < 3


# -- failures


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        (StoreFull("there is no room"), 507),
        (StoreUnavailable("the bucket is on fire", retry_after=9), 503),
        (ZeroDivisionError("a bug"), 500),
    ],
)
def test_failed_commit_leaves_no_avatar(store: StampedStore, portrait: bytes, trouble: Exception, status: int) -> None:
    with serve(store, upload_queue=1, refresh_seconds=0.02) as service:
        assert custom_ids(service) == set()
        store.broken["create"] = trouble
        for _ in range(2):
            answer = upload(service, portrait)
            assert answer.status_code == status
            assert len(answer.json()["detail"].split()) > 2
            assert answer.headers.get("Retry-After") == ("9" if status == 503 else None)
            assert running(service) == 0
        assert len(store.created) == 2, "the service must not repeat a failed commit"
        store.wait_for_a_scan()
        assert custom_ids(service) == set()
        assert store.ids() == {BASE}
        store.broken.clear()
        assert upload(service, portrait).status_code == 200


@pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", [0.0, 0.5, 1.0], ids=["before the body", "in the middle", "after the body"])
def test_disconnected_client_frees_its_slot(
    store: StampedStore,
    mouth: SlowMouth,
    portrait: bytes,
    sent: float,
    abruptly: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve(store, mouth, upload_queue=1) as service, mouth.holding():
        request = service.build_request("POST", "/avatars/custom", files=form(portrait))
        body = request.read()
        head = b"POST /avatars/custom HTTP/1.1\r\n" + b"".join(
            f"{name}: {value}\r\n".encode() for name, value in request.headers.items()
        )
        with connection(service) as sock:
            sock.sendall(head + b"\r\n" + body[: int(len(body) * sent)])
            wait_until(lambda: mouth.running == 1 if sent == 1 else running(service) == 1)
            assert upload(service, portrait).status_code == 503
            if abruptly:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        mouth.go_on()
        wait_until(lambda: running(service) == 0)
        left = custom_ids(service)
        assert len(left) == (sent == 1), "a complete upload makes a complete avatar"
        assert store.ids() == {BASE, *left}
        assert upload(service, portrait).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
