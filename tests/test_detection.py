"""Detectors in real worker processes: a crash or a hang in native code costs one detection."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from pathlib import Path

DETECTOR = """
    import os, signal, sys, time
    from opentalking_core import MouthLandmarks, hookimpl

    LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))

    @hookimpl
    def detect_mouth(image):
        {behaviour}
"""
MISBEHAVIOUR = {
    "segfaults": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exits": "os._exit(3)",
    "hangs": "time.sleep(3600)",
    "raises": "raise RuntimeError('no graphics card')",
    "calls sys.exit": "sys.exit('bye')",
    "raises what can't be pickled": "raise RuntimeError(lambda: None)",
    "returns a wrong type": "return {'mouth': image.shape}",
}


@pytest.mark.parametrize("behaviour", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR.keys())
def test_failing_detector_is_named_and_next_one_asked(
    store_url: str, base: str, portrait: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, behaviour: str
) -> None:
    """Each upload succeeds with the mouth of the second detector. The log and /health name the first."""
    culprit, working = tmp_path / "a_culprit.py", tmp_path / "b_working.py"
    culprit.write_text(textwrap.dedent(DETECTOR).format(behaviour=behaviour))
    working.write_text(textwrap.dedent(DETECTOR).format(behaviour="return MouthLandmarks(LIPS, LIPS)"))
    form = {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("a.jpg", portrait)}
    files = (culprit, working)
    with running_service(store_url, plugin_files=files, portrait_workers=1, portrait_time_limit=2) as service:
        for _ in range(2):
            answer = service.post("/avatars/custom", files=form)
            assert answer.status_code == 200, answer.text
            metadata = service.get(f"/avatars/{answer.json()['id']}").json()["metadata"]
            assert metadata["mouth_polygon_source"] == "b_working"
            assert metadata["animation"]["mouth_center"] == [0.5, 0.6]
        health = service.get("/health").json()
    failing, fine = health["detectors"]
    assert (failing["plugin"], failing["ok"], fine["plugin"], fine["ok"]) == ("a_culprit", False, "b_working", True)
    assert failing["problem"]
    logged = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert len([message for message in logged if "a_culprit" in message]) == 2
    assert not [message for message in logged if "b_working" in message]


def test_upload_succeeds_if_workers_cannot_load_detector(
    store_url: str, base: str, portrait: bytes, tmp_path: Path
) -> None:
    """The detector's file is deleted after the service has started."""
    detector = tmp_path / "vanishing.py"
    detector.write_text(textwrap.dedent(DETECTOR).format(behaviour="return MouthLandmarks(LIPS, LIPS)"))
    form = {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("a.jpg", portrait)}
    with running_service(store_url, plugin_files=[detector], portrait_workers=1) as service:
        detector.unlink()
        answer = service.post("/avatars/custom", files=form)
        assert answer.status_code == 200, answer.text
        metadata = service.get(f"/avatars/{answer.json()['id']}").json()["metadata"]
        assert metadata["mouth_polygon_source"] == "unavailable"
        (health,) = service.get("/health").json()["detectors"]
        assert "vanishing.py" in health["problem"]
