"""PluginHost.open_mouth_tracker: a plugin's own tracker, or its detector frame by frame, and the faults of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from opentalking_core import MouthLandmarks, PluginError, hookimpl
from opentalking_core.host.host import PluginHost
from opentalking_core.testing.fixtures import FakeMouth

if TYPE_CHECKING:
    from collections.abc import Callable

FRAME = np.zeros((6, 4, 3), dtype=np.uint8)


class FakeTracker:
    """A tracker that returns, or raises, what a test gives it, and notes what it is given."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.seconds: list[float] = []
        self.closed = False

    def track(self, image: Any, seconds: float) -> Any:
        self.seconds.append(seconds)
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        self.closed = True


class TrackingMouth(FakeMouth):
    """A detector with a tracker."""

    def __init__(self, tracker: object) -> None:
        super().__init__()
        self.tracker = tracker
        self.opened: list[tuple[int, int, float]] = []

    @hookimpl
    def open_mouth_tracker(self, width: int, height: int, fps: float) -> Any:
        self.opened.append((width, height, fps))
        return self.tracker


def test_open_mouth_tracker_opens_the_tracker_of_the_named_plugin() -> None:
    tracker, other = FakeTracker(FakeMouth.landmarks, None), TrackingMouth(FakeTracker())
    plugin = TrackingMouth(tracker)
    host = PluginHost().register(other, "a_other").register(plugin, "somebodys")
    opened = host.open_mouth_tracker("somebodys", 4, 6, 25.0)
    assert (plugin.opened, other.opened) == ([(4, 6, 25.0)], [])
    assert [opened.track(FRAME, 0.0), opened.track(FRAME, 0.04)] == [FakeMouth.landmarks, None]
    assert tracker.seconds == [0.0, 0.04]
    assert plugin.shapes == [], "detect_mouth is not asked"
    assert not tracker.closed
    opened.close()
    assert tracker.closed


@pytest.mark.parametrize("plugin", [FakeMouth(), TrackingMouth(None)], ids=["no hook", "None"])
def test_open_mouth_tracker_without_a_tracker_asks_detect_mouth_for_each_frame(plugin: FakeMouth) -> None:
    host = PluginHost().register(plugin, "somebodys").register(TrackingMouth(FakeTracker()), "other")
    opened = host.open_mouth_tracker("somebodys", 4, 6, 25.0)
    assert opened.track(FRAME, 0.0) == FakeMouth.landmarks
    plugin.landmarks = None
    assert opened.track(FRAME, 0.04) is None
    assert plugin.shapes == [FRAME.shape, FRAME.shape]
    opened.close()


def test_track_frame_by_frame_returns_none_for_a_mouth_outside_the_frame() -> None:
    plugin, lips = FakeMouth(), ((0.4, 1.1), (0.5, 1.05), (0.6, 1.1), (0.5, 1.15))
    plugin.landmarks = MouthLandmarks(lips, lips)
    opened = PluginHost().register(plugin, "somebodys").open_mouth_tracker("somebodys", 4, 6, 25.0)
    assert opened.track(FRAME, 0.0) is None


@pytest.mark.parametrize("name", ["missing", "no_detector"])
def test_open_mouth_tracker_of_no_detector_names_the_plugin(name: str) -> None:
    class NoDetector:
        @hookimpl
        def open_mouth_tracker(self) -> FakeTracker:
            return FakeTracker()

    with pytest.raises(PluginError, match=f"plugin {name} can't be asked: it detects no mouths"):
        PluginHost().register(NoDetector(), "no_detector").open_mouth_tracker(name, 4, 6, 25.0)


def _tracking(result: object) -> FakeMouth:
    return TrackingMouth(FakeTracker(result))


def _frame_by_frame(result: Any) -> FakeMouth:
    class Detector(FakeMouth):
        @hookimpl
        def detect_mouth(self, image: object) -> MouthLandmarks | None:
            found: MouthLandmarks | None = FakeTracker(result).track(image, 0.0)
            return found

    return Detector()


@pytest.mark.parametrize(("plugin", "method"), [(_tracking, "track"), (_frame_by_frame, "detect_mouth")])
@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (KeyError("k"), "{} raised KeyError: 'k'"),
        (SystemExit("no"), "{} called sys.exit('no')"),
        (PluginError("get a driver"), "get a driver"),
        ("lips", "{} returned str, not MouthLandmarks or None"),
    ],
    ids=["raises", "exits", "refuses", "is a str"],
)
def test_track_that_fails_names_the_plugin(
    plugin: Callable[[object], FakeMouth], method: str, result: object, sentence: str
) -> None:
    opened = PluginHost().register(plugin(result), "somebodys").open_mouth_tracker("somebodys", 4, 6, 25.0)
    with pytest.raises(PluginError) as caught:
        opened.track(FRAME, 0.0)
    assert str(caught.value) == "plugin somebodys: " + sentence.format(method)


@pytest.mark.parametrize("plugin", [_tracking, _frame_by_frame])
def test_track_without_memory_raises_memory_error(plugin: Callable[[object], FakeMouth]) -> None:
    """The worker process has to be replaced, so the error must reach what runs there."""
    opened = PluginHost().register(plugin(MemoryError()), "somebodys").open_mouth_tracker("somebodys", 4, 6, 25.0)
    with pytest.raises(MemoryError):
        opened.track(FRAME, 0.0)


def test_close_that_fails_names_the_plugin() -> None:
    class Stuck(FakeTracker):
        def close(self) -> None:
            raise OSError("busy")

    opened = PluginHost().register(TrackingMouth(Stuck()), "somebodys").open_mouth_tracker("somebodys", 4, 6, 25.0)
    with pytest.raises(PluginError, match="plugin somebodys: close raised OSError: busy"):
        opened.close()
