"""The MediaPipe detector: the contract of all detectors, and what is specific to MediaPipe."""

from __future__ import annotations

import ctypes.util
import gc
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import numpy as np
import opentalking_mediapipe_mouth
import pytest
from opentalking_mediapipe_mouth import detector, model_file
from opentalking_mediapipe_mouth.drawing import import_mediapipe
from opentalking_mediapipe_mouth.landmarker import Landmarker
from opentalking_mediapipe_mouth.mesh import pose_of_matrix
from opentalking_mediapipe_mouth.native_log import native_lines_as_debug_log
from opentalking_mediapipe_mouth.search import MAX_WINDOWS
from PIL import Image, ImageFilter

from opentalking_core import MouthLandmarks, PluginError
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.detectors import MouthDetectorContract

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from opentalking_core.portraits.drawn import DrawnPortrait


class TestMediapipeMouth(MouthDetectorContract):
    @pytest.fixture
    def plugin(self, model: Path) -> ModuleType:
        return opentalking_mediapipe_mouth


class _KnowsLess:
    """Report MediaPipe's detections without the optional fields."""

    @staticmethod
    def detect_mouth(image: Any) -> MouthLandmarks | None:
        found = opentalking_mediapipe_mouth.detect_mouth(image)
        return found and MouthLandmarks(found.outer_lip, found.inner_mouth)


def test_contract_accepts_detector_without_optional_fields(plugin: ModuleType) -> None:
    contract, detector = MouthDetectorContract(), _KnowsLess()
    contract.test_the_answer_is_landmarks_in_fractions(detector)
    contract.test_faces_are_counted_if_at_all(detector)
    contract.test_the_pose_is_in_degrees_if_there_is_one(detector, 25)
    contract.test_a_face_box_is_around_the_face_if_there_is_one(detector)


def test_detect_mouth_reports_faces_and_pose(plugin: ModuleType) -> None:
    found = plugin.detect_mouth(np.asarray(draw_portrait(600, 600, face_width=0.4).image.rotate(-20)))
    assert found.faces == 1
    assert found.pose == pytest.approx((0, 0, 20), abs=6)


def test_pose_reads_angles_from_matrix() -> None:
    """A head turned to the picture's right, raised, leaning clockwise; its scale doesn't matter."""
    level = np.eye(4)
    level[2, 3] = -50
    for axis, expected in ((1, (30, 0, 0)), (0, (0, 30, 0)), (2, (0, 0, 30))):
        matrix = np.eye(4)
        matrix[2, 3] = -50
        cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
        first, second = {0: (1, 2), 1: (2, 0), 2: (1, 0)}[axis]
        matrix[first, first] = matrix[second, second] = cos
        matrix[second, first], matrix[first, second] = (sin, -sin) if axis != 0 else (-sin, sin)
        matrix[:3, :3] *= 1.7
        yaw, pitch, roll = pose_of_matrix(matrix)
        assert (yaw, pitch - pose_of_matrix(level).pitch, roll) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(540, 960), (960, 540)])
def test_pose_is_independent_of_the_place_in_the_picture(plugin: ModuleType, size: tuple[int, int]) -> None:
    """Without correction yaw and pitch differ by more than 12 degrees between these places."""
    places = [(0.5, 0.2), (0.5, 0.5), (0.5, 0.75), (0.25, 0.5), (0.75, 0.5)]
    for place in places:
        drawn = draw_portrait(*size, face_width=180 / size[0], face_center=place)
        found = plugin.detect_mouth(np.asarray(drawn.image))
        assert found.pose == pytest.approx((0, 2, 0), abs=4), place


def framed(face_width: int, place: tuple[float, float] = (0.5, 0.2), **how: Any) -> DrawnPortrait:
    """Return a frame of 1080 x 1920 with a drawn face of that width in pixels."""
    return draw_portrait(1080, 1920, face_width=face_width / 1080, face_center=place, **how)


def distance(found: MouthLandmarks, truth: DrawnPortrait) -> float:
    """Return how far the mouth that was found is from the true mouth, by the mouth's width."""
    x, y = np.mean(found.outer_lip, axis=0) - truth.mouth_center
    width, height = truth.image.size
    return float(np.hypot(x * width, y * height) / (2 * truth.mouth_rx * width))


@pytest.mark.parametrize("face_width", [50, 60, 80, 120, 200])
@pytest.mark.parametrize("place", [(0.5, 0.15), (0.2, 0.3), (0.8, 0.55)])
def test_detect_mouth_finds_small_face_in_full_body_frame(
    plugin: ModuleType, face_width: int, place: tuple[float, float]
) -> None:
    truth = framed(face_width, place, seed=face_width % 6)
    found = plugin.detect_mouth(np.asarray(truth.image))
    assert found is not None
    assert distance(found, truth) < 0.1
    assert found.faces == 1
    assert found.pose == pytest.approx((0, 0, 0), abs=8)
    assert (found.face_box[2] - found.face_box[0]) * 1080 == pytest.approx(face_width, rel=0.25)


def test_detect_mouth_counts_small_faces_and_takes_the_largest(plugin: ModuleType) -> None:
    large, small = framed(110, (0.25, 0.2)), framed(90, (0.75, 0.2), seed=1)
    picture = large.image.copy()
    picture.paste(small.image.crop((540, 0, 1080, 1920)), (540, 0))
    found = plugin.detect_mouth(np.asarray(picture))
    assert found.faces == 2
    assert distance(found, large) < 0.1


@pytest.mark.parametrize("clockwise", range(0, 360, 45))
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_detect_mouth_finds_face_turned_by_any_angle(plugin: ModuleType, clockwise: int, seed: int) -> None:
    truth = draw_portrait(600, 600, face_width=0.4, face_center=(0.5, 0.5), seed=seed)
    picture = truth.image.rotate(-clockwise, resample=Image.Resampling.BICUBIC, fillcolor="#888888")
    found = plugin.detect_mouth(np.asarray(picture))
    assert found is not None
    angle, (x, y) = np.radians(clockwise), np.array(truth.mouth_center) - 0.5
    turned = np.array((x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle))) + 0.5
    assert np.mean(found.outer_lip, axis=0) == pytest.approx(turned, abs=0.03)
    assert (found.pose[2] - clockwise + 180) % 360 - 180 == pytest.approx(0, abs=6)
    assert found.pose[0] == pytest.approx(0, abs=6)


def test_detect_mouth_of_face_cut_above_the_mouth_lies_outside_the_picture(plugin: ModuleType) -> None:
    truth = draw_portrait(600, 600, face_width=0.5)
    picture = np.asarray(truth.image)[: int(600 * truth.mouth_center[1]) - 25]
    found = plugin.detect_mouth(picture)
    assert found is None or not found.is_in_picture


@pytest.mark.parametrize("kind", ["noise", "smooth", "stripes"])
def test_detect_mouth_without_face_tries_a_bounded_number_of_windows(
    plugin: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.effect_noise((1080, 1920), 80).convert("RGB")
    stripes = Image.linear_gradient("L").resize((1080, 60)).convert("RGB")
    picture = {"noise": noise, "smooth": noise.filter(ImageFilter.GaussianBlur(20)), "stripes": noise.copy()}[kind]
    if kind == "stripes":
        for top in range(0, 1920, 60):
            picture.paste(stripes, (0, top))
    looks = MagicMock(side_effect=Landmarker.detect, autospec=True)
    monkeypatch.setattr(Landmarker, "detect", lambda *args: looks(*args))
    assert plugin.detect_mouth(np.asarray(picture)) is None
    assert 100 < looks.call_count < MAX_WINDOWS + 10


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (191, 300), (4000, 300), (6000, 6000)])
def test_detect_mouth_of_any_shape_of_picture_is_bounded(plugin: ModuleType, size: tuple[int, int]) -> None:
    assert plugin.detect_mouth(np.full((size[1], size[0], 3), 120, np.uint8)) is None


def test_detect_mouth_returns_20_points_in_bundle_order(plugin: ModuleType) -> None:
    """Both start at the corner of the mouth at the picture's left and go round by the lower lip."""
    found = plugin.detect_mouth(np.asarray(draw_portrait(mouth_open=0.5).image))
    for outline in (found.outer_lip, found.inner_mouth):
        xs, ys = np.array(outline).T
        assert len(outline) == 20
        assert (xs.argmin(), xs.argmax()) == (0, 10)
        assert ys[5] > ys[15]


def test_detect_mouth_before_startup_and_after_shutdown_works(plugin: ModuleType) -> None:
    picture = np.asarray(draw_portrait().image)
    assert plugin.detect_mouth(picture) is not None
    plugin.shutdown()
    assert plugin.detect_mouth(picture) is not None


def test_detect_mouth_uses_model_that_arrives_later(
    plugin: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model there is no mouth and no error, so that uploads work while the model is downloaded."""
    late = tmp_path / "face_landmarker.task"
    monkeypatch.setenv(model_file.VARIABLE, str(late))
    picture = np.asarray(draw_portrait().image)
    plugin.startup()
    assert plugin.detect_mouth(picture) is None
    assert str(late) in "".join(plugin.report_problems())
    late.write_bytes(model.read_bytes())
    assert plugin.detect_mouth(picture) is not None
    assert plugin.report_problems() == []


def test_detect_mouth_after_a_failure_works(plugin: ModuleType) -> None:
    """A failed MediaPipe graph stays failed: the detector must make a new graph, and `__del__` must not hang."""
    with pytest.raises(PluginError, match="picture of 5x0 pixels"):
        plugin.detect_mouth(np.empty((0, 5, 3), dtype=np.uint8))
    gc.collect()
    assert plugin.detect_mouth(np.asarray(draw_portrait().image)) is not None


def test_startup_gives_mediapipe_no_certificates(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without certificates, MediaPipe can't report its use to Google; see `landmarker._offline_options`."""
    from mediapipe.tasks.python.vision import FaceLandmarker  # type: ignore[import-untyped]

    create = MagicMock()
    monkeypatch.setattr(FaceLandmarker, "create_from_options", create)
    plugin.startup()
    assert create.call_args.args[0].base_options.to_ctypes().ca_bundle_path == os.devnull.encode()


def test_report_problems_missing_libraries_names_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(detector, "_found_libraries", set())
    monkeypatch.setattr(ctypes.util, "find_library", {"GLESv2": "x"}.get)
    assert "`sudo apt install libegl1`" in detector.missing_software()[0]


def test_report_problems_notices_libraries_installed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(detector, "_found_libraries", set())
    installed: dict[str, str] = {}
    monkeypatch.setattr(ctypes.util, "find_library", installed.get)
    assert detector.missing_software()
    installed |= {"EGL": "libEGL.so.1", "GLESv2": "libGLESv2.so.2"}
    assert detector.missing_software() == ()


#: Detect a mouth in a worker process and print which drawing libraries were imported.
_WORKER_PROCESS = """
import multiprocessing, sys
import numpy as np
import opentalking_mediapipe_mouth as plugin
from opentalking_core.portraits.drawn import draw_portrait

def work():
    path_before = list(sys.path)
    plugin.startup()
    assert plugin.detect_mouth(np.asarray(draw_portrait().image)) is not None
    print(*sorted({"cv2", "matplotlib"} & sys.modules.keys()), flush=True)
    assert sys.path == path_before
    plugin.shutdown()

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
sys.exit(worker.exitcode)
"""


def test_detect_in_worker_process_needs_no_drawing_libraries_and_prints_nothing(model: Path) -> None:
    """If this fails after an update of MediaPipe, adapt `drawing.py` to what the package imports."""
    done = subprocess.run([sys.executable, "-c", _WORKER_PROCESS], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_import_mediapipe_leaves_drawing_helpers_importable(plugin: ModuleType) -> None:
    import_mediapipe()
    vision = sys.modules["mediapipe.tasks.python.vision"]
    assert not hasattr(vision, "drawing_utils")
    assert "mediapipe.tasks.python.vision.drawing_utils" not in sys.modules
    assert importlib.util.find_spec("mediapipe.tasks.python.vision.drawing_utils").origin.endswith(".py")  # type: ignore[union-attr]


def test_native_log_logs_native_lines_and_writes_others(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    caplog.set_level("DEBUG")
    others = "INFO:     127.0.0.1 - GET /avatars 200\nINFO: a line of another thread\n"
    with native_lines_as_debug_log():
        os.write(2, b"W0000 00:00:1795.900442 6335 face_landmarker_graph.cc:181] Sets acceleration.\n")
        os.write(2, others.encode())
    assert capfd.readouterr().err == others
    assert "Sets acceleration." in caplog.text


def test_native_log_redirects_nothing_outside_worker_processes(capfd: pytest.CaptureFixture[str]) -> None:
    with native_lines_as_debug_log():
        os.write(2, b"W0000 00:00:1795.900442 6335 face_landmarker_graph.cc:181] Sets acceleration.\n")
        assert "Sets acceleration." in capfd.readouterr().err


def test_open_without_shared_library_names_the_library(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mediapipe.tasks.python.vision import FaceLandmarker

    def fail(options: object) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file")

    monkeypatch.setattr(FaceLandmarker, "create_from_options", fail)
    with pytest.raises(PluginError, match=r"libEGL\.so\.1: cannot open"):
        detector.MouthDetector().open()
