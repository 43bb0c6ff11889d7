"""The real service when it is killed, ended or sent more uploads than it takes in."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from opentalking_core import load_avatar_bundle

from .helpers.server import form, portrait, serving, without_detectors, write_demo
from .helpers.stores import wait_until, write_bundle
from .soak import crash, crash_patch

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
    """Return settings for a service whose only detector takes this long, and touches the file `begun` at its start."""
    file = tmp_path / "slow.py"
    file.write_text(SLOW_DETECTOR.format(begun=str(tmp_path / "begun"), seconds=seconds))
    return {"OPENTALKING_PLUGINS": str(file), **without_detectors()}


def test_killed_service_loses_no_avatar(tmp_path: Path) -> None:
    """Run two rounds of what `make soak` does 200 times."""
    counts, damage = crash.run(2, tmp_path / "avatars")
    assert damage == []
    assert counts["POST 200"] > 0


def test_killed_service_leaves_the_old_manifest_or_the_new_one(tmp_path: Path) -> None:
    """Run two rounds of what `make soak` does 200 times."""
    answered, damage = crash_patch.run(2, 200, tmp_path / "avatars")
    assert damage == []
    assert answered > 0


def test_crash_trial_of_changes_finds_damage(tmp_path: Path) -> None:
    changes = crash_patch.Changes("anna")
    changes.sent = changes.answered = 7
    for fields, damage in (
        ({"name": "change 7"}, []),
        ({"name": "change 6"}, ["mixes changes"]),
        ({"name": "change 7", "width": 0}, ["width"]),
        ({"name": "change 6", "number": 6}, ["anna has change 6, although 7 was answered"]),
    ):
        number = fields.pop("number", 7)
        metadata = {"number": number, "filler": crash_patch.FILLER + str(number)}
        write_bundle(tmp_path / "anna", **{**fields, "metadata": metadata})
        found = list(changes.find_damage(tmp_path, {"anna": fields["name"]}))
        assert len(found) == len(damage), found
        assert all(part in sentence for part, sentence in zip(damage, found, strict=True))
        changes.answered = 7


def test_crash_trial_finds_damage(tmp_path: Path) -> None:
    avatars = tmp_path / "avatars"
    write_demo(avatars)
    listed = {"demo-avatar", "demo-wav2lip"}
    answers = crash.Answers()
    assert list(crash.find_damage(avatars, listed, answers)) == []
    answers.created.add("custom-lost")
    answers.deleted.add("demo-avatar")
    (avatars / "stray.png").touch()
    shutil.rmtree(avatars / "demo-wav2lip" / "frames")
    for name in ("preview.png", "reference.png"):
        (avatars / "demo-wav2lip" / name).unlink()
    (avatars / ".opentalking" / "scratch" / "unfinished").mkdir(parents=True)
    damage = list(crash.find_damage(avatars, listed, answers))
    assert len(damage) == 5
    for name in ("custom-lost", "demo-avatar", "stray.png", "demo-wav2lip", "unfinished"):
        assert any(name in sentence for sentence in damage), name


def test_full_upload_queue_refuses_uploads_and_serves_reads(tmp_path: Path) -> None:
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
                deadline = time.monotonic() + 60
                while sum(answer.status_code == 200 for answer in answers) < 3:
                    assert time.monotonic() < deadline, "the service accepts no upload"
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


def test_ending_service_finishes_running_upload_and_refuses_connections(tmp_path: Path) -> None:
    avatars, begun = tmp_path / "avatars", tmp_path / "begun"
    write_demo(avatars)
    with serving(avatars, **slow_detector(tmp_path, 1.0)) as server, ThreadPoolExecutor(1) as pool:
        with server.client() as client:
            uploading = pool.submit(client.post, "/avatars/custom", files=form("Last", portrait()))
            wait_until(begun.exists, 60)
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
def test_ended_service_leaves_no_process(tmp_path: Path) -> None:
    from .soak.load import sample

    write_demo(tmp_path / "avatars")
    with serving(tmp_path / "avatars", **without_detectors()) as server, server.client() as client:
        assert client.post("/avatars/custom", files=form("One", portrait())).status_code == 200
        assert sample(server)[1].files > 0
        server.stop()
        assert sample(server)[1].files == 0
