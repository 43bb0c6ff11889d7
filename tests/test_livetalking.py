"""A model type that makes its own files, as a plugin has it: LiveTalking's avatars of portraits and videos."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from opentalking_core.testing.model_types import ModelTypeContract, bundle
from opentalking_core.testing.running import running_service

from .helpers import livetalking
from .helpers.livetalking import COORDS, LiveTalking, read_coords
from .helpers.videos import make_video, talking_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import FakeMouth, PutBundle, StoredFiles


class TestLiveTalking(ModelTypeContract):
    @pytest.fixture
    def model_type(self) -> LiveTalking:
        return LiveTalking()


@pytest.fixture
def service(store_url: str, fake_mouth: FakeMouth, put_bundle: PutBundle) -> Iterator[httpx.Client]:
    """Run a service with the plugin and a base of its type."""
    put_bundle("base", {"model_type": "livetalking", "metadata": {"livetalking_frames": 99, "speed": 2}})
    with running_service(store_url, plugins={"fake_mouth": fake_mouth, "livetalking": livetalking}) as client:
        yield client


def make(service: httpx.Client, **source: tuple[str, bytes]) -> httpx.Response:
    form: dict[str, Any] = {"name": (None, "Alice"), "base_avatar_id": (None, "base"), **source}
    return service.post("/avatars/custom", files=form)


def assert_coords_fit(files: dict[str, bytes], frames: int, size: tuple[int, int]) -> None:
    coords = read_coords(files[COORDS])
    assert coords == pickle.loads(files[COORDS]), "LiveTalking reads the same"
    assert len(coords) == frames
    for number, (top, bottom, left, right) in enumerate(coords):
        full = Image.open(io.BytesIO(files[f"full_imgs/{number:08d}.png"]))
        assert full.size == size
        assert 0 <= top < 0.6 * size[1] < bottom <= size[1], "the mouth, at 0.6 of the height, lies in the box"
        assert 0 <= left < 0.5 * size[0] < right <= size[0]
        assert Image.open(io.BytesIO(files[f"face_imgs/{number:08d}.png"])).size == (256, 256)


def test_portrait_becomes_a_bundle_whose_coords_fit(
    service: httpx.Client, portrait: bytes, stored_files: StoredFiles
) -> None:
    answer = make(service, image=("a.jpg", portrait))
    assert answer.status_code == 200, answer.text
    files = stored_files(answer.json()["id"])
    assert_coords_fit(files, 1, (48, 64))
    assert {"manifest.json", "preview.png", "reference.png"} < set(files)
    metadata = json.loads(files["manifest.json"])["metadata"]
    assert (metadata["livetalking_frames"], metadata["speed"]) == (1, 2)
    assert metadata["mouth_polygon_source"] == "fake_mouth"
    assert not [path for path in files if path.startswith("source/")]


def test_video_becomes_a_bundle_whose_coords_fit(
    service: httpx.Client, tmp_path: Path, stored_files: StoredFiles
) -> None:
    video = make_video(tmp_path / "talking.mp4", talking_frames(6, 96, 128))
    answer = make(service, video=("a.mp4", video.read_bytes()))
    assert answer.status_code == 200, answer.text
    files = stored_files(answer.json()["id"])
    assert_coords_fit(files, 6, (96, 128))
    assert files["source/source_video.mp4"] == video.read_bytes()


def test_portrait_without_a_face_is_refused_with_the_types_own_sentence(
    service: httpx.Client, portrait: bytes, fake_mouth: FakeMouth
) -> None:
    fake_mouth.landmarks = None
    answer = make(service, image=("a.jpg", portrait))
    assert answer.status_code == 400
    assert answer.json() == {"detail": "the portrait shows no face: LiveTalking avatars need one"}
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["base"]


def test_stale_metadata_of_the_type_is_not_inherited(
    service: httpx.Client, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveTalking, "stale_metadata", ("speed",))
    made = make(service, image=("a.jpg", portrait)).json()
    assert "speed" not in service.get(f"/avatars/{made['id']}").json()["metadata"]


def test_worker_process_loads_the_type_from_its_file(
    store_url: str, put_bundle: PutBundle, portrait: bytes, tmp_path: Path
) -> None:
    put_bundle("base", {"model_type": "livetalking"})
    detector = tmp_path / "sees_all.py"
    detector.write_text(
        "from opentalking_core import MouthLandmarks, hookimpl\n"
        "LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))\n"
        "@hookimpl\n"
        "def detect_mouth(image):\n"
        "    return MouthLandmarks(LIPS, LIPS, face_box=(0.2, 0.1, 0.8, 0.9))\n"
    )
    plugins = [detector, Path(livetalking.__file__)]
    with running_service(store_url, plugin_files=plugins, portrait_workers=1) as service:
        assert make(service, image=("a.jpg", portrait)).status_code == 200


class _Runs:
    """Pickled, it calls a function of the reader's machine."""

    def __init__(self, touched: Path) -> None:
        self._touched = touched

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self._touched,)


def test_coords_of_a_stranger_are_an_error_and_never_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for payload in (_Runs(touched), [_Runs(touched)], [(1, 2, 3, _Runs(touched))]):
        data = pickle.dumps(payload)
        files = {"full_imgs/0.png": b"x", "face_imgs/0.png": b"x", COORDS: data}
        checked = bundle(LiveTalking(), {path: len(content) for path, content in files.items()})
        problems = list(LiveTalking().problems(_with_reader(checked, files)))
        assert [problem.where for problem in problems] == [COORDS]
        assert "is not a list of (top, bottom, left, right)" in problems[0].message
    assert not touched.exists()
    pickle.loads(data)
    assert touched.exists(), "the payload would have run"


def test_coords_that_do_not_fit_the_frames_are_an_error() -> None:
    files = {"full_imgs/0.png": b"x", "face_imgs/0.png": b"x", COORDS: pickle.dumps([(1, 2, 3, 4)] * 2, protocol=4)}
    checked = bundle(LiveTalking(), {path: len(content) for path, content in files.items()})
    (problem,) = LiveTalking().problems(_with_reader(checked, files))
    assert (problem.where, problem.message) == (COORDS, "has 2 places for 1 frames")


def _with_reader(checked: Any, files: dict[str, bytes]) -> Any:
    return dataclasses.replace(checked, reader=files.__getitem__)
