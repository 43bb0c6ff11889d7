"""The real service: uvicorn, worker processes and the installed mouth detectors, on pictures whose mouth is known."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from opentalking_core import load_avatar_bundle
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from opentalking_core.testing.fixtures import StoredFiles


@pytest.fixture
def real_service(real_detectors: None, store_url: str) -> Iterator[httpx.Client]:
    with running_service(store_url, real_detectors=True, portrait_workers=1) as client:
        yield client


def upload(service: httpx.Client, base: str, image: bytes) -> dict[str, object]:
    form = {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("portrait.jpg", image)}
    answer = service.post("/avatars/custom", files=form)
    assert answer.status_code == 200, answer.text
    manifest: dict[str, object] = service.get(f"/avatars/{answer.json()['id']}").json()
    return manifest


def test_portrait_gets_its_mouth_and_a_valid_bundle(
    real_service: httpx.Client, base: str, stored_files: StoredFiles, tmp_path: Path
) -> None:
    truth = draw_portrait(600, 800)
    for file_format in ("JPEG", "PNG", "WEBP"):
        file = io.BytesIO()
        truth.image.save(file, file_format)
        manifest = upload(real_service, base, file.getvalue())
        metadata = manifest["metadata"]
        assert isinstance(metadata, dict)
        animation = metadata["animation"]
        assert animation["mouth_center"] == pytest.approx(truth.mouth_center, abs=0.01)
        assert animation["mouth_rx"] == pytest.approx(truth.mouth_rx, rel=0.3)
        assert len(animation["outer_lip"]) == len(animation["inner_mouth"]) == 20
        left, top, right, bottom = metadata["face_box"]
        assert left < truth.mouth_center[0] < right
        assert top < truth.mouth_center[1] < bottom
        assert metadata["mouth_polygon_source"] == "mediapipe"
    folder = tmp_path / "copied" / str(manifest["id"])
    for path, content in stored_files(folder.name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    assert load_avatar_bundle(folder, strict=True).images_in("frames") == ["frames/frame_00000.png"]
    health = real_service.get("/health").json()
    assert health["status"] == "ok"
    assert all(detector["ok"] for detector in health["detectors"])


def test_picture_without_face_has_no_animation(real_service: httpx.Client, base: str, portrait: bytes) -> None:
    metadata = upload(real_service, base, portrait)["metadata"]
    assert isinstance(metadata, dict)
    assert "animation" not in metadata
    assert "face_box" not in metadata
    assert metadata["mouth_polygon_source"] == "unavailable"


def test_one_file_detector_replaces_installed_one(
    real_detectors: None, store_url: str, base: str, portrait: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "my_detector.py"
    file.write_text(
        "from opentalking_core import MouthLandmarks, hookimpl\n"
        "LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6))\n"
        "@hookimpl\n"
        "def detect_mouth(image):\n"
        "    return MouthLandmarks(LIPS, LIPS)\n"
    )
    options = {"real_detectors": True, "portrait_workers": 1, "detectors": ("my_detector",)}
    with running_service(store_url, plugin_files=[file], **options) as service:  # type: ignore[arg-type]
        metadata = upload(service, base, portrait)["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["mouth_polygon_source"] == "my_detector"
