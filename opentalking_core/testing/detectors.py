"""MouthDetectorContract: what every mouth detector promises, as tests. A detector plugin's own test is

    import my_detector
    from opentalking_core.testing.detectors import MouthDetectorContract

    class TestMyDetector(MouthDetectorContract):
        @pytest.fixture
        def plugin(self):
            return my_detector          # the module, or the object, whose functions carry @hookimpl

The pictures are drawn (`opentalking_core.portraits.drawn`), so their mouths are known. The tests call the plugin's
hooks directly and need pytest alone.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from opentalking_core.bundles.mouth import MouthLandmarks, mouth_metadata
from opentalking_core.host.host import PluginHost
from opentalking_core.portraits.drawn import DrawnPortrait, draw_portrait

from .contract import Contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import ClassVar

    from numpy.typing import NDArray

    from opentalking_core.bundles.mouth import MouthTracker

    OpenTracker = Callable[[Image.Image], MouthTracker]
    Track = Callable[[Sequence[DrawnPortrait]], list[MouthLandmarks | None]]

#: How far the centre of the lips may lie from the truth, as a fraction of the picture's width or height. The faces are
#: 0.35 to 0.6 of the picture wide, so this is 3 to 8 % of the mouth's width.
CENTER_TOLERANCE = 0.01

#: The size of the lips may lie between these multiples of the truth: detectors differ in where a lip ends.
SIZE_TOLERANCE = (0.7, 1.4)


#: Frames in a second of the videos that are drawn.
FPS = 25.0


class MouthDetectorContract(Contract):
    """The promises of a mouth detector, one test each. Subclass it and supply the fixture `plugin`."""

    #: what importing the plugin must not import: every plugin is imported at every start of every command
    heavy_modules: ClassVar[frozenset[str]] = frozenset(
        {"cv2", "dlib", "insightface", "matplotlib", "mediapipe", "onnxruntime", "tensorflow", "torch"}
    )

    @pytest.fixture
    def plugin(self) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} must define a `plugin` fixture: the module or object with your hooks"
        )

    @pytest.fixture
    def detector(self, plugin: Any) -> Iterator[Any]:
        """Return the plugin, between its `startup` and its `shutdown`."""
        getattr(plugin, "startup", _nothing)()
        yield plugin
        getattr(plugin, "shutdown", _nothing)()

    @pytest.fixture
    def open_tracker(self, detector: Any) -> Iterator[OpenTracker]:
        """Return a function that opens a tracker for frames like the given one.

        Without `open_mouth_tracker`, the tracker is the host's, which asks `detect_mouth` about each frame.
        """
        host = PluginHost().register(detector, "under_test")
        with ExitStack() as stack:

            def open_tracker(frame: Image.Image) -> MouthTracker:
                tracker = host.open_mouth_tracker("under_test", *frame.size, FPS)
                stack.callback(tracker.close)
                return tracker

            yield open_tracker

    @pytest.fixture
    def track(self, open_tracker: OpenTracker) -> Track:
        """Return a function that tracks the mouth through the frames of a video."""

        def track(frames: Sequence[DrawnPortrait]) -> list[MouthLandmarks | None]:
            tracker = open_tracker(frames[0].image)
            return [tracker.track(_pixels(frame.image), at / FPS) for at, frame in enumerate(frames)]

        return track

    @pytest.mark.parametrize("seed", range(6))
    def test_a_mouth_is_found_for_each_colour_of_skin_and_hair(self, detector: Any, seed: int) -> None:
        """The landmarks lie where the portrait has its mouth."""
        portrait = draw_portrait(seed=seed)
        _assert_found(detector.detect_mouth(_pixels(portrait.image)), portrait)

    @pytest.mark.parametrize("mouth_open", [0.5, 1.0])
    def test_an_open_mouth_is_found(self, detector: Any, mouth_open: float) -> None:
        """An open mouth is found like a closed one."""
        portrait = draw_portrait(mouth_open=mouth_open)
        _assert_found(detector.detect_mouth(_pixels(portrait.image)), portrait)

    @pytest.mark.parametrize(("width", "height"), [(256, 256), (300, 400), (1280, 720), (790, 1166), (1500, 1500)])
    def test_size_and_shape_of_the_picture_do_not_matter(self, detector: Any, width: int, height: int) -> None:
        """Coordinates are fractions of the picture's own width and height, square or not."""
        portrait = draw_portrait(width, height, face_width=0.45 * min(width, height) / width)
        _assert_found(detector.detect_mouth(_pixels(portrait.image)), portrait)

    @pytest.mark.parametrize("face_center", [(0.3, 0.35), (0.7, 0.35), (0.3, 0.65), (0.7, 0.65)])
    def test_the_face_may_be_anywhere(self, detector: Any, face_center: tuple[float, float]) -> None:
        """A face away from the middle is found in its place. x grows to the right, y downwards."""
        portrait = draw_portrait(face_center=face_center, face_width=0.35)
        _assert_found(detector.detect_mouth(_pixels(portrait.image)), portrait)

    @pytest.mark.parametrize("left_first", [True, False])
    def test_of_two_faces_the_largest_counts(self, detector: Any, left_first: bool) -> None:
        """If a picture shows several faces, the largest face is the avatar's."""
        large, small = draw_portrait(600, 600, seed=1), draw_portrait(360, 360, seed=2)
        picture = Image.new("RGB", (960, 600), "#888888")
        left = 0 if left_first else 360
        picture.paste(large.image, (left, 0))
        picture.paste(small.image, (600 if left_first else 0, 120))
        x, y = large.mouth_center
        truth = DrawnPortrait(picture, ((left + x * 600) / 960, y), large.mouth_rx * 600 / 960, large.mouth_ry)
        _assert_found(detector.detect_mouth(_pixels(picture)), truth)

    def test_a_greyscale_picture_is_a_picture(self, detector: Any) -> None:
        """A picture with three equal channels is searched like any other."""
        portrait = draw_portrait()
        _assert_found(detector.detect_mouth(_pixels(portrait.image.convert("L").convert("RGB"))), portrait)

    def test_no_face_is_none(self, detector: Any) -> None:
        """Without a face, `detect_mouth` returns None, so that the next detector is asked. Noise is not a face."""
        noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
        assert detector.detect_mouth(noise) is None
        assert detector.detect_mouth(np.full((400, 300, 3), 128, dtype=np.uint8)) is None

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 2), (2, 1), (7, 7), (16, 16), (3, 2000), (2000, 3)])
    def test_a_tiny_or_narrow_picture_is_none(self, detector: Any, width: int, height: int) -> None:
        """For a picture that is too small for a face, `detect_mouth` returns None and raises no error."""
        assert detector.detect_mouth(np.full((height, width, 3), 200, dtype=np.uint8)) is None

    def test_the_answer_is_landmarks_in_fractions(self, detector: Any) -> None:
        """All coordinates are finite. The inner mouth lies within the lips, and the lips within `face_box`."""
        found = detector.detect_mouth(_pixels(draw_portrait(mouth_open=0.5).image))
        assert isinstance(found, MouthLandmarks)
        lips, mouth = _bounds(found.outer_lip), _bounds(found.inner_mouth)
        assert all(isfinite(edge) and 0 <= edge <= 1 for edge in (*lips, *mouth))
        assert _contains(lips, mouth)
        assert found.face_box is None or _contains(found.face_box, lips)

    def test_faces_are_counted_if_at_all(self, detector: Any) -> None:
        """`faces` is the number of faces in the picture, or None."""
        assert detector.detect_mouth(_pixels(draw_portrait().image)).faces in (None, 1)
        picture = Image.new("RGB", (1000, 500), "#888888")
        for left, seed in ((0, 1), (500, 2)):
            picture.paste(draw_portrait(500, 500, seed=seed).image, (left, 0))
        assert detector.detect_mouth(_pixels(picture)).faces in (None, 2)

    @pytest.mark.parametrize("clockwise", [-25, 0, 25])
    def test_the_pose_is_in_degrees_if_there_is_one(self, detector: Any, clockwise: int) -> None:
        """`pose` is (yaw, pitch, roll) with roll above 0 for a head that leans clockwise, or None."""
        portrait = draw_portrait(600, 600, face_width=0.4).image.rotate(-clockwise, fillcolor="#888888")
        found = detector.detect_mouth(_pixels(portrait))
        if clockwise == 0:
            assert found is not None
        if found is None or found.pose is None:
            return  # no promise is made to find tilted faces, nor to know their pose
        yaw, pitch, roll = found.pose
        assert roll == pytest.approx(clockwise, abs=5)
        assert abs(yaw) < 10
        assert abs(pitch) < 10

    def test_a_face_box_is_around_the_face_if_there_is_one(self, detector: Any) -> None:
        """`face_box` is about as wide as the face. If the picture's edge cuts the face, the box reaches that edge."""
        whole = detector.detect_mouth(_pixels(draw_portrait(face_width=0.4).image))
        if whole.face_box is None:
            return
        assert 0.3 < whole.face_box[2] - whole.face_box[0] < 0.6
        assert min(whole.face_box[:2]) > 0.01
        cut_off = detector.detect_mouth(_pixels(draw_portrait(face_center=(0.12, 0.45)).image))
        assert cut_off is None or cut_off.face_box[0] <= 0

    def test_eight_threads_at_once_agree(self, detector: Any) -> None:
        """Eight detections at the same time return what each returns alone."""
        pictures = [_pixels(draw_portrait(seed=seed).image) for seed in range(4)]
        alone = [detector.detect_mouth(picture) for picture in pictures]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(detector.detect_mouth, pictures * 6))
        for one, other in zip(together, alone * 6, strict=True):
            np.testing.assert_allclose(one.outer_lip, other.outer_lip, atol=1e-3)

    def test_the_picture_is_not_changed(self, detector: Any) -> None:
        """The picture may be read-only: the host encodes the same array at the same time."""
        picture = _pixels(draw_portrait().image)
        before = picture.copy()
        assert detector.detect_mouth(picture) is not None
        assert np.array_equal(picture, before)
        picture.flags.writeable = False
        assert detector.detect_mouth(picture) is not None

    def test_the_rows_need_not_be_contiguous(self, detector: Any) -> None:
        """A view of a larger array, and an array with other strides, give the same result."""
        portrait = draw_portrait(512, 512)
        larger = np.zeros((600, 700, 3), dtype=np.uint8)
        larger[40:552, 60:572] = _pixels(portrait.image)
        _assert_found(detector.detect_mouth(larger[40:552, 60:572]), portrait)
        columns_first = np.asfortranarray(_pixels(portrait.image))
        _assert_found(detector.detect_mouth(columns_first), portrait)

    def test_a_tracker_follows_a_mouth_that_moves(self, track: Track) -> None:
        """In each frame the mouth is where that frame shows the mouth: nothing lags behind."""
        frames = [_moved(left) for left in (0, 6, 18, 36, 60, 90, 120, 110, 100, 100)]
        for found, truth in zip(track(frames), frames, strict=True):
            _assert_found(found, truth)

    def test_a_tracker_agrees_with_detect_mouth(self, detector: Any, track: Track) -> None:
        """A tracker finds the mouth that `detect_mouth` finds in the same frame."""
        frames = [_moved(left) for left in (0, 10, 20, 60)]
        for tracked, frame in zip(track(frames), frames, strict=True):
            assert tracked is not None
            found = mouth_metadata(detector.detect_mouth(_pixels(frame.image)), "detector")["animation"]
            _assert_found(
                tracked, DrawnPortrait(frame.image, found["mouth_center"], found["mouth_rx"], found["mouth_ry"])
            )

    def test_a_tracker_follows_a_mouth_that_opens_and_closes(self, track: Track) -> None:
        """The size of the lips is that of each frame, not a mean over several frames."""
        frames = [draw_portrait(mouth_open=mouth_open) for mouth_open in (0.0, 0.3, 0.9, 0.5, 0.0)]
        for found, truth in zip(track(frames), frames, strict=True):
            _assert_found(found, truth)

    def test_a_tracker_returns_none_while_the_mouth_is_not_seen(self, track: Track) -> None:
        """A frame without the mouth is None. When the person comes back, the mouth is found at once."""
        frames = [_moved(left) for left in (0, 60, 120, 500, 500, 500, 120, 60, 0)]
        found = track(frames)
        assert found[3:6] == [None] * 3
        for at in (0, 1, 2, 6, 7, 8):
            _assert_found(found[at], frames[at])

    def test_a_tracker_without_a_face_returns_none(self, track: Track) -> None:
        """Noise is not a face in any frame."""
        noise = [np.random.default_rng(seed).integers(0, 256, (300, 240, 3), dtype=np.uint8) for seed in range(3)]
        frames = [DrawnPortrait(Image.fromarray(pixels), (0, 0), 0, 0) for pixels in noise]
        assert track(frames) == [None, None, None]

    def test_a_tracker_stays_with_the_largest_face(self, track: Track) -> None:
        """Of two persons that move, the one with the largest face is tracked."""
        frames = [_pair(step) for step in range(6)]
        for found, truth in zip(track(frames), frames, strict=True):
            _assert_found(found, truth)

    def test_a_tracker_finds_the_largest_face_of_the_next_scene(self, track: Track) -> None:
        """After a cut, the mouth of the next scene is found in its first frame."""
        frames = [*(draw_portrait(360, 480, seed=1, face_width=0.5) for _ in range(3)), *[_elsewhere()] * 3]
        for found, truth in zip(track(frames), frames, strict=True):
            _assert_found(found, truth)

    def test_trackers_of_two_videos_do_not_meet(self, open_tracker: OpenTracker) -> None:
        """Frames of two videos in turn give what each video gives alone."""
        videos = [_moved(0), _moved(20)], [_elsewhere(), _elsewhere()]
        trackers = [open_tracker(video[0].image) for video in videos]
        for at in range(2):
            for tracker, video in zip(trackers, videos, strict=True):
                _assert_found(tracker.track(_pixels(video[at].image), at / FPS), video[at])

    def test_a_tracker_does_not_change_frames(self, open_tracker: OpenTracker) -> None:
        """Frames may be read-only: the host encodes the same array at the same time."""
        frame = _moved(0)
        pixels = _pixels(frame.image)
        pixels.flags.writeable = False
        tracker = open_tracker(frame.image)
        for at in range(2):
            _assert_found(tracker.track(pixels, at / FPS), frame)

    def test_importing_the_plugin_stays_light(self, plugin: Any) -> None:
        """Importing the plugin imports none of `heavy_modules`. The hooks import them."""
        module = plugin.__name__ if isinstance(plugin, types.ModuleType) else type(plugin).__module__
        code = f"import sys; sys.path[:] = {sys.path!r}; import {module}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)  # noqa: S603
        if done.returncode:
            pytest.skip(f"{module} can't be imported by name in a fresh process")
        assert self.heavy_modules.isdisjoint(done.stdout.split())


def _nothing() -> None:
    """Do nothing: this replaces a `startup` or `shutdown` that the plugin lacks."""


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.array(image)  # a copy: np.asarray's would be read-only


def _moved(left: int) -> DrawnPortrait:
    """Return a frame in which the person has moved to the left by that number of pixels; by 500, out of the frame."""
    wide = _wide_portrait()
    (x, y), width = wide.mouth_center, wide.image.width
    frame = wide.image.crop((left, 0, left + 400, 480))
    return DrawnPortrait(frame, ((x * width - left) / 400, y), wide.mouth_rx * width / 400, wide.mouth_ry)


@functools.cache
def _wide_portrait() -> DrawnPortrait:
    return draw_portrait(900, 480, face_center=(0.3, 0.45), face_width=0.2, seed=3)


def _pair(step: int) -> DrawnPortrait:
    """Return a frame with a large face on the left and a small one on the right, which both move with each step."""
    large, small = draw_portrait(600, 600, seed=1), draw_portrait(360, 360, seed=2)
    frame = Image.new("RGB", (1000, 620), "#888888")
    left, top = 8 * step, 2 * step
    frame.paste(large.image, (left, top))
    frame.paste(small.image, (640 - 4 * step, 120))
    (x, y), (width, height) = large.mouth_center, frame.size
    center = (left + x * 600) / width, (top + y * 600) / height
    return DrawnPortrait(frame, center, large.mouth_rx * 600 / width, large.mouth_ry * 600 / height)


def _elsewhere() -> DrawnPortrait:
    """Return a frame of 360 x 480 with another person in another place, before another background."""
    return draw_portrait(360, 480, seed=4, face_center=(0.62, 0.62), face_width=0.4)


def _assert_found(found: MouthLandmarks | None, truth: DrawnPortrait) -> None:
    assert found is not None, "no mouth was found"
    measured = mouth_metadata(found, "detector")["animation"]
    assert measured["mouth_center"] == pytest.approx(truth.mouth_center, abs=CENTER_TOLERANCE)
    smallest, largest = SIZE_TOLERANCE
    assert smallest < measured["mouth_rx"] / truth.mouth_rx < largest
    assert smallest < measured["mouth_ry"] / truth.mouth_ry < largest


def _bounds(points: Any) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _contains(outer: tuple[float, float, float, float], inner: tuple[float, float, float, float]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
