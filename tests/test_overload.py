"""The real service when it is killed, ended or asked for more than it can do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from opentalking_core import load_avatar_bundle

from .helpers.server import form, portrait, serving, write_demo
from .soak import crash

if TYPE_CHECKING:
    from pathlib import Path

SLOW_DETECTOR = """
import pathlib, time
from opentalking_core import MouthLandmarks, hookimpl

LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))

@hookimpl
def detect_mouth(image):
    pathlib.Path({begun!r}).touch()
    time.sleep({seconds})
    return MouthLandmarks(LIPS, LIPS)
"""


def slow_detector(tmp_path: Path, seconds: float) -> dict[str, str]:
    """The settings for a service whose only detector takes so long, and touches the file `begun`."""
    file = tmp_path / "slow.py"
    file.write_text(SLOW_DETECTOR.format(begun=str(tmp_path / "begun"), seconds=seconds))
    return {"OPENTALKING_PLUGINS": str(file), **crash.SETTINGS}


def test_kills_lose_nothing(tmp_path: Path) -> None:
    """Two rounds of what `make soak` does 200 times."""
    crash.run(2, tmp_path / "avatars", **crash.SETTINGS)


def test_too_many_uploads_are_refused_quickly_and_reads_go_on(tmp_path: Path) -> None:
    avatars = tmp_path / "avatars"
    write_demo(avatars)
    settings = slow_detector(tmp_path, 0.3) | {"OPENTALKING_UPLOAD_QUEUE": "2", "OPENTALKING_PORTRAIT_WORKERS": "1"}
    image = portrait()
    with serving(avatars, **settings) as server, server.client() as client:
        stop = threading.Event()
        answers: list[httpx.Response] = []

        def upload() -> None:
            while not stop.is_set():
                answers.append(client.post("/avatars/custom", files=form("Busy", image)))

        with ThreadPoolExecutor(6) as clients:
            for _ in range(6):
                clients.submit(upload)
            try:
                while sum(answer.status_code == 200 for answer in answers) < 3:
                    assert client.get("/avatars").status_code == 200
                    assert client.get("/avatars/demo-wav2lip/preview").status_code == 200
                    assert client.get("/health").status_code == 200
            finally:
                stop.set()
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {503}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
        made = sum(answer.status_code == 200 for answer in answers)
        assert len(client.get("/avatars").json()) == 2 + made
        assert client.post("/avatars/custom", files=form("Calm", image)).status_code == 200


def test_what_is_in_flight_is_finished_and_the_rest_refused(tmp_path: Path) -> None:
    avatars, begun = tmp_path / "avatars", tmp_path / "begun"
    write_demo(avatars)
    with serving(avatars, **slow_detector(tmp_path, 1.0)) as server, ThreadPoolExecutor(1) as pool:
        with server.client() as client:
            uploading = pool.submit(client.post, "/avatars/custom", files=form("Last", portrait()))
            while not begun.exists():
                time.sleep(0.01)
            server.process.terminate()
            refused = False
            while not refused and not uploading.done():
                try:
                    httpx.get(f"{server.address}/avatars", trust_env=False)
                except httpx.TransportError:
                    refused = True
            answer = uploading.result(30)
        assert refused
        assert answer.status_code == 200
        server.wait()
    load_avatar_bundle(avatars / answer.json()["id"], strict=True)
    assert not list((avatars / ".opentalking").glob("*"))
    assert not [line for line in server.log if '"ERROR"' in line], server.log


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')")
def test_a_service_that_ends_leaves_no_process_behind(tmp_path: Path) -> None:
    from .soak.load import sample

    write_demo(tmp_path / "avatars")
    with serving(tmp_path / "avatars", **crash.SETTINGS) as server, server.client() as client:
        assert client.post("/avatars/custom", files=form("One", portrait())).status_code == 200
        assert sample(server)[1].files > 0
        server.stop()
        assert sample(server)[1].files == 0
