"""MediaPipe's two models for faces: a detector, which is fast, and the landmarker, which is precise."""

from __future__ import annotations

import io
import os
import zipfile
from contextlib import suppress
from math import atan2, degrees
from typing import TYPE_CHECKING, Any, NamedTuple

from .drawing import import_mediapipe
from .mesh import Box, FaceMesh, pose_of_matrix
from .native_log import native_lines_as_debug_log

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .crop import Crop

#: Of more faces than this, the largest might be missed.
MAX_FACES = 5

#: The detector's model inside face_landmarker.task, which is a ZIP archive.
_DETECTOR_MEMBER = "face_detector.tflite"


class Sighting(NamedTuple):
    """A face that the detector found, in pixels.

    Args:
        score: how sure the detector is, 0 to 1.
        box: from the forehead to the chin.
        eyes: the middle between the eyes.
        mouth: the middle of the mouth.
    """

    score: float
    box: Box
    eyes: tuple[float, float]
    mouth: tuple[float, float]

    @property
    def lean(self) -> float:
        """How far the face leans clockwise, in degrees."""
        return degrees(atan2(self.eyes[0] - self.mouth[0], self.mouth[1] - self.eyes[1]))

    def moved(self, crop: Crop) -> Sighting:
        """Return this sighting in `crop` as a sighting in the picture."""
        import numpy as np

        (x, y), eyes, mouth = crop.to_picture(np.array((self.box.center, self.eyes, self.mouth))).tolist()
        half = self.box.size * crop.side / crop.size / 2
        return Sighting(self.score, Box(x - half, y - half, x + half, y + half), tuple(eyes), tuple(mouth))


class Landmarker:
    """MediaPipe's face detector and face landmarker. Not safe to share by threads.

    Args:
        model: the content of face_landmarker.task.

    Raises:
        ImportError, OSError, RuntimeError, ValueError: MediaPipe or its libraries can't be loaded.
    """

    def __init__(self, model: bytes) -> None:
        import numpy as np

        self._mediapipe: Any = import_mediapipe()
        with native_lines_as_debug_log():
            self._detector = _create_detector(model)
            self._landmarker = _create_landmarker(model)
            # MediaPipe's threads write their lines at the first picture.
            self.detect(np.zeros((64, 64, 3), np.uint8))
            self.find_meshes(np.zeros((64, 64, 3), np.uint8))

    def find_meshes(self, picture: NDArray[np.uint8]) -> list[FaceMesh]:
        """Return up to MAX_FACES meshes in `picture` (RGB, uint8). Takes 12 to 17 ms, or 3 ms without a face."""
        return _meshes(self._landmarker.detect(_image(self._mediapipe, picture)), picture)

    def detect(self, picture: NDArray[np.uint8]) -> list[Sighting]:
        """Return the faces that the detector finds in `picture` (RGB, uint8). Takes 2 ms."""
        height, width = picture.shape[:2]
        return [
            Sighting(
                found.categories[0].score,
                _box(found.bounding_box),
                _middle(found.keypoints[:2], width, height),
                _middle(found.keypoints[3:4], width, height),
            )
            for found in self._detector.detect(_image(self._mediapipe, picture)).detections
        ]

    def close(self) -> None:
        """Release the models."""
        with native_lines_as_debug_log():
            self._detector.close()
            self._landmarker.close()

    def discard(self) -> None:
        """Release the models after a failure. A failed model stays failed, and `close` raises the failure again."""
        _discard(self._detector)
        _discard(self._landmarker)


class VideoLandmarker:
    """The face landmarker in its video mode: it looks for the face where the last frame has shown the face.

    This takes half the time of `Landmarker.find_meshes`, and the mesh trembles less. Only if the last frame has shown
    no face, the detector looks at the whole frame. Not safe to share by threads.

    Args:
        model: the content of face_landmarker.task.

    Raises:
        ImportError, OSError, RuntimeError, ValueError: MediaPipe or its libraries can't be loaded.
    """

    #: Milliseconds between two frames, as MediaPipe is told. With a single face MediaPipe smooths the landmarks over
    #: time, and the lips lag behind. Over such a time nothing is left to smooth.
    _STEP_MS = 1_000_000

    def __init__(self, model: bytes) -> None:
        self._mediapipe: Any = import_mediapipe()
        with native_lines_as_debug_log():
            self._landmarker = _create_landmarker(model, is_video=True)
        self._time = 0
        self.is_tracking = False  #: whether the last frame has shown a face

    def find_mesh(self, frame: NDArray[np.uint8]) -> FaceMesh | None:
        """Return the mesh of a face in the next frame (RGB, uint8); None without one. Takes 7 ms."""
        self._time += self._STEP_MS
        result = self._landmarker.detect_for_video(_image(self._mediapipe, frame), self._time)
        meshes = _meshes(result, frame)
        self.is_tracking = bool(meshes)
        return meshes[0] if meshes else None

    def forget(self) -> None:
        """Have the detector look at the whole next frame."""
        import numpy as np

        if self.is_tracking:
            self.find_mesh(np.zeros((64, 64, 3), np.uint8))

    def close(self) -> None:
        """Release the model, also after a failure."""
        with native_lines_as_debug_log():
            _discard(self._landmarker)


def _image(mediapipe: Any, picture: NDArray[np.uint8]) -> Any:
    import numpy as np

    # MediaPipe reads rows without gaps, and copies them.
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))


def _meshes(result: Any, picture: NDArray[np.uint8]) -> list[FaceMesh]:
    """Return MediaPipe's landmarks, which are fractions of the picture, as meshes in pixels."""
    import numpy as np

    size = np.array(picture.shape[1::-1], np.float64)
    return [
        FaceMesh(np.array([(point.x, point.y) for point in points]) * size, pose_of_matrix(matrix))
        for points, matrix in zip(result.face_landmarks, result.facial_transformation_matrixes, strict=True)
    ]


def _discard(model: Any) -> None:
    """Release one of MediaPipe's models, whatever its state."""
    with suppress(RuntimeError, ValueError):
        model.close()
    # Otherwise `__del__` closes the model again. Called by the garbage collector, it waits forever for a thread that
    # has been collected before.
    model._handle = None


def _box(box: Any) -> Box:
    return Box(box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height)


def _middle(keypoints: Any, width: int, height: int) -> tuple[float, float]:
    """Return the mean of MediaPipe's keypoints, which are fractions of the picture, in pixels."""
    return (
        sum(point.x for point in keypoints) / len(keypoints) * width,
        sum(point.y for point in keypoints) / len(keypoints) * height,
    )


def _create_landmarker(model: bytes, *, is_video: bool = False) -> Any:
    from mediapipe.tasks.python.vision import (  # type: ignore[import-untyped]
        FaceLandmarker,
        FaceLandmarkerOptions,
        RunningMode,
    )

    options = FaceLandmarkerOptions(
        base_options=_offline_options(model),
        running_mode=RunningMode.VIDEO if is_video else RunningMode.IMAGE,
        num_faces=1 if is_video else MAX_FACES,
        output_facial_transformation_matrixes=True,
    )
    return FaceLandmarker.create_from_options(options)


def _create_detector(model: bytes) -> Any:
    from mediapipe.tasks.python.vision import FaceDetector, FaceDetectorOptions

    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        options = FaceDetectorOptions(base_options=_offline_options(archive.read(_DETECTOR_MEMBER)))
    return FaceDetector.create_from_options(options)


def _offline_options(model: bytes) -> Any:
    from mediapipe.tasks.python import BaseOptions  # type: ignore[import-untyped]

    class Offline(BaseOptions):  # type: ignore[misc]  # MediaPipe has no types
        """MediaPipe 1.x reports its use to Google, and no setting prevents that.

        A service that receives people's portraits must not report its use. Without trusted certificates, MediaPipe
        refuses the connection before it sends a report.
        """

        def to_ctypes(self) -> Any:
            options = super().to_ctypes()
            options.ca_bundle_path = os.devnull.encode()
            return options

    return Offline(model_asset_buffer=model)
