"""MediaPipe's face landmarker, guarded by a lock. MediaPipe is imported when the first landmarker is made."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from math import atan2, degrees, hypot
from typing import TYPE_CHECKING, Any

from opentalking_core import MouthLandmarks, PluginError

from . import model_file
from .drawing import import_mediapipe
from .native_log import native_lines_as_debug_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

# The lips in MediaPipe's 478-point face mesh: outlines in the order of the bundle format.
OUTER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_MOUTH = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)

#: Faces to look for; of more than this, the largest might be missed.
MAX_FACES = 5

#: The Debian package of each system library that MediaPipe loads on Linux. Elsewhere its wheels bring all they need.
SYSTEM_LIBRARIES = {"EGL": "libegl1", "GLESv2": "libgles2"}


class MouthDetector:
    """One face landmarker, made when it is first needed and its model file is there. Safe to share by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._landmarker: Any = None

    def open(self) -> None:
        """Make the landmarker, unless it is there or its model file is not.

        Raises:
            PluginError: MediaPipe can't be loaded, or the model file is not the right one.
        """
        with self._lock:
            self._open()

    def _open(self) -> None:
        if self._landmarker is None and (model := model_file.read()) is not None:
            self._landmarker = _create_landmarker(model)

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
        with self._lock:  # MediaPipe runs one call at a time anyway; the lock also keeps `close` away from a detection
            self._open()
            if self._landmarker is None:
                return None
            try:
                result = _run(self._landmarker, image)
            except Exception as error:
                self._discard()
                height, width = image.shape[:2]
                reason = " ".join(str(error).split())  # it comes in several lines
                raise PluginError(f"MediaPipe failed at a picture of {width}x{height} pixels: {reason}") from error
        meshes = [[(point.x, point.y) for point in face] for face in result.face_landmarks]
        if not meshes:
            return None
        largest = max(range(len(meshes)), key=lambda i: _area(_bounds(meshes[i])))
        mesh = meshes[largest]
        return MouthLandmarks(
            outer_lip=[mesh[i] for i in OUTER_LIP],
            inner_mouth=[mesh[i] for i in INNER_MOUTH],
            face_box=_bounds(mesh),
            source="mediapipe",
            faces=len(meshes),
            pose=_pose(result.facial_transformation_matrixes[largest]),
        )

    def close(self) -> None:
        """Release the landmarker; a later `detect` makes a new one."""
        with self._lock:
            if self._landmarker is not None:
                self._landmarker.close()
            self._landmarker = None

    def _discard(self) -> None:
        """Get rid of a landmarker that has failed: it fails for ever after."""
        with suppress(RuntimeError, ValueError):  # closing it releases what it holds, but raises the failure once more
            self._landmarker.close()
        # Or else its __del__ closes it again; called by the garbage collector, that waits for ever for a thread that
        # was collected before.
        self._landmarker._handle = None
        self._landmarker = None


def _run(landmarker: Any, image: NDArray[np.uint8]) -> Any:
    import numpy as np

    mediapipe: Any = import_mediapipe()
    pixels = np.ascontiguousarray(image)  # MediaPipe reads rows without gaps, and copies them
    return landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels))


def _create_landmarker(model: bytes) -> Any:
    try:
        import_mediapipe()
        from mediapipe.tasks.python import BaseOptions  # type: ignore[import-untyped]
        from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions  # type: ignore[import-untyped]

        class Offline(BaseOptions):  # type: ignore[misc]  # MediaPipe has no types
            """MediaPipe 1.x reports its use to Google, and has no switch for it.

            A service that is handed people's portraits must not. Without certificates to trust, MediaPipe refuses the
            connection before it sends a report.
            """

            def to_ctypes(self) -> Any:
                options = super().to_ctypes()
                options.ca_bundle_path = os.devnull.encode()
                return options

        options = FaceLandmarkerOptions(
            base_options=Offline(model_asset_buffer=model),
            num_faces=MAX_FACES,
            output_facial_transformation_matrixes=True,
        )
        import numpy as np

        with native_lines_as_debug_log():
            landmarker = FaceLandmarker.create_from_options(options)
            _run(landmarker, np.zeros((64, 64, 3), np.uint8))  # its threads write their lines at the first picture
        return landmarker
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # OSError: a shared library can't be loaded
        remedy = " ".join(missing_software()) or "Reinstall opentalking-mediapipe-mouth."
        raise PluginError(f"MediaPipe can't be loaded: {error}. {remedy}") from error


def _bounds(points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of `points`."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _pose(matrix: NDArray[np.float32]) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees, as `MouthLandmarks` has them, of a head that MediaPipe's matrix puts in place.

    Its columns are where the head's right, upward and forward directions point, in x to the picture's right, y upwards
    and z to the camera; they have the length of the head's scale.
    """
    up, forward = matrix[:3, 1], matrix[:3, 2]
    yaw = atan2(forward[0], forward[2])
    pitch = atan2(forward[1], hypot(forward[0], forward[2]))
    roll = atan2(up[0], up[1])
    return degrees(yaw), degrees(pitch), degrees(roll)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def missing_software() -> tuple[str, ...]:
    """Return one sentence with its remedy for each thing that MediaPipe needs and that can't be found; load nothing."""
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
