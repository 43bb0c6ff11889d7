"""Every hook that an OpenTalking plugin can implement, on one page.

A plugin is a module whose functions carry `@hookimpl`, or a class whose methods do and of which each host makes an
instance. A plugin implements any of these hooks, and takes only those of a hook's arguments that it needs. Hooks are
plain functions (never `async def`) that return at once, `detect_mouth`, `open_mouth_tracker` and `fetch_models`
excepted: code that waits for a disk or a network belongs into the object that the hook returns. Every plugin is
imported at every start, so import heavy packages inside the functions.

A hook that raises, or returns something else than is said here, is reported in one sentence with the plugin's name, and
disables only what needs this plugin. Raise `PluginError` with a sentence of your own to have that sentence reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .bundles.model_type import ModelType
    from .bundles.mouth import MouthLandmarks, MouthTracker
    from .bundles.store import BundleStore

hookspec = pluggy.HookspecMarker("opentalking")
hookimpl = pluggy.HookimplMarker("opentalking")  #: marks a plugin's hook implementations

#: What a client wants to do. "check" means to check a portrait without making an avatar of it, "update" to change an
#: avatar's name or metadata.
Action = Literal["list", "read", "create", "check", "update", "delete"]


@hookspec
def open_bundle_store(url: str) -> BundleStore | None:
    """Return the store at `url` if its scheme is yours, else None; touch neither disk nor network yet.

    `url` always has a scheme: the host has turned `./avatars` into `file:///srv/avatars`. Every plugin is asked, and
    exactly one must answer. Raise `InvalidURL` for a URL that is yours but wrong. If you raise anything else, the start
    fails unless another plugin opens the URL.
    """


@hookspec(firstresult=True)
def detect_mouth(image: NDArray[np.uint8]) -> MouthLandmarks | None:
    """Return the mouth of the largest face in `image`, or None if you see no face: then the next detector is asked.

    `image` is RGB, uint8, shape (height, width, 3), not yours to change. Called in a worker process of the host, one
    call at a time; with OPENTALKING_PORTRAIT_WORKERS=0, or for a plugin that was registered as an object, in threads of
    the server, several at once. A detector that raises, crashes or runs out of time is logged under its plugin's name
    and counts as None.

    Detectors are asked in this order: those named in OPENTALKING_DETECTORS; those marked `@hookimpl(tryfirst=True)`,
    such as the default one, opentalking-mediapipe-mouth; unmarked ones; those marked `trylast=True`. Within each group
    the order is alphabetical, by the plugin's name.
    """


@hookspec
def open_mouth_tracker(width: int, height: int, fps: float) -> MouthTracker | None:
    """Return a tracker for the frames of one video, or None to have `detect_mouth` asked about each frame.

    Optional, for a plugin that implements `detect_mouth` too: a tracker sees the whole sequence, so it can follow one
    person and need less time for each frame. `width` and `height` are those of the frames, in pixels; `fps` is their
    number in a second. Called where `detect_mouth` is called, after `startup`. Several trackers may be open at once,
    each with a video of its own. What a tracker promises: `opentalking_core.MouthTracker`.
    """


@hookspec
def register_model_types() -> Iterable[ModelType]:
    """Return the model types that you add (`opentalking_core.ModelType`).

    Called once by each host. If you raise or return something else, only your model types are missing. A model type's
    name that another plugin has taken stops the start, with the names of both plugins.
    """
    return ()


@hookspec
def authorize(action: Action, avatar_id: str | None, credentials: str | None) -> bool | None:
    """Return whether the sender of `credentials` may perform `action`, or None if the credentials are not yours.

    Called for the actions that OPENTALKING_PROTECT protects. All plugins are asked each time: one False forbids the
    action, else one True allows it; if all return None the client is unknown (401). `avatar_id` is as the client wrote
    it, and None for "list", "create" and "check"; `credentials` is the Authorization header, None if there is none.
    Called on the event loop, so it must not wait. If you raise, the action is not performed and the client gets a 500.
    """


@hookspec
def can_authorize() -> bool | None:
    """Return whether you are set up to authorize clients: keys are configured, for example.

    Called once when a server starts. If OPENTALKING_PROTECT isn't set, one True protects creating, checking,
    changing and deleting, and the start fails if you raise. If you implement `authorize` alone, it is called only where
    OPENTALKING_PROTECT says what to protect.
    """


@hookspec
def fetch_models() -> Iterable[Path]:
    """Download the model files that you need and don't have yet, verify them, and return where they are.

    Called by `opentalking-core models fetch`, and in a background thread when a server starts. Raise PluginError with a
    sentence that says what to do; uploads work meanwhile, without your detections.
    """
    return ()


@hookspec
def report_problems() -> Iterable[str]:
    """Return what keeps you from working at the moment, one sentence each with its remedy; nothing if all is well.

    Shown by GET /health and `opentalking-core plugins`, so look (is the file there?), but neither load nor connect.
    """
    return ()


@hookspec
def startup() -> None:
    """Load what is slow. Called once in each process that detects mouths, before its first detection."""


@hookspec
def shutdown() -> None:
    """Release what you hold. Called once in each process where `startup` was called, after the last detection."""
