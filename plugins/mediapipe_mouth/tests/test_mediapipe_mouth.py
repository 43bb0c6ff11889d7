"""The detector against the contract of all detectors, and what is special about MediaPipe."""

from __future__ import annotations

import ctypes.util
import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import opentalking_mediapipe_mouth
import pytest
from opentalking_mediapipe_mouth import detector, model_file

from opentalking_core import MouthLandmarks, PluginError
from opentalking_core.drawn_portrait import draw_portrait
from opentalking_core.testing.detectors import MouthDetectorContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="session")
def model() -> Path:
    """The real model, in the user's cache; downloaded by the first run."""
    try:
        return model_file.fetch()
    except PluginError as error:
        pytest.skip(str(error))


@pytest.fixture
def plugin(model: Path) -> Iterator[ModuleType]:
    yield opentalking_mediapipe_mouth
    opentalking_mediapipe_mouth.shutdown()


class TestMediapipeMouth(MouthDetectorContract):
    @pytest.fixture
    def plugin(self, model: Path) -> ModuleType:
        return opentalking_mediapipe_mouth


class _KnowsLess:
    """MediaPipe's detections without all that a detector need not report."""

    @staticmethod
    def detect_mouth(image: Any) -> MouthLandmarks | None:
        found = opentalking_mediapipe_mouth.detect_mouth(image)
        return found and MouthLandmarks(found.outer_lip, found.inner_mouth)


def test_the_contract_asks_nobody_for_what_is_optional(plugin: ModuleType) -> None:
    contract, detector = MouthDetectorContract(), _KnowsLess()
    contract.test_the_answer_is_landmarks_in_fractions(detector)
    contract.test_faces_are_counted_if_at_all(detector)
    contract.test_the_pose_is_in_degrees_if_there_is_one(detector, 25)
    contract.test_a_face_box_is_around_the_face_if_there_is_one(detector)


def test_faces_and_pose_are_reported(plugin: ModuleType) -> None:
    found = plugin.detect_mouth(np.asarray(draw_portrait(600, 600, face_width=0.4).image.rotate(-20)))
    assert found.faces == 1
    assert found.pose == pytest.approx((0, 0, 20), abs=6)


def test_the_pose_of_a_matrix() -> None:
    """A head turned to the picture's right, raised, leaning clockwise; its scale doesn't matter."""
    for axis, expected in ((1, (30, 0, 0)), (0, (0, 30, 0)), (2, (0, 0, 30))):
        matrix = np.eye(4)
        cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
        first, second = {0: (1, 2), 1: (2, 0), 2: (1, 0)}[axis]
        matrix[first, first] = matrix[second, second] = cos
        matrix[second, first], matrix[first, second] = (sin, -sin) if axis != 0 else (-sin, sin)
        matrix[:3, :3] *= 1.7
        assert detector._pose(matrix) == pytest.approx(expected)


def test_outlines_have_the_20_points_of_the_bundle_format(plugin: ModuleType) -> None:
    """Both start at the corner of the mouth at the picture's left and go round by the lower lip."""
    found = plugin.detect_mouth(np.asarray(draw_portrait(mouth_open=0.5).image))
    for outline in (found.outer_lip, found.inner_mouth):
        xs, ys = np.array(outline).T
        assert len(outline) == 20
        assert (xs.argmin(), xs.argmax()) == (0, 10)
        assert ys[5] > ys[15]


def test_works_before_startup_and_after_shutdown(plugin: ModuleType) -> None:
    picture = np.asarray(draw_portrait().image)
    assert plugin.detect_mouth(picture) is not None
    plugin.shutdown()
    assert plugin.detect_mouth(picture) is not None


def test_a_model_that_arrives_later_is_picked_up(
    plugin: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model means no mouth, and no error: uploads work while the model is still being downloaded."""
    late = tmp_path / "face_landmarker.task"
    monkeypatch.setenv(model_file.VARIABLE, str(late))
    picture = np.asarray(draw_portrait().image)
    plugin.startup()
    assert plugin.detect_mouth(picture) is None
    assert str(late) in "".join(plugin.report_problems())
    late.write_bytes(model.read_bytes())
    assert plugin.detect_mouth(picture) is not None
    assert plugin.report_problems() == []


def test_after_a_failure_the_next_picture_is_detected(plugin: ModuleType) -> None:
    """A failed MediaPipe graph stays failed, so the detector makes a new one; the old one's `__del__` doesn't hang."""
    with pytest.raises(PluginError, match="picture of 5x0 pixels"):
        plugin.detect_mouth(np.empty((0, 5, 3), dtype=np.uint8))
    gc.collect()
    assert plugin.detect_mouth(np.asarray(draw_portrait().image)) is not None


def test_mediapipe_gets_no_certificates_to_report_home_with(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MediaPipe's reports to Google fail before a byte of them is sent; see `detector._create_landmarker`."""
    from mediapipe.tasks.python.vision import FaceLandmarker  # type: ignore[import-untyped]

    seen: list[Any] = []
    monkeypatch.setattr(FaceLandmarker, "create_from_options", seen.append)
    plugin.startup()
    assert seen[0].base_options.to_ctypes().ca_bundle_path == os.devnull.encode()


def test_missing_system_libraries_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", {"GL": "x", "glib-2.0": "x"}.get)
    assert "`apt install libegl1 libgles2`" in detector.missing_software.__wrapped__()[0]


def test_mediapipe_that_cannot_be_loaded_is_one_clear_sentence(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason comes from the loader: it names the library."""
    from mediapipe.tasks.python.vision import FaceLandmarker

    def fail(options: object) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file")

    monkeypatch.setattr(FaceLandmarker, "create_from_options", fail)
    with pytest.raises(PluginError, match=r"libEGL\.so\.1: cannot open"):
        detector.MouthDetector().open()
