"""Locate the mouth of the largest face. MediaPipe is imported when the first landmarker is created."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, TypeVar

from opentalking_core import MouthLandmarks, PluginError

from . import model_file
from .landmarker import Landmarker, VideoLandmarker
from .mesh import INNER_MOUTH, OUTER_LIP
from .search import find_faces
from .tracking import FaceTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from opentalking_core import Point

    from .mesh import FaceMesh

T = TypeVar("T")

#: The Debian package of each system library that MediaPipe loads on Linux. Elsewhere its wheels bring all they need.
SYSTEM_LIBRARIES = {"EGL": "libegl1", "GLESv2": "libgles2"}


class MouthDetector:
    """One face landmarker, created when it is first needed and its model file exists. Safe to share by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._landmarker: Landmarker | None = None

    def open(self) -> None:
        """Create the landmarker, unless it exists or its model file doesn't.

        Raises:
            PluginError: MediaPipe can't be loaded, or the model file is not the right one.
        """
        with self._lock:
            self._open()

    def _open(self) -> Landmarker | None:
        if self._landmarker is None and (model := model_file.read()) is not None:
            self._landmarker = _load(Landmarker, model)
        return self._landmarker

    def detect(self, image: NDArray[np.uint8]) -> MouthLandmarks | None:
        """Locate the mouth of the largest face.

        Args:
            image: RGB, uint8, shape (height, width, 3); any strides, may be read-only, is not changed.

        Returns:
            20 points per outline, the mesh's bounding box as `face_box`, the number of faces (at most MAX_FACES) and
            the head's pose; None if there is no face or no model file.

        Raises:
            PluginError: MediaPipe can't be loaded or fails, or the model file is not the right one.
        """
        with self.lend_for(image) as landmarker:
            faces = find_faces(landmarker, image) if landmarker else []
        return _landmarks(faces[0], len(faces), image) if faces else None

    def open_tracker(self) -> MediapipeTracker | None:
        """Return a tracker for one video; None if there is no model file.

        Raises:
            PluginError: MediaPipe can't be loaded, or the model file is not the right one.
        """
        self.open()
        model = model_file.read()
        return None if model is None else MediapipeTracker(self, _load(VideoLandmarker, model))

    @contextlib.contextmanager
    def lend_for(self, image: NDArray[np.uint8]) -> Iterator[Landmarker | None]:
        """Lend the landmarker for one picture; None if there is no model file.

        Raises:
            PluginError: something failed meanwhile. The landmarker is discarded.
        """
        with self._lock:  # MediaPipe runs one call at a time anyway; the lock also keeps `close` away from a detection
            landmarker = self._open()
            try:
                yield landmarker
            except Exception as error:
                self._landmarker = None
                if landmarker is not None:
                    landmarker.discard()
                height, width = image.shape[:2]
                reason = " ".join(str(error).split())  # MediaPipe's messages have several lines
                raise PluginError(f"MediaPipe failed at a picture of {width}x{height} pixels: {reason}") from error

    def close(self) -> None:
        """Release the landmarker; a later `detect` creates a new one."""
        with self._lock:
            if self._landmarker is not None:
                self._landmarker.close()
            self._landmarker = None


class MediapipeTracker:
    """Tracks one person's mouth through a video (`opentalking_core.MouthTracker`).

    Args:
        detector: lends its landmarker for each frame.
        video: the tracker's own, to be released by `close`.
    """

    def __init__(self, detector: MouthDetector, video: VideoLandmarker) -> None:
        self._detector = detector
        self._video = video
        self._faces = FaceTracker(video)

    def track(self, image: NDArray[np.uint8], seconds: float) -> MouthLandmarks | None:
        """Locate the person's mouth in the next frame.

        Returns:
            What `MouthDetector.detect` returns, where the number of faces is that of the last frame that was looked at
            as a whole.

        Raises:
            PluginError: MediaPipe can't be loaded or fails. A tracker that has failed stays failed.
        """
        with self._detector.lend_for(image) as landmarker:
            face = self._faces.track(landmarker, image, seconds) if landmarker else None
        landmarks = _landmarks(face, self._faces.faces, image) if face else None
        return landmarks if landmarks and landmarks.is_in_picture else None

    def close(self) -> None:
        self._video.close()


def _load(kind: Callable[[bytes], T], model: bytes) -> T:
    """Return a landmarker of that kind. Raise PluginError with the remedy if MediaPipe can't be loaded."""
    try:
        return kind(model)
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # OSError: a shared library is missing
        remedy = " ".join(missing_software()) or "Reinstall opentalking-mediapipe-mouth."
        raise PluginError(f"MediaPipe can't be loaded: {error}. {remedy}") from error


def _landmarks(face: FaceMesh, faces: int, image: NDArray[np.uint8]) -> MouthLandmarks:
    """Return what the plugin reports of a face in `image`, which shows that number of faces."""
    height, width = image.shape[:2]
    points = face.points / (width, height)
    left, top, right, bottom = face.box
    return MouthLandmarks(
        outer_lip=_points(points, OUTER_LIP),
        inner_mouth=_points(points, INNER_MOUTH),
        face_box=(left / width, top / height, right / width, bottom / height),
        source="mediapipe",
        faces=faces,
        pose=face.pose,
    )


def _points(points: NDArray[np.float64], outline: tuple[int, ...]) -> list[Point]:
    return [(x, y) for x, y in points[list(outline)].tolist()]


def missing_software() -> tuple[str, ...]:
    """Return a sentence with its remedy for each thing that MediaPipe needs and that is missing; load nothing."""
    if importlib.util.find_spec("mediapipe") is None:
        return ("Mouths can't be located: MediaPipe is not installed; run `pip install mediapipe`.",)
    packages = _missing_packages()
    if not packages:
        return ()
    command = f"sudo apt install {' '.join(packages)}"
    return (
        "Mouths can't be located until MediaPipe's system libraries are installed; on Debian or Ubuntu run"
        f" `{command}` (no restart needed).",
    )


#: Libraries that were found. Looking one up takes about 10 ms, and an installed library stays.
_found_libraries: set[str] = set()


def _missing_packages() -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    for name in SYSTEM_LIBRARIES.keys() - _found_libraries:
        if ctypes.util.find_library(name) is not None:
            _found_libraries.add(name)
    return [package for name, package in SYSTEM_LIBRARIES.items() if name not in _found_libraries]
