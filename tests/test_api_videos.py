"""Avatars from videos over HTTP: the new bundle, refusals, progress as events, and clients that leave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing.forkserver
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from opentalking_core.api import upload
from opentalking_core.testing.running import running_service

from .helpers.http import hang_up
from .helpers.processes import is_alive
from .helpers.stores import wait_until
from .helpers.videos import make_video, talking_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import FakeMouth, StoredFiles

#: A detector for worker processes. For each frame it writes its pid to a file, and waits; for the frames of videos, as
#: long as there is a file `hold`, too.
DETECTOR = """
import os, time
from opentalking_core import MouthLandmarks, hookimpl

LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))

@hookimpl
def detect_mouth(image):
    with open({pids!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    time.sleep({seconds})
    while image.shape[0] == 128 and os.path.exists({hold!r}):
        time.sleep(0.01)
    return MouthLandmarks(LIPS, LIPS, face_box=(0.2, 0.1, 0.8, 0.9))
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 12 frames, 24 per second."""
    return make_video(tmp_path_factory.mktemp("video") / "talking.mp4", talking_frames(12, 96, 128), fps=24)


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make and yield a temporary folder of the test's own, in which uploads are kept.

    The fork server, which all worker processes come from, keeps its socket elsewhere.
    """
    if sys.platform == "linux":
        multiprocessing.forkserver.ensure_running()
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def form(content: bytes, field: str = "video", **fields: str) -> dict[str, tuple[str | None, str | bytes]]:
    texts = {"name": "Alice", "base_avatar_id": "demo-wav2lip", **fields}
    return {name: (None, text) for name, text in texts.items()} | {field: (f"my {field}.bin", content)}


def uploads_in(folder: Path) -> list[Path]:
    """Return the uploads that are kept in a temporary folder; the worker processes have folders of their own there."""
    return list(folder.glob("opentalking-*"))


def events_of(lines: Iterator[str]) -> list[tuple[str, Any]]:
    """Return the events of a stream: (name, data)."""
    events, name = [], ""
    for line in lines:
        key, _, value = line.partition(":")
        if key == "event":
            name = value.strip()
        elif key == "data":
            events.append((name, json.loads(value)))
    return events


def post_events(client: httpx.Client, path: str, files: Any) -> tuple[int, list[tuple[str, Any]]]:
    with client.stream("POST", path, files=files, headers={"Accept": "text/event-stream"}) as answer:
        return answer.status_code, events_of(answer.iter_lines())


def test_video_becomes_an_avatar_as_documented(
    service: httpx.Client, base: str, video: Path, stored_files: StoredFiles
) -> None:
    answer = service.post("/avatars/custom", files=form(video.read_bytes()))
    assert answer.status_code == 200, answer.text
    summary = answer.json()
    assert (summary["width"], summary["height"], summary["is_custom"]) == (96, 128, True)
    files = stored_files(summary["id"])
    frames = [f"frames/frame_{number:05d}.jpg" for number in range(12)]
    assert set(files) == {
        *frames,
        *("manifest.json", "preview.png", "reference.png", "frames/mouth_metadata.json", "source/source_video.mp4"),
    }
    assert files["source/source_video.mp4"] == video.read_bytes()
    manifest = json.loads(files["manifest.json"])
    assert manifest["fps"] == 24
    metadata = manifest["metadata"]
    assert metadata["source_image_hash"] == hashlib.sha256(files["reference.png"]).hexdigest()
    assert {
        "reference_mode": "frames",
        "frame_dir": "frames",
        "frame_metadata": "frames/mouth_metadata.json",
        "source_video": "source/source_video.mp4",
        "source_fps": 24,
        "source_frame_count": 12,
        "extracted_frame_count": 12,
        "source_image_path": "reference.png",
        "idle_mode": "loop",
        "custom_avatar": True,
        "base_avatar_id": base,
        "mouth_polygon_source": "fake_mouth",
        "wav2lip_postprocess": "easy",
    }.items() <= metadata.items()
    assert metadata["portrait_checks"]["checks"]["frames_with_mouth"] == {"passed": True, "value": 12}
    mouths = json.loads(files["frames/mouth_metadata.json"])
    assert (mouths["version"], mouths["missing_frames"], len(mouths["frames"])) == (1, [], 12)
    for path in frames:
        mouth = mouths["frames"][path.removeprefix("frames/")]
        assert mouth["source_frame_hash"] == hashlib.sha256(files[path]).hexdigest()
        assert mouth["animation"] == metadata["animation"]
        assert mouth["face_box"] == metadata["face_box"] == [0.2, 0.1, 0.8, 0.9]


def test_frames_without_a_mouth_are_named_and_the_first_with_one_is_the_reference(
    service: httpx.Client, base: str, video: Path, fake_mouth: FakeMouth, stored_files: StoredFiles
) -> None:
    found = fake_mouth.landmarks

    class Late(type(fake_mouth)):  # type: ignore[misc]
        @property
        def landmarks(self) -> Any:
            return found if 5 < len(self.shapes) < 10 else None

    fake_mouth.__class__ = Late
    made = service.post("/avatars/custom", files=form(video.read_bytes())).json()
    files = stored_files(made["id"])
    mouths = json.loads(files["frames/mouth_metadata.json"])
    assert list(mouths["frames"]) == [f"frame_{number:05d}.jpg" for number in range(5, 9)]
    assert mouths["missing_frames"] == [f"frame_{number:05d}.jpg" for number in (0, 1, 2, 3, 4, 9, 10, 11)]
    metadata = json.loads(files["manifest.json"])["metadata"]
    assert metadata["portrait_checks"]["checks"]["frames_with_mouth"] == {"passed": False, "value": 4}
    (tmp := Path(tempfile.mkdtemp()) / "reference.png").write_bytes(files["reference.png"])
    (jpg := tmp.with_name("frame.jpg")).write_bytes(files["frames/frame_00005.jpg"])
    difference = np.asarray(Image.open(tmp)).astype(int) - np.asarray(Image.open(jpg))
    assert np.abs(difference).mean() < 2


def test_video_without_any_mouth_becomes_an_avatar_without_animation(
    service: httpx.Client, base: str, video: Path, fake_mouth: FakeMouth
) -> None:
    fake_mouth.landmarks = None
    made = service.post("/avatars/custom", files=form(video.read_bytes())).json()
    metadata = service.get(f"/avatars/{made['id']}").json()["metadata"]
    assert metadata["mouth_polygon_source"] == "unavailable"
    assert not {"animation", "face_box"} & metadata.keys()


def test_only_the_first_frames_are_used(store_url: str, base: str, video: Path, fake_mouth: FakeMouth) -> None:
    with running_service(store_url, plugins={"fake_mouth": fake_mouth}, video_max_frames=5) as service:
        made = service.post("/avatars/custom", files=form(video.read_bytes())).json()
        metadata = service.get(f"/avatars/{made['id']}").json()["metadata"]
    assert (metadata["extracted_frame_count"], metadata["source_frame_count"]) == (5, 12)


def test_check_of_a_video_reports_and_stores_nothing(service: httpx.Client, base: str, video: Path) -> None:
    report = service.post("/avatars/check", files={"video": video.read_bytes()}).json()
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["frames_with_mouth"]["value"] == 12
    assert checks["frames_with_mouth"]["message"] == "The mouth was found in 12 of 12 frames."
    assert report["mouth"]["mouth_polygon_source"] == "fake_mouth"
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == [base]


@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x14ftypisom\0\0\0\0mp42" + bytes(2000)])
@pytest.mark.parametrize("path", ["/avatars/custom", "/avatars/check"])
def test_unreadable_video_is_refused_and_leaves_nothing(
    service: httpx.Client, base: str, temporary_folder: Path, content: bytes, path: str
) -> None:
    answer = service.post(path, files=form(content))
    assert answer.status_code == 400
    assert "video" in answer.json()["detail"]
    assert uploads_in(temporary_folder) == []
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == [base]


def test_portrait_sent_as_video_is_refused(service: httpx.Client, base: str, portrait: bytes) -> None:
    answer = service.post("/avatars/custom", files=form(portrait))
    assert answer.status_code == 400
    assert "MP4" in answer.json()["detail"]


def test_base_that_no_video_can_drive_is_refused_with_the_types_that_work(
    service: httpx.Client, put_bundle: Any, video: Path
) -> None:
    put_bundle("still", {"model_type": "flashtalk"})
    answer = service.post("/avatars/custom", files=form(video.read_bytes(), base_avatar_id="still"))
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith("is of model type 'flashtalk'; a video needs wav2lip")


def test_video_over_the_limit_is_refused_before_it_is_kept(
    service: httpx.Client, base: str, video: Path, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = video.read_bytes()
    monkeypatch.setattr(upload, "MAX_VIDEO_BYTES", len(content))
    assert service.post("/avatars/check", files={"video": content}).status_code == 200
    answer = service.post("/avatars/check", files={"video": content + b"\0"})
    assert (answer.status_code, "send a smaller one" in answer.json()["detail"]) == (413, True)
    assert uploads_in(temporary_folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="writes to /dev/full")
def test_full_temporary_folder_is_told(
    service: httpx.Client, base: str, video: Path, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return opened(Path("/dev/full") if path.name == "video" else path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    for path in ("/avatars/custom", "/avatars/check"):
        answer = service.post(path, files=form(video.read_bytes()))
        assert answer.status_code == 507
        assert "No space left on device" in answer.json()["detail"]
    assert uploads_in(temporary_folder) == []


# -- events


def test_events_tell_what_was_received_and_the_summary(service: httpx.Client, base: str, video: Path) -> None:
    status, events = post_events(service, "/avatars/custom", form(video.read_bytes()))
    assert status == 200
    assert events[0] == ("received", {"bytes": video.stat().st_size})
    assert events[-1][0] == "avatar"
    assert {name for name, _ in events[1:-1]} <= {"progress"}
    listed = {avatar["id"]: avatar for avatar in service.get("/avatars").json()}
    assert listed[events[-1][1]["id"]] == events[-1][1]


def test_events_of_a_portrait_and_of_checks(service: httpx.Client, base: str, portrait: bytes, video: Path) -> None:
    _, events = post_events(service, "/avatars/custom", form(portrait, "image"))
    assert [name for name, _ in events] == ["received", "avatar"]
    _, events = post_events(service, "/avatars/check", {"video": video.read_bytes()})
    assert events[-1][0] == "report"
    assert events[-1][1] == service.post("/avatars/check", files={"video": video.read_bytes()}).json()


def test_event_stream_is_not_buffered_by_proxies(service: httpx.Client, base: str, portrait: bytes) -> None:
    files = form(portrait, "image")
    with service.stream("POST", "/avatars/custom", files=files, headers={"Accept": "text/event-stream"}) as answer:
        answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")


def test_failure_after_the_upload_is_an_event_and_before_its_end_a_status(
    service: httpx.Client, base: str, video: Path
) -> None:
    status, events = post_events(service, "/avatars/custom", form(b"no video"))
    assert (status, [name for name, _ in events]) == (200, ["received", "error"])
    assert events[-1][1]["status"] == 400
    assert "video" in events[-1][1]["detail"]
    status, events = post_events(service, "/avatars/custom", form(video.read_bytes(), base_avatar_id="nobody"))
    assert events[-1][1] == {"status": 404, "detail": "the base can't be used: there is no avatar 'nobody'"}
    both = form(video.read_bytes()) | {"image": ("a.png", b"x")}
    answer = service.post("/avatars/custom", files=both, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, "send one of them" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, */*;q=0.8", ""])
def test_other_clients_get_the_summary(service: httpx.Client, base: str, portrait: bytes, accept: str) -> None:
    answer = service.post("/avatars/custom", files=form(portrait, "image"), headers={"Accept": accept})
    assert answer.json()["is_custom"] is True


# -- in worker processes


@contextlib.contextmanager
def working_service(
    store_url: str, tmp_path: Path, seconds: float, **settings: Any
) -> Iterator[tuple[httpx.Client, Path]]:
    """Run a service with one worker for each kind, and a detector that takes some time for each frame.

    Yield the client, and the file to which the detector writes the worker's pid for each frame.
    """
    plugin, pids = tmp_path / "slow_mouth.py", tmp_path / "pids"
    pids.touch()
    plugin.write_text(DETECTOR.format(pids=str(pids), seconds=seconds, hold=str(tmp_path / "hold")))
    with running_service(store_url, plugin_files=[plugin], portrait_workers=1, **settings) as service:
        yield service, pids


def test_progress_counts_frames_and_estimates_the_rest(store_url: str, base: str, tmp_path: Path, video: Path) -> None:
    with working_service(store_url, tmp_path, 0.1) as (service, _):
        _, events = post_events(service, "/avatars/custom", form(video.read_bytes()))
    told = [data for name, data in events if name == "progress"]
    assert [data["frames_done"] for data in told] == sorted(data["frames_done"] for data in told)
    assert any(0 < data["frames_done"] < 12 and data["frames"] == 12 for data in told)
    estimates = [data["seconds_left"] for data in told if data["frames_done"]]
    assert all(0 <= seconds < 60 for seconds in estimates)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_client_that_leaves_ends_the_work_and_nothing_stays(
    store_url: str, base: str, tmp_path: Path, video: Path, temporary_folder: Path, accept: str
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with working_service(store_url, tmp_path, 0) as (service, pids), ThreadPoolExecutor(1) as pool:
        client = type(service)(base_url=service.base_url, timeout=60)

        def leave() -> None:
            request = client.build_request(
                "POST", "/avatars/custom", files=form(video.read_bytes()), headers={"Accept": accept}
            )
            with contextlib.suppress(Exception):
                client.send(request, stream=True).read()

        pool.submit(leave)
        wait_until(lambda: pids.read_text().splitlines())
        worker = int(pids.read_text().splitlines()[0])
        assert is_alive(worker)
        hang_up(client)
        wait_until(lambda: not is_alive(worker))
        wait_until(lambda: uploads_in(temporary_folder) == [])
        wait_until(lambda: "opentalking_uploads_running 0.0" in service.get("/metrics").text)
        assert [avatar["id"] for avatar in service.get("/avatars").json()] == [base]
        hold.unlink()
        assert service.post("/avatars/custom", files=form(video.read_bytes())).status_code == 200


def test_portrait_does_not_wait_for_videos(
    store_url: str, base: str, tmp_path: Path, video: Path, portrait: bytes
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with working_service(store_url, tmp_path, 0) as (service, pids), ThreadPoolExecutor(3) as pool:
        videos = [pool.submit(service.post, "/avatars/custom", files=form(video.read_bytes())) for _ in range(3)]
        wait_until(lambda: pids.read_text().splitlines())
        assert service.post("/avatars/custom", files=form(portrait, "image")).status_code == 200
        assert not any(done.done() for done in videos)
        hold.unlink()
        assert [done.result().status_code for done in videos] == [200] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_video_takes_little_memory_of_the_server(
    service: httpx.Client, base: str, video: Path, temporary_folder: Path
) -> None:
    """A video of 100 MB, most of it a box that no decoder reads. The server runs in this very process."""
    padding = 100 * 1024 * 1024
    content = temporary_folder.with_name("large.mp4")
    with content.open("wb") as file:
        file.write(video.read_bytes())
        file.write((padding + 8).to_bytes(4) + b"free")
        file.truncate(file.tell() + padding)
    before = _peak_bytes()
    with content.open("rb") as file:
        answer = service.post("/avatars/check", files={"video": file})
    assert answer.status_code == 200, answer.text
    assert _peak_bytes() - before < 64 * 1024 * 1024


def _peak_bytes() -> int:
    """Return the highest resident memory of this process since the last call."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
