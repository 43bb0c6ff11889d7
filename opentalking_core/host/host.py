"""PluginHost: ask the plugins, and check what they answer."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..bundles.model_type import PortraitRecipe
from ..errors import InvalidURL, OpenTalkingError, PluginError
from .calls import HookCall, HookFailed
from .loading import PLUGIN_EXCEPTIONS, PluginChoice, PluginInfo, PluginLoader
from .secrets import hide_secrets, without_secrets
from .tracking import FrameByFrameTracker, PluginTracker, checked_landmarks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..bundles.model_type import ModelType
    from ..bundles.mouth import MouthLandmarks, MouthTracker
    from ..bundles.store import BundleStore
    from ..hookspecs import Action

__all__ = ["MOUTH_PACKAGE", "PACKAGES", "PluginChoice", "PluginHost", "PluginInfo"]

log = logging.getLogger(__name__)

#: The packages that open URLs of these schemes, for the error of a host that has no such plugin.
PACKAGES = {
    "file": "opentalking-local-storage",
    "http": "opentalking-http-storage",
    "https": "opentalking-http-storage",
    "s3": "opentalking-s3-storage",
    **dict.fromkeys(
        ("abfs", "adl", "az", "dropbox", "ftp", "gcs", "gs", "hdfs", "sftp", "smb", "ssh", "webdav"),
        "opentalking-fsspec-storage",
    ),
}

#: The package that locates mouths, for hosts without a detector.
MOUTH_PACKAGE = "opentalking-mediapipe-mouth"

#: The methods of a bundle store.
_STORE_METHODS = ("__aenter__", "__aexit__", "scan", "files", "open", "create", "delete")


@dataclass
class PluginHost:
    """The plugins of one app. Make one, `register` objects if you like, then `load` the installed ones.

    Args:
        choice: which installed and one-file plugins to load.
    """

    choice: PluginChoice = field(default_factory=PluginChoice)

    def __post_init__(self) -> None:
        self._loader = PluginLoader(self.choice)
        self._calls_by_hook: dict[str, list[HookCall]] = {}
        self._set_up: dict[str, bool | HookFailed | None] | None = None
        self._types: list[tuple[PluginInfo, dict[str, ModelType] | HookFailed]] | None = None
        self._starting = threading.Lock()
        self._started = False

    def load(self) -> PluginHost:
        """Import the installed plugins (entry points, group "opentalking") and the one-file ones.

        A plugin that can't be imported or registered is listed as failed, with the reason.

        Returns:
            this host.
        """
        self._loader.load()
        self._forget_answers()
        return self

    def register(self, plugin: object, name: str) -> PluginHost:
        """Add a plugin object (a module, or anything with @hookimpl methods) by hand: for tests and for embedders.

        Raises:
            PluginError: the name is taken, or the object implements a hook wrongly.

        Returns:
            this host.
        """
        self._loader.register(plugin, PluginInfo(name, "registered"))
        self._forget_answers()
        return self

    def plugins(self) -> list[PluginInfo]:
        """Return every plugin that was found, active, disabled or failed, by name."""
        return sorted([*self._loader.usable.values(), *self._loader.failed], key=lambda info: info.name)

    def open_bundle_store(self, location: str) -> tuple[BundleStore, PluginInfo]:
        """Return the store at a URL or a folder's path, and the plugin that it comes from; nothing is connected yet.

        A plugin that fails is passed over, with a warning, if another one opens the URL.

        Raises:
            InvalidURL: the URL is wrong, or no plugin opens it.
            PluginError: two plugins open it, or no plugin opens it and one has failed.
        """
        url = location if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", location) else _file_url(location)
        opened: list[tuple[BundleStore, PluginInfo]] = []
        failures: list[OpenTalkingError] = []
        for call in self._calls("open_bundle_store"):
            try:
                store = call(url=url)
                if store is not None:
                    opened.append((_checked_store(call, store), call.info))
            except HookFailed as failed:
                failures.append(failed.__cause__ if isinstance(failed.__cause__, InvalidURL) else failed)
        if len(opened) > 1:
            names = " and ".join(str(info) for _, info in opened)
            remedy = f"block one: OPENTALKING_DISABLE_PLUGINS={opened[0][1].name}"
            raise PluginError(f"{without_secrets(url)!r} is opened by {names}; {remedy}")
        if not opened:
            raise self._not_opened(url, failures)
        for failure in failures:
            log.warning("%s", hide_secrets(str(failure), url))
        return opened[0]

    def detectors(self) -> list[PluginInfo]:
        """Return the plugins that detect mouths, in the order in which they are asked (`hookspecs.detect_mouth`)."""
        order = {name: position for position, name in enumerate(self.choice.detectors)}
        calls = self._calls("detect_mouth")
        calls = sorted(calls, key=lambda call: (order.get(call.info.name, len(order)), call.rank, call.info.name))
        return [call.info for call in calls]

    def detect_mouth(self, detector: str, image: NDArray[np.uint8]) -> MouthLandmarks | None:
        """Ask one detector, by its plugin's name, for the mouth in `image` (uint8 RGB, (height, width, 3)).

        Raises:
            PluginError: it could not be loaded here, or returned something else than MouthLandmarks or None.
            Exception: the detector raised it.
        """
        call = self._detector_call(detector)
        return checked_landmarks(call, call.raw(image=image))

    def open_mouth_tracker(self, detector: str, width: int, height: int, fps: float) -> MouthTracker:
        """Open the tracker of one detector for the frames of one video.

        Args:
            detector: the name of the detector's plugin.
            width: of each frame, in pixels.
            height: of each frame, in pixels.
            fps: the number of frames in a second.

        Returns:
            The plugin's own tracker, or a tracker that asks the plugin's `detect_mouth` about each frame. Whatever
            goes wrong in one of its methods is a PluginError that names the plugin, except a MemoryError.

        Raises:
            PluginError: the detector could not be loaded here, failed, or returned something that is no tracker.
        """
        detect = self._detector_call(detector)
        for call in self._calls("open_mouth_tracker"):
            if call.info.name == detector:
                tracker = call.guard(call.raw, width=width, height=height, fps=fps)
                if tracker is not None:
                    return PluginTracker(call, _checked_tracker(call, tracker))
        return FrameByFrameTracker(detect)

    def _detector_call(self, detector: str) -> HookCall:
        """Return a call to one detector's `detect_mouth`. Raise PluginError if there is none."""
        for call in self._calls("detect_mouth"):
            if call.info.name == detector:
                return call
        reasons = [info.reason for info in self._loader.failed if info.name == detector]
        raise PluginError(f"plugin {detector} can't be asked: {'; '.join(reasons) or 'it detects no mouths'}")

    def model_types(self) -> dict[str, ModelType]:
        """Return all registered model types by name. `plugin_warnings` names plugins that can't register theirs.

        Raises:
            PluginError: two plugins register one name.
        """
        owners: dict[str, PluginInfo] = {}
        types: dict[str, ModelType] = {}
        for info, registered in self._registered_types():
            if isinstance(registered, HookFailed):
                log.warning("%s; its model types are missing", registered)
                continue
            for name, model_type in registered.items():
                if name in owners:
                    raise PluginError(
                        f"model type {name!r} is registered by {owners[name]} and {info};"
                        f" block one: OPENTALKING_DISABLE_PLUGINS={info.name}"
                    )
                owners[name], types[name] = info, model_type
        return types

    def model_type_owner(self, name: str) -> PluginInfo:
        """Return the plugin that registers a model type. Raise KeyError if none does."""
        for info, registered in self._registered_types():
            if not isinstance(registered, HookFailed) and name in registered:
                return info
        raise KeyError(name)

    def _registered_types(self) -> list[tuple[PluginInfo, dict[str, ModelType] | HookFailed]]:
        """Return each plugin's model types by name, or its failure. Each plugin is asked once."""
        if self._types is None:
            registered: list[tuple[PluginInfo, dict[str, ModelType] | HookFailed]] = []
            for call in self._calls("register_model_types"):
                try:
                    registered.append((call.info, _model_types_of(call)))
                except HookFailed as failure:
                    registered.append((call.info, failure))
            self._types = registered
        return self._types

    def authorize(self, action: Action, avatar_id: str | None, credentials: str | None) -> bool | None:
        """Return False if a plugin forbids a client to do something, else True if one allows it.

        Args:
            action: what the client wants to do.
            avatar_id: the avatar's id as the client wrote it; None if the action concerns no single avatar.
            credentials: the Authorization header, if there is one.

        Returns:
            None if no plugin knows the client.

        Raises:
            PluginError: a plugin raised, or answered neither with a bool nor with None.
        """
        request = {"action": action, "avatar_id": avatar_id, "credentials": credentials}
        answers = [_yes_no_or_none(call, **request) for call in self._calls("authorize")]
        known = [answer for answer in answers if answer is not None]
        return all(known) if known else None

    def can_authorize(self) -> bool:
        """Return whether a plugin that implements `authorize` is set up to authorize clients.

        Raises:
            PluginError: a plugin raised an error, or answered neither with a bool nor with None.
        """
        answers = self._set_up_answers()
        for answer in answers.values():
            if isinstance(answer, HookFailed):
                raise answer
        return any(answers.get(call.info.name) is True for call in self._calls("authorize"))

    def possible_authorizers(self) -> list[str]:
        """Return the plugins that implement `authorize`, without those that say that they are not set up."""
        answers = self._set_up_answers()
        names = [call.info.name for call in self._calls("authorize")]
        return [name for name in names if answers.get(name) is not False]

    def _set_up_answers(self) -> dict[str, bool | HookFailed | None]:
        """Return each plugin's answer to `can_authorize`, or its failure. Each plugin is asked once."""
        if self._set_up is None:
            answers: dict[str, bool | HookFailed | None] = {}
            for call in self._calls("can_authorize"):
                try:
                    answers[call.info.name] = _yes_no_or_none(call)
                except HookFailed as failure:
                    log.warning("%s", failure)
                    answers[call.info.name] = failure
            self._set_up = answers
        return self._set_up

    def _forget_answers(self) -> None:
        """Forget what depends on the plugins that are loaded."""
        self._calls_by_hook.clear()
        self._set_up = None
        self._types = None

    def fetch_models(self) -> Iterator[tuple[str, Sequence[Path] | Exception]]:
        """Have each plugin fetch its model files; yield the plugin's name and the files, or what went wrong."""
        for call in self._calls("fetch_models"):
            try:
                yield call.info.name, call.items(Path, "paths")
            except HookFailed as failure:
                yield call.info.name, PluginError(failure.reason)

    def plugin_warnings(self) -> dict[str, list[str]]:
        """Return what keeps plugins from working, by plugin: failed imports, failing hooks, what each one reports."""
        warnings = self.reported_problems()
        for info in reversed(self._loader.failed):
            warnings.setdefault(info.name, []).insert(0, info.reason)
        return warnings

    def reported_problems(self) -> dict[str, list[str]]:
        """Return what keeps the loaded plugins from working, by plugin: failing hooks, and what each plugin reports."""
        warnings: dict[str, list[str]] = {}
        for call in self._calls("report_problems"):
            try:
                found = call.items(str, "texts")
            except HookFailed as failure:
                found = [failure.reason]
            warnings.setdefault(call.info.name, []).extend(found)
        for info, registered in self._registered_types():
            if isinstance(registered, HookFailed):
                warnings.setdefault(info.name, []).append(registered.reason)
        return {name: sentences for name, sentences in warnings.items() if sentences}

    def startup(self) -> None:
        """Call every plugin's `startup`, once. A failure is logged; the plugin's detections will fail too."""
        with self._starting:
            if not self._started:
                self._call_all("startup")
                self._started = True

    def shutdown(self) -> None:
        """Call every plugin's `shutdown`, in the reverse order, if `startup` was called."""
        with self._starting:
            if self._started:
                self._call_all("shutdown", backwards=True)
                self._started = False

    def _call_all(self, hook: str, *, backwards: bool = False) -> None:
        calls = self._calls(hook)
        for call in reversed(calls) if backwards else calls:
            try:
                call()
            except HookFailed as failure:
                if isinstance(failure.__cause__, PluginError):  # the plugin's detections will raise the same sentence
                    log.info("%s", failure)
                else:
                    log.error("%s", failure, exc_info=failure.__cause__)

    def _calls(self, hook: str) -> Sequence[HookCall]:
        """Return a call to each plugin that implements `hook`, by the plugin's name.

        pluggy's own call tells neither which plugin answered nor which one raised, and stops at the first that raises.
        """
        if (calls := self._calls_by_hook.get(hook)) is None:
            manager = self._loader.manager
            impls = [i for i in getattr(manager.hook, hook).get_hookimpls() if not (i.wrapper or i.hookwrapper)]
            calls = []
            for impl in sorted(impls, key=lambda impl: impl.plugin_name):
                others = [other.plugin for other in impls if other is not impl]
                caller = manager.subset_hook_caller(hook, remove_plugins=others)
                rank = impl.trylast - impl.tryfirst
                calls.append(HookCall(self._loader.usable[impl.plugin_name], hook, caller, rank))
            self._calls_by_hook[hook] = calls
        return calls

    def _not_opened(self, url: str, failures: Sequence[OpenTalkingError]) -> OpenTalkingError:
        """Return the error for a URL that no plugin opens: why, or which package would open it."""
        for failure in failures:
            if isinstance(failure, InvalidURL):
                return InvalidURL(hide_secrets(str(failure), url))
        shown = without_secrets(url)
        not_opened = f"no installed plugin opens {shown!r}"
        if failures:
            reasons = "; ".join(hide_secrets(str(failure), url) for failure in failures)
            return PluginError(f"{not_opened}; {reasons}")
        unused = "; ".join(
            f"{info} {info.status}: {info.reason}".rstrip(": ") for info in self.plugins() if info.status != "active"
        )
        scheme = url.partition(":")[0].lower()
        package = PACKAGES.get("gs" if scheme.startswith("fsspec+") else scheme)
        remedy = f"install the package {package}" if package else "install the plugin that does"
        return InvalidURL(f"{not_opened} ({unused}); {remedy}" if unused else f"{not_opened}; {remedy}")


def _yes_no_or_none(call: HookCall, **arguments: object) -> bool | None:
    """Call a hook that returns True, False or None. Raise HookFailed if it returns something else."""
    answer = call(**arguments)
    if answer is None or isinstance(answer, bool):
        return answer
    raise call.wrong_result(answer, "True, False or None")


def _checked_store(call: HookCall, store: Any) -> BundleStore:
    """Return what `open_bundle_store` returned. Raise HookFailed if it lacks what every store has."""
    missing = [name for name in _STORE_METHODS if not callable(_member(call, store, name, "a store"))]
    if not isinstance(_member(call, store, "url", "a store"), str):
        missing.append("url")
    if missing:
        raise call.wrong_result(store, f"a bundle store: it lacks {', '.join(missing)}")
    checked: BundleStore = store
    return checked


def _checked_tracker(call: HookCall, tracker: Any) -> MouthTracker:
    """Return what `open_mouth_tracker` returned. Raise HookFailed if it lacks a tracker's methods."""
    missing = [name for name in ("track", "close") if not callable(_member(call, tracker, name, "a mouth tracker"))]
    if missing:
        raise call.wrong_result(tracker, f"a mouth tracker: it lacks {' and '.join(missing)}")
    checked: MouthTracker = tracker
    return checked


def _model_types_of(call: HookCall) -> dict[str, ModelType]:
    """Return one plugin's model types by name. Raise HookFailed if one of them is not a model type."""
    types: dict[str, ModelType] = {}
    registered: list[Any] = call.items(object, "model types")
    for model_type in registered:
        name = _member(call, model_type, "name", "a model type")
        if not (isinstance(name, str) and name.strip()):
            raise call.wrong_result(model_type, "a model type: it has no `name`", "yielded")
        if not callable(_member(call, model_type, "problems", "a model type")):
            raise call.wrong_result(model_type, f"a model type: {name!r} has no method `problems`", "yielded")
        recipe = _member(call, model_type, "portrait_recipe", "a model type", missing="none")
        if not (recipe is None or isinstance(recipe, PortraitRecipe)):
            wanted = f"a model type: {name!r} has no `portrait_recipe` that is a PortraitRecipe or None"
            raise call.wrong_result(model_type, wanted, "yielded")
        if name in types:
            raise HookFailed(call.info, f"{call.hook} yielded two model types named {name!r}")
        types[name] = model_type
    return types


def _member(call: HookCall, owner: object, name: str, described: str, missing: object = None) -> object:
    """Return an attribute of a plugin's object, or `missing`. Raise HookFailed if it is a property that raises.

    Args:
        call: the hook that returned the object.
        owner: the object.
        name: the attribute's name.
        described: the object in the error's words, such as "a store".
        missing: what to return if there is no such attribute.
    """
    try:
        return getattr(owner, name, missing)
    except PLUGIN_EXCEPTIONS as error:
        raise HookFailed(call.info, f"{described}'s `{name}` raised {type(error).__name__}: {error}") from error


def _file_url(path: str) -> str:
    return "file://" + quote(str(Path(path).expanduser().absolute()))
