"""Follow one face from frame to frame, in a part of the frame around the face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .crop import Cutout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .landmarker import VideoLandmarker
    from .mesh import Box, FaceMesh

#: The side of a cutout by the size of the face in it: no edge of the cutout may come into MediaPipe's view. While the
#: detector looks for the face, the cutout is black outside of the smaller side, so that no other face is in it.
_MARGIN, _DETECTION_MARGIN = 3.0, 1.7

#: A cutout stays where it is until the face has moved by this part of its size, grown by this factor, or leaned by
#: this angle in degrees.
_MAX_DRIFT, _MAX_GROWTH, _MAX_LEAN = 0.35, 1.25, 60

#: MediaPipe places the lips of a face that has moved or grown by more than this part of its size since the last look up
#: to 15 % of their width off. A second look at the same frame places them within 1 %.
_MAX_STEP = 0.1

#: Looks at one frame. Two are enough for most faces that move fast.
_MAX_LOOKS = 4


class FaceFollower:
    """Follows one face.

    Args:
        video: looks at the cutouts.
    """

    def __init__(self, video: VideoLandmarker) -> None:
        self._video = video
        self._cutout: Cutout | None = None
        self._anchor: FaceMesh | None = None  # the face when the cutout was placed
        self._last: FaceMesh | None = None
        self._expected: Box | None = None  # where MediaPipe looks for the face next; None if that is not known

    def start(self, frame: NDArray[np.uint8], face: FaceMesh) -> FaceMesh | None:
        """Begin to follow `face`, which a search has found in `frame`; return a more precise mesh of the face.

        Returns:
            None if MediaPipe doesn't see this face.
        """
        self._last = face
        self.reject()
        cutout = self._place(face, frame)
        found = self._video.find_mesh(cutout.cut_inside(_cutout(face, _DETECTION_MARGIN, frame), frame))
        if found is None:
            return None
        self._expected = found.moved(cutout).box
        return self._look(cutout, frame)

    def follow(self, frame: NDArray[np.uint8]) -> FaceMesh | None:
        """Return the mesh of the face in the next frame; None if the face isn't seen near its last place.

        The face may be seen again in a later frame.
        """
        if self._last is None:
            return None
        mesh = self._look(self._cutout, frame) if self._cutout and self._video.is_tracking else None
        return mesh or self.start(frame, self._last)

    def reject(self) -> None:
        """Have the detector look for the face in the next frame: the last mesh was not that of the face."""
        self._video.forget()
        self._expected = None

    def forget(self) -> None:
        """Follow no face."""
        self._last = None
        self.reject()

    def _look(self, cutout: Cutout, frame: NDArray[np.uint8]) -> FaceMesh | None:
        """Return the mesh if it is that of the face; move the cutout for the next frame if the face has moved."""
        mesh = self._settled_mesh(cutout, frame)
        if mesh is None or self._last is None:
            return None
        if not mesh.box.is_same_face(self._last.box):
            self.reject()
            return None
        self._last = mesh
        if not self._is_well_placed(mesh):
            self._place(mesh, frame)
        return mesh

    def _settled_mesh(self, cutout: Cutout, frame: NDArray[np.uint8]) -> FaceMesh | None:
        """Look at a frame until the face is where MediaPipe expected it, or no face is seen there."""
        pixels = cutout.cut(frame)
        mesh = None
        for _ in range(_MAX_LOOKS):
            found = self._video.find_mesh(pixels)
            if found is None:
                return None
            mesh = found.moved(cutout)
            expected, self._expected = self._expected, mesh.box
            if expected and _is_near(mesh.box, expected):
                break
        return mesh

    def _is_well_placed(self, face: FaceMesh) -> bool:
        """Return whether the cutout can stay where it is."""
        if self._anchor is None:
            return False
        growth = face.box.size / self._anchor.box.size
        return (
            face.box.distance(self._anchor.box) < _MAX_DRIFT * face.box.size
            and 1 / _MAX_GROWTH < growth < _MAX_GROWTH
            and abs((face.lean - self._anchor.lean + 180) % 360 - 180) < _MAX_LEAN
        )

    def _place(self, face: FaceMesh, frame: NDArray[np.uint8]) -> Cutout:
        """Place the cutout around `face`."""
        self._cutout, self._anchor = _cutout(face, _MARGIN, frame), face
        self._expected = None  # MediaPipe looks at the same fractions of another part of the frame
        return self._cutout


def _cutout(face: FaceMesh, margin: float, frame: NDArray[np.uint8]) -> Cutout:
    turn = round(face.lean / 90) * 90 % 360
    return Cutout.around(face.box.center, margin * face.box.size, turn, frame)


def _is_near(box: Box, expected: Box) -> bool:
    step = max(box.distance(expected), abs(box.size - expected.size))
    return step < _MAX_STEP * box.size
