"""Trackers of mouths that name their plugin in every error: a plugin's own, and one made of its `detect_mouth`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..bundles.mouth import MouthLandmarks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..bundles.mouth import MouthTracker
    from .calls import HookCall


class PluginTracker:
    """The tracker that a plugin's `open_mouth_tracker` returned.

    Args:
        call: the hook that returned the tracker.
        tracker: the plugin's object.
    """

    def __init__(self, call: HookCall, tracker: MouthTracker) -> None:
        self._track = replace(call, hook="track")
        self._close = replace(call, hook="close")
        self._tracker = tracker

    def track(self, image: NDArray[np.uint8], seconds: float) -> MouthLandmarks | None:
        """Track the mouth in the next frame.

        Raises:
            PluginError: the plugin raised, or returned something else than MouthLandmarks or None.
        """
        return checked_landmarks(self._track, self._track.guard(self._tracker.track, image, seconds))

    def close(self) -> None:
        """Close the plugin's tracker.

        Raises:
            PluginError: the plugin raised.
        """
        self._close.guard(self._tracker.close)


class FrameByFrameTracker:
    """A tracker for a detector that has none: it asks `detect_mouth` about each frame.

    Args:
        call: the detector's hook `detect_mouth`.
    """

    def __init__(self, call: HookCall) -> None:
        self._call = call

    def track(self, image: NDArray[np.uint8], seconds: float) -> MouthLandmarks | None:
        """Locate the mouth of the largest face in a frame; None if the frame doesn't show the mouth of that face.

        Raises:
            PluginError: the plugin raised, or returned something else than MouthLandmarks or None.
        """
        found = checked_landmarks(self._call, self._call.guard(self._call.raw, image=image))
        return found if found is not None and found.is_in_picture else None

    def close(self) -> None:
        pass


def checked_landmarks(call: HookCall, result: Any) -> MouthLandmarks | None:
    """Return a detector's result. Raise HookFailed if it is neither MouthLandmarks nor None."""
    if result is None or isinstance(result, MouthLandmarks):
        return result
    raise call.wrong_result(result, "MouthLandmarks or None")
