"""The service over S3: what clients see while S3 fails, and several API processes over one bucket."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from opentalking_s3_storage.testing import SeaweedFS
from PIL import Image

from opentalking_core.testing.fixtures import FakeMouth
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentalking_s3_storage.faulty_proxy import FaultyProxy

    from opentalking_core.testing.fixtures import PutBundle

REFRESH_SECONDS = 0.2
GIVE_UP_SECONDS = 60.0


@pytest.fixture
def store_url(s3_url: str) -> str:
    """Return the store that `put_bundle` writes to."""
    return s3_url


def portrait() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((48, 64)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def post(client: httpx.Client, name: str) -> httpx.Response:
    fields = {"name": (None, name), "base_avatar_id": (None, "base"), "image": ("p.jpg", portrait())}
    return client.post("/avatars/custom", files=fields)


def listed(client: httpx.Client) -> list[str]:
    return [avatar["id"] for avatar in client.get("/avatars").json()]


def eventually(condition: Callable[[], bool], seconds: float = GIVE_UP_SECONDS) -> None:
    """Wait until the condition is true, and fail after a time that is far longer than it should take."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_says(answer: httpx.Response, *words: str) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert all(word in answer.json()["detail"] for word in words), answer.text
    assert "only-for-a-server-on-loopback" not in answer.text


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", ("credentials", "SignatureDoesNotMatch")),
        ("AWS_ACCESS_KEY_ID", "wrong", ("credentials", "InvalidAccessKeyId")),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", ("can't be reached", "http://127.0.0.1:9")),
    ],
)
def test_wrong_configuration_is_named_in_503(
    s3_url: str, s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv(setting, value)
    with running_service(s3_url) as client:
        for path in ("/avatars", "/avatars/anna", "/avatars/anna/preview"):
            assert_says(client.get(path), s3_url, *words)
        assert client.get("/health").status_code == 503


def test_missing_bucket_is_named_in_503(s3_server: SeaweedFS) -> None:
    with running_service("s3://nothing-here/prefix") as client:
        assert_says(client.get("/avatars"), "no bucket 'nothing-here'")


@pytest.mark.parametrize("fate", ["slow down", "drop", "hang"])
def test_failing_server_means_stale_list_and_503_until_it_recovers(
    s3_url: str, proxy: FaultyProxy, put_bundle: PutBundle, fate: str
) -> None:
    """The last list stays available, marked as stale. Other requests get 503. The service recovers by itself."""
    put_bundle("base", {"model_type": "wav2lip"}, {"preview.png": b"x"})
    with running_service(s3_url, plugins={"fake": FakeMouth()}, refresh_seconds=REFRESH_SECONDS) as client:
        assert listed(client) == ["base"]
        proxy.fate = lambda kind, path, headers: fate  # type: ignore[assignment,return-value]
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            posts = [pool.submit(post, client, name) for name in "ab"]
            answers = list(pool.map(client.get, ["/avatars/base", "/avatars/base/preview"] * 8))
            answers += [posted.result() for posted in posts]
        for answer in answers:
            assert_says(answer, s3_url)
        assert listed(client) == ["base"]
        eventually(lambda: client.get("/health").json()["store"]["stale"])
        health = client.get("/health")
        assert health.status_code == 503
        assert s3_url in health.json()["store"]["problem"]
        proxy.fate = lambda kind, path, headers: "pass"
        eventually(lambda: client.get("/health").json()["status"] == "ok")
        assert post(client, "c").status_code == 200
        assert len(listed(client)) == 2


def test_server_that_is_down_at_start_is_used_once_it_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = SeaweedFS(tmp_path)
    server.start()
    server.stop()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with running_service("s3://avatars/x", refresh_seconds=REFRESH_SECONDS) as client:
        assert_says(client.get("/avatars"), "can't be reached")
        server.start()
        try:
            eventually(lambda: client.get("/avatars").status_code == 200)
            assert client.get("/health").json()["store"]["ok"]
            server.stop()
            eventually(lambda: client.get("/health").json()["store"]["stale"])
            assert client.get("/avatars").status_code == 200
            server.start()
            eventually(lambda: client.get("/health").json()["store"]["ok"])
        finally:
            server.stop()


def test_preview_redirects_to_presigned_url(s3_url: str, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": b"picture"})
    put_bundle("ben")
    with running_service(s3_url, preview_redirect=True) as client:
        answer = client.get("/avatars/anna/preview")
        assert answer.status_code == 307
        assert httpx.get(answer.headers["location"], trust_env=False).content == b"picture"
        for avatar_id in ("ben", "nobody", "%2e%2e"):
            assert client.get(f"/avatars/{avatar_id}/preview").status_code == 404


# -- several processes


@contextlib.contextmanager
def api_process(url: str) -> Iterator[httpx.Client]:
    """Run a server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("opentalking-core")), "serve", "--store", url, "--port", str(port)]
    settings = {
        "OPENTALKING_REFRESH_SECONDS": str(REFRESH_SECONDS), "OPENTALKING_PORTRAIT_WORKERS": "0",
        "OPENTALKING_DISABLE_PLUGINS": "mediapipe_mouth", "OPENTALKING_UPLOAD_QUEUE": "64",
    }  # fmt: skip
    process = subprocess.Popen(command, env=os.environ | settings)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:

            def is_up() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/avatars").status_code == 200
                return False

            eventually(is_up)
            yield client
    finally:
        process.terminate()
        process.wait()


def test_processes_over_one_bucket_see_each_others_changes(s3_url: str, put_bundle: PutBundle) -> None:
    put_bundle("base", {"model_type": "wav2lip"}, {"preview.png": b"x"})
    with api_process(s3_url) as one, api_process(s3_url) as other:
        made = post(one, "first").json()["id"]
        assert made in listed(one)
        eventually(lambda: made in listed(other))

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda n: post((one, other)[n % 2], f"name {n % 5}"), range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        expected = sorted(["base", made, *(answer.json()["id"] for answer in answers)])
        assert len(expected) == 22
        for client in (one, other):
            eventually(lambda client=client: listed(client) == expected)  # type: ignore[misc]

        statuses: set[int] = set()
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                for answer in answers:
                    avatar_id = answer.json()["id"]
                    statuses.add(other.get(f"/avatars/{avatar_id}/preview").status_code)
                    statuses.add(other.get(f"/avatars/{avatar_id}").status_code)

        reader = threading.Thread(target=read)
        reader.start()
        for answer in answers:
            assert one.delete(f"/avatars/{answer.json()['id']}").status_code == 200
        eventually(lambda: listed(other) == sorted(["base", made]))
        deleted = [f"/avatars/{answer.json()['id']}/preview" for answer in answers]
        eventually(lambda: {other.get(path).status_code for path in deleted} == {404})
        stop.set()
        reader.join()
        assert statuses == {200, 404}


def test_killed_writers_leave_no_half_bundle(s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENTALKING_S3_TIMEOUT_SECONDS", "OPENTALKING_S3_GRACE_SECONDS"):
        monkeypatch.setenv(name, "1")  # soak_kill sets these variables; monkeypatch restores them
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from soak_kill import soak

    result = soak(5)
    assert result.rounds == 5
    assert result.listed >= 5
    assert result.broken == []
    assert result.left == set()
