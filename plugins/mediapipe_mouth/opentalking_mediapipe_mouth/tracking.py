"""Track one person's face through the frames of a video: choose the person, follow the face, find the face again."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from .crop import Cutout
from .following import FaceFollower
from .outline import Outline
from .search import confirmed, look_at_whole, search_windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .landmarker import Landmarker, VideoLandmarker
    from .mesh import FaceMesh

#: Least likeness of two successive frames of one scene. Frames of talking people gave 0.999, a pan over 5 % of the
#: width from one frame to the next 0.67 to 0.82. Of different scenes, few reach 0.6. Before a plain background, a small
#: person who moves changes the likeness too, but no more than this part of the frame.
_MIN_SCENE_LIKENESS, _MAX_CHANGED_PART = 0.6, 0.25

#: The detector must confirm a followed face after this many seconds of video, and at once if the face looks less like
#: it looked when it was last confirmed: something may cover the face.
_CONFIRM_SECONDS, _MIN_FACE_LIKENESS = 0.5, 0.9

#: Seconds of video from one search of all windows to the next. A search takes 250 ms, so searches become rare while
#: nothing is found.
_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.25, 2.0

#: How far from its last place a lost face may be found, in sizes of the face: at once, and more for each second.
_REACH, _REACH_PER_SECOND = 0.5, 4.0

#: How much larger or smaller than before a lost face may be found: at once, and more for each second.
_GROWTH, _GROWTH_PER_SECOND = 1.5, 2.0


class FaceTracker:
    """Tracks the person with the largest face of the first frame, and of the first frame after a cut.

    Args:
        video: follows the face. Used by this tracker alone.
    """

    def __init__(self, video: VideoLandmarker) -> None:
        self.faces = 1  #: the number of faces in the last frame that was looked at as a whole
        self._follower = FaceFollower(video)
        self._frame: Outline | None = None
        self._person: FaceMesh | None = None
        self._seen_at = 0.0
        self._confirmed: Outline | None = None
        self._confirm_at = -inf
        self._search_at = -inf
        self._wait = _FIRST_WAIT_SECONDS

    def track(self, landmarker: Landmarker, frame: NDArray[np.uint8], seconds: float) -> FaceMesh | None:
        """Return the person's face in the next frame; None if the frame doesn't show it.

        Args:
            landmarker: finds and confirms faces.
            frame: RGB, uint8, shape (height, width, 3).
            seconds: the frame's time.
        """
        if self._is_cut(frame):
            self._person = None
            self._follower.forget()
        face = self._follow(landmarker, frame, seconds) or self._find(landmarker, frame, seconds)
        if face is not None:
            self._person, self._seen_at = face, seconds
        return face

    def _is_cut(self, frame: NDArray[np.uint8]) -> bool:
        """Return whether `frame` shows another scene than the frame before."""
        last, self._frame = self._frame, Outline(frame)
        return (
            last is not None
            and self._frame.likeness(last) < _MIN_SCENE_LIKENESS
            and self._frame.changed_part(last) > _MAX_CHANGED_PART
        )

    def _follow(self, landmarker: Landmarker, frame: NDArray[np.uint8], seconds: float) -> FaceMesh | None:
        face = self._follower.follow(frame)
        if face is None:
            return None
        if not self._is_confirmed(landmarker, frame, face, seconds):
            self._follower.reject()
            return None
        self._search_at, self._wait = seconds, _FIRST_WAIT_SECONDS
        return face

    def _is_confirmed(self, landmarker: Landmarker, frame: NDArray[np.uint8], face: FaceMesh, seconds: float) -> bool:
        """Return whether a followed face still is a face."""
        cutout = Cutout.around(face.box.center, face.box.size, 0, frame)
        outline = Outline(cutout.cut(frame))
        if (
            self._confirmed is None
            or seconds >= self._confirm_at
            or outline.likeness(self._confirmed) < _MIN_FACE_LIKENESS
        ):
            is_face = confirmed(landmarker, frame, face, may_repeat=False) is not None
            self._confirmed = outline if is_face else None
            self._confirm_at = seconds + _CONFIRM_SECONDS
        return self._confirmed is not None

    def _find(self, landmarker: Landmarker, frame: NDArray[np.uint8], seconds: float) -> FaceMesh | None:
        faces = look_at_whole(landmarker, frame)
        if not faces and seconds >= self._search_at:
            self._search_at, self._wait = seconds + self._wait, min(2 * self._wait, _MAX_WAIT_SECONDS)
            faces = search_windows(landmarker, frame)
        self.faces = max(1, len(faces))
        for candidate in self._candidates(faces, seconds):
            face = confirmed(landmarker, frame, candidate)
            if face is not None:
                return self._follower.start(frame, face) or face
        return None

    def _candidates(self, faces: list[FaceMesh], seconds: float) -> list[FaceMesh]:
        """Return the faces that can be the person, the likeliest first; all of them if there is no person yet."""
        person, gap = self._person, seconds - self._seen_at
        if person is None:
            return faces
        reach = (_REACH + _REACH_PER_SECOND * gap) * person.box.size
        growth = _GROWTH + _GROWTH_PER_SECOND * gap
        alike = [face for face in faces if 1 / growth < face.box.size / person.box.size < growth]
        near = [face for face in alike if face.box.distance(person.box) < reach]
        return sorted(near, key=lambda face: face.box.distance(person.box))
