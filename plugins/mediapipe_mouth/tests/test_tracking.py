"""The tracker of the MediaPipe plugin: motion, loss, several persons, cuts, and what a frame costs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import pytest
from opentalking_mediapipe_mouth import model_file
from opentalking_mediapipe_mouth.landmarker import Landmarker, VideoLandmarker
from PIL import Image

from opentalking_core import PluginError
from opentalking_core.portraits.drawn import draw_portrait

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from opentalking_core import MouthLandmarks
    from opentalking_core.portraits.drawn import DrawnPortrait

FPS = 25


class Frame(NamedTuple):
    """A frame of a drawn video, and where the tracked person's mouth is in it.

    Args:
        image: the frame.
        mouth: the middle of the lips in pixels; None if the frame doesn't show the mouth.
        width: of the lips in pixels.
    """

    image: Image.Image
    mouth: tuple[float, float] | None
    width: float = 1.0

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return np.array(self.image)


class Person:
    """A drawn person in a square picture.

    Args:
        size: of the square in pixels; the face is 0.45 times as wide.
        seed: the person's colours.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.drawn = draw_portrait(size, size, seed=seed)
        self.size = size

    def mouth(self, left: float, top: float) -> tuple[float, float]:
        """Return where the mouth is if the square is at that place."""
        x, y = self.drawn.mouth_center
        return left + x * self.size, top + y * self.size

    @property
    def lips(self) -> float:
        """The width of the lips in pixels."""
        return 2 * self.drawn.mouth_rx * self.size


def scene(*people: tuple[Person, int, int], background: str = "#8890a0") -> Frame:
    """Return a frame of 1280 x 720 with people at their places, the tracked one first."""
    image = Image.new("RGB", (1280, 720), background)
    for person, left, top in people:
        image.paste(person.drawn.image, (left, top))
    first, left, top = people[0]
    return Frame(image, first.mouth(left, top), first.lips)


@functools.cache
def wide() -> DrawnPortrait:
    """Return a wide picture with a face of 216 pixels of width in the middle."""
    return draw_portrait(1600, 640, face_width=216 / 1600, seed=0)


def view(left: int) -> Frame:
    """Return 480 x 640 pixels of the wide picture. At 560 the face is in the middle, from 900 on it is outside."""
    x, y = wide().mouth_center[0] * 1600 - left, wide().mouth_center[1] * 640
    return Frame(wide().image.crop((left, 0, left + 480, 640)), (x, y) if x > 0 else None, 2 * wide().mouth_rx * 1600)


def track(plugin: ModuleType, frames: Sequence[Frame]) -> list[MouthLandmarks | None]:
    """Return what the plugin's tracker finds in a video of these frames."""
    tracker = plugin.open_mouth_tracker()
    try:
        return [tracker.track(frame.pixels, at / FPS) for at, frame in enumerate(frames)]
    finally:
        tracker.close()


def assert_tracked(plugin: ModuleType, frames: Sequence[Frame], tolerance: float = 0.05) -> None:
    """Assert that each frame's mouth, and no other, is found within that part of its width."""
    for at, (found, frame) in enumerate(zip(track(plugin, frames), frames, strict=True)):
        assert (found is None) == (frame.mouth is None), f"frame {at}"
        if found is not None:
            assert distance(found, frame) < tolerance, f"frame {at}"


def distance(found: MouthLandmarks, frame: Frame) -> float:
    """Return how far the mouth that was found is from the true mouth, by the mouth's width."""
    assert frame.mouth is not None
    x, y = np.mean(found.outer_lip, axis=0) * frame.image.size - frame.mouth
    return float(np.hypot(x, y)) / frame.width


@pytest.mark.parametrize("speed", [5, 20, 60, 90])
def test_track_follows_face_at_any_speed(plugin: ModuleType, speed: int) -> None:
    """Up to 40 % of the face's width from frame to frame, with turns."""
    lefts = 560 + 200 * np.sin(np.arange(16) * speed / 200)
    assert_tracked(plugin, [view(round(left)) for left in lefts])


def test_track_from_the_second_frame_on_is_as_precise_as_detect_mouth(plugin: ModuleType) -> None:
    frames = [view(left) for left in range(500, 600, 7)]
    tracked = [distance(found, frame) for found, frame in zip(track(plugin, frames), frames, strict=True) if found]
    detected = [distance(plugin.detect_mouth(frame.pixels), frame) for frame in frames]
    assert len(tracked) == len(frames)
    assert max(tracked) < max(detected) + 0.01
    assert np.mean(tracked) < np.mean(detected) + 0.005


@pytest.mark.parametrize("speed", [25, 70])
def test_track_face_that_leaves_and_comes_back_is_none_meanwhile(plugin: ModuleType, speed: int) -> None:
    away = list(range(560, 1100, speed))
    frames = [view(left) for left in (*away, *[1100] * 6, *reversed(away))]
    at_the_edge = [frame.mouth is not None and frame.mouth[0] < frame.width for frame in frames]
    for found, frame, is_uncertain in zip(track(plugin, frames), frames, at_the_edge, strict=True):
        if not is_uncertain:
            assert (found is None) == (frame.mouth is None)
            assert found is None or distance(found, frame) < 0.05


def test_track_face_that_is_covered_from_above_is_none_once_the_mouth_is_hidden(plugin: ModuleType) -> None:
    """MediaPipe's video mode goes on for four frames with a face that it can't see. The detector doesn't confirm it."""
    shown = draw_portrait(480, 640)
    bottom = round(640 * (shown.mouth_center[1] + shown.mouth_ry))
    covers = range(bottom - 180, bottom + 40, 20)
    frames = [Frame(shown.image.copy(), None) for _ in covers]
    for frame, height in zip(frames, covers, strict=True):
        frame.image.paste("#5a4632", (0, 0, 480, height))
    for found, height in zip(track(plugin, frames), covers, strict=True):
        if height < bottom - 150:
            assert found is not None
        if height >= bottom:
            assert found is None


def test_track_mouth_below_the_edge_of_the_frame_is_none(plugin: ModuleType) -> None:
    """`detect_mouth` returns such a mouth, with coordinates outside of the frame."""
    shown = draw_portrait(600, 600, face_width=0.5)
    mouth = round(600 * shown.mouth_center[1])
    sinking = [Frame(shown.image.crop((0, drop - 200, 600, drop + mouth)), None) for drop in range(24, -36, -6)]
    assert not plugin.detect_mouth(sinking[-2].pixels).is_in_picture
    found = track(plugin, sinking)
    assert None not in found[:4]
    assert found[5:] == [None] * 5


def test_track_mouth_that_opens_and_closes_has_the_opening_of_each_frame(plugin: ModuleType) -> None:
    opened = [0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.0]
    drawn = [draw_portrait(480, 640, mouth_open=each) for each in opened]
    found = track(plugin, [Frame(portrait.image, None) for portrait in drawn])
    for each, landmarks in zip(opened, found, strict=True):
        assert landmarks is not None
        lower, upper = landmarks.inner_mouth[5][1], landmarks.inner_mouth[15][1]
        assert lower - upper == pytest.approx(0.055 * each, abs=0.012)


def test_track_still_face_trembles_less_than_detect_mouth(plugin: ModuleType) -> None:
    """The camera's noise moves the lips by less than in single frames, and by less than 1 % of their width."""
    noise = np.random.default_rng(0)
    still = view(560)
    noisy = [still.pixels + noise.normal(0, 6, still.pixels.shape) for _ in range(12)]
    frames = [Frame(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), still.mouth) for pixels in noisy]
    alone = [plugin.detect_mouth(frame.pixels) for frame in frames]
    assert _tremor(track(plugin, frames), still) < min(0.01, _tremor(alone, still))


def _tremor(found: Sequence[MouthLandmarks | None], frame: Frame) -> float:
    """Return the mean absolute second difference of the lips' middle, by the width of the lips."""
    middles = np.array([np.mean(landmarks.outer_lip, axis=0) for landmarks in found if landmarks])
    assert len(middles) == len(found)
    return float(np.abs(np.diff(middles * frame.image.size, 2, axis=0)).mean()) / frame.width


def test_track_same_frames_twice_gives_equal_results(plugin: ModuleType) -> None:
    frames = [view(left) for left in (560, 600, 1100, 640, 620)]
    assert track(plugin, frames) == track(plugin, frames)


# -- several persons


def test_track_of_two_persons_the_largest_is_followed(plugin: ModuleType) -> None:
    large, small = Person(400, 1), Person(300, 2)
    frames = [scene((large, 100 + 10 * step, 100), (small, 900 - 8 * step, 200)) for step in range(10)]
    assert_tracked(plugin, frames)
    assert [found.faces for found in track(plugin, frames) if found] == [2] * 10


def test_track_person_while_a_larger_face_enters(plugin: ModuleType) -> None:
    person, larger = Person(300, 2), Person(520, 3)
    alone = [scene((person, 150, 200))] * 3
    assert_tracked(plugin, alone + [scene((person, 150, 200), (larger, 1280 - 60 * step, 100)) for step in range(10)])


def test_track_person_who_is_hidden_is_not_another_person(plugin: ModuleType) -> None:
    """While something covers the person, the other face is not taken for the person's."""
    person, other = Person(400, 1), Person(300, 2)
    shown = scene((person, 100, 100), (other, 850, 200))
    covered = shown.image.copy()
    covered.paste("#445566", (100, 100, 500, 500))
    assert_tracked(plugin, [shown, shown, *[Frame(covered, None)] * 4, shown, shown])


def test_track_hidden_person_is_not_a_person_close_by(plugin: ModuleType) -> None:
    """Both faces are too small to be seen in the whole frame. When the person comes back, the face is found at once."""
    person, other = Person(170, 1), Person(170, 2)
    image = Image.new("RGB", (1080, 1920), "#8890a0")
    image.paste(other.drawn.image, (390, 300))
    covered = Frame(image.copy(), None)
    image.paste(person.drawn.image.crop((0, 0, 130, 170)), (300, 300))
    shown = Frame(image, person.mouth(300, 300), person.lips)
    assert_tracked(plugin, [shown, shown, covered, covered, shown, shown], tolerance=0.1)


def test_track_face_that_is_suddenly_beside_the_person_is_not_the_person(plugin: ModuleType) -> None:
    """From one frame to the next, no person moves by two thirds of the face's size."""
    frames = []
    for person, left in ((Person(170, 1), 300), (Person(170, 1), 300), (Person(170, 2), 360)):
        image = Image.new("RGB", (1080, 1920), "#8890a0")
        image.paste(person.drawn.image, (left, 300))
        frames.append(Frame(image, person.mouth(left, 300) if left == 300 else None, person.lips))
    assert_tracked(plugin, frames)


def test_track_person_who_does_not_come_back_gives_way_to_another_person(plugin: ModuleType) -> None:
    person, other = Person(400, 1), Person(300, 2)
    both = scene((person, 100, 100), (other, 850, 200))
    found = track(plugin, [both, *[scene((other, 850, 200))] * 30])
    assert found[1] is None
    assert found[30] is not None
    assert distance(found[30], scene((other, 850, 200))) < 0.05


def test_track_after_a_cut_takes_the_largest_face(plugin: ModuleType) -> None:
    """The smaller face of the new scene is where the person was before."""
    person, smaller, larger = Person(300, 2), Person(300, 1), Person(520, 3)
    before = scene((person, 150, 200))
    after = scene((larger, 700, 100), (smaller, 150, 200), background="#203040")
    assert_tracked(plugin, [before] * 3 + [after] * 3)


# -- framings


def tall(left: int) -> Frame:
    """Return a frame of 1080 x 1920 with a face of 80 pixels of width near its top."""
    drawn = _tall()
    mouth = drawn.mouth_center[0] * 1400 - left, drawn.mouth_center[1] * 1920
    return Frame(drawn.image.crop((left, 0, left + 1080, 1920)), mouth, 2 * drawn.mouth_rx * 1400)


@functools.cache
def _tall() -> DrawnPortrait:
    return draw_portrait(1400, 1920, face_width=80 / 1400, face_center=(0.5, 0.15), seed=2)


def test_track_small_face_in_full_body_frame(plugin: ModuleType) -> None:
    """Where the face is hidden for three frames, it is found at once in its old place."""
    frames = [tall(160 + 6 * step) for step in range(9)]
    for at in (4, 5, 6):
        hidden = frames[at].image.copy()
        hidden.paste("#445566", (300, 100, 800, 500))
        frames[at] = Frame(hidden, None)
    assert_tracked(plugin, frames, tolerance=0.1)


@pytest.mark.parametrize("speed", [2, 8, 24])
def test_track_small_face_that_crosses_the_frame_is_searched_once(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, speed: int
) -> None:
    person = Person(180, 2)
    frames = []
    for left in range(40, 40 + 30 * speed, speed):
        image = Image.new("RGB", (1080, 1920), "#8890a0")
        image.paste(person.drawn.image, (left, 300 + left // 4))
        frames.append(Frame(image, person.mouth(left, 300 + left // 4), person.lips))
    plugin.startup()
    looks = Looks(monkeypatch)
    assert_tracked(plugin, frames)
    assert looks.whole.call_count <= 3  # in the whole frame, then in crops around the face


@pytest.mark.parametrize("clockwise", [30, 90, 180, 240])
def test_track_turned_face(plugin: ModuleType, clockwise: int) -> None:
    """The face goes on turning."""
    frames = [_turned(clockwise + 3 * step) for step in range(6)]
    assert_tracked(plugin, frames)
    for step, found in enumerate(track(plugin, frames)):
        assert found is not None
        assert found.pose is not None
        assert (found.pose[2] - clockwise - 3 * step + 180) % 360 - 180 == pytest.approx(0, abs=6)


def test_track_face_that_turns_round(plugin: ModuleType) -> None:
    assert_tracked(plugin, [_turned(20 * step) for step in range(18)])


@functools.cache
def _turned(clockwise: int) -> Frame:
    drawn = draw_portrait(600, 600, face_width=0.4, face_center=(0.5, 0.5))
    image = drawn.image.rotate(-clockwise, resample=Image.Resampling.BICUBIC, fillcolor="#888888")
    angle, (x, y) = np.radians(clockwise), np.array(drawn.mouth_center) - 0.5
    turned = x * np.cos(angle) - y * np.sin(angle) + 0.5, x * np.sin(angle) + y * np.cos(angle) + 0.5
    return Frame(image, (600 * turned[0], 600 * turned[1]), 1200 * drawn.mouth_rx)


# -- what it costs


class Looks:
    """Counts the looks of MediaPipe's models."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.detector = self._count(monkeypatch, Landmarker, "detect")
        self.whole = self._count(monkeypatch, Landmarker, "find_meshes")
        self.video = self._count(monkeypatch, VideoLandmarker, "find_mesh")

    @staticmethod
    def _count(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> MagicMock:
        counted = MagicMock(side_effect=getattr(owner, method))
        monkeypatch.setattr(owner, method, lambda *arguments: counted(*arguments))
        return counted


def test_track_followed_face_takes_one_look_per_frame(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of a face that hardly moves. The detector confirms the face twice a second."""
    frames = [view(560 + step % 3) for step in range(2 * FPS)]
    plugin.startup()
    looks = Looks(monkeypatch)
    assert None not in track(plugin, frames)
    assert looks.whole.call_count == 1
    assert looks.video.call_count < len(frames) + 5
    assert looks.detector.call_count < 2 * 2 + 6


def test_track_without_a_face_searches_at_a_falling_rate(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 8 seconds the windows are searched seven times. The whole frame is looked at each time."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 400, 3), dtype=np.uint8))
    plugin.startup()
    looks = Looks(monkeypatch)
    plugin.detect_mouth(np.array(noise))
    one_search = looks.detector.call_count
    assert set(track(plugin, [Frame(noise, None)] * 8 * FPS)) == {None}
    assert looks.whole.call_count == 1 + 8 * FPS
    assert looks.detector.call_count == one_search + 7 * one_search


# -- the life of a tracker


def test_open_mouth_tracker_without_a_model_returns_none(
    plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host then asks `detect_mouth`, which works as soon as the model is there."""
    monkeypatch.setenv(model_file.VARIABLE, str(tmp_path / "missing.task"))
    assert plugin.open_mouth_tracker() is None


def test_video_landmarker_that_forgets_finds_the_face_in_another_place(model: Path) -> None:
    video = VideoLandmarker(model.read_bytes())
    assert video.find_mesh(view(560).pixels) is not None
    assert video.find_mesh(view(380).pixels) is None
    assert video.find_mesh(view(560).pixels) is not None
    video.forget()
    assert not video.is_tracking
    assert video.find_mesh(view(380).pixels) is not None
    video.close()


def test_track_that_fails_leaves_other_trackers_working(plugin: ModuleType) -> None:
    good, bad = plugin.open_mouth_tracker(), plugin.open_mouth_tracker()
    assert good.track(view(560).pixels, 0.0) is not None
    with pytest.raises(PluginError, match="picture of 5x0 pixels"):
        bad.track(np.empty((0, 5, 3), np.uint8), 0.0)
    bad.close()
    assert good.track(view(562).pixels, 0.04) is not None
    good.close()


def test_track_after_shutdown_works(plugin: ModuleType) -> None:
    """A tracker keeps no model that `shutdown` closes."""
    tracker: Any = plugin.open_mouth_tracker()
    assert tracker.track(view(560).pixels, 0.0) is not None
    plugin.shutdown()
    assert tracker.track(view(562).pixels, 0.4) is not None
    tracker.close()
