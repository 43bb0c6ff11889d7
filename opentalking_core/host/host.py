"""PluginHost: finds the plugins, blocks, orders and lists them, and calls their hooks. Only this file knows pluggy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import logging
import re
import sys
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pluggy

from .. import hookspecs
from ..bundles.mouth import MouthLandmarks
from ..errors import InvalidURL, PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.metadata import EntryPoint
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from ..bundles.model_type import ModelType
    from ..bundles.store import BundleStore
    from ..hookspecs import Action

log = logging.getLogger(__name__)

GROUP = "opentalking"

#: The packages that open URLs of these schemes, for the error of a host that has no such plugin.
PACKAGES = {"file": "opentalking-local-storage", "s3": "opentalking-s3-storage"}

#: The package that locates mouths, for hosts without a detector.
MOUTH_PACKAGE = "opentalking-mediapipe-mouth"

#: What a stranger's code may raise: also SystemExit, which would end the server or a thread without a word.
_STRANGERS_ERRORS = (Exception, SystemExit)

Status = Literal["active", "disabled", "failed"]
Origin = Literal["distribution", "file", "registered"]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as `opentalking-core plugins` lists it.

    Args:
        name: the entry point's name, the file's stem, or the name given to `register`.
        origin: an installed "distribution", a "file" of OPENTALKING_PLUGINS, or an object "registered" by a program.
        distribution: its distribution's name, or the file's path.
        version: the distribution's version.
        status: "active", "disabled" by OPENTALKING_DISABLE_PLUGINS, or "failed".
        hooks: the hooks that it implements, sorted.
        reason: why it failed.
    """

    name: str
    origin: Origin
    distribution: str = ""
    version: str = ""
    status: Status = "active"
    hooks: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        source = f" ({self.distribution} {self.version})".replace(" )", ")") if self.distribution else ""
        return f"{self.name}{source}"


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """Which plugins to load; picklable, so that worker processes can make the same host.

    Args:
        files: one-file plugins to load by path.
        disabled: names not to import.
        detectors: the order of the mouth detectors; those not named come after these, by name.
    """

    files: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()


@dataclass
class PluginHost:
    """The plugins of one app. Make one, `register` objects if you like, then `load` the installed ones.

    Args:
        choice: which installed and one-file plugins to load.
    """

    choice: PluginChoice = field(default_factory=PluginChoice)

    def __post_init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._infos: dict[str, PluginInfo] = {}  # active and disabled, by name
        self._failed: list[PluginInfo] = []
        self._starting = threading.Lock()
        self._started = False
        for name in self.choice.disabled:
            self._manager.set_blocked(name)

    # Loading

    def load(self) -> PluginHost:
        """Import the installed plugins (entry points, group "opentalking") and the one-file ones.

        A plugin that can't be imported or registered is noted as failed, with the reason, and the others go on.

        Returns:
            this host.
        """
        found = importlib.metadata.entry_points(group=GROUP)
        for entry_point in sorted(found, key=lambda entry_point: entry_point.name):
            self._load_one(_describe(entry_point), entry_point.load)
        for file in self.choice.files:
            path = Path(file).expanduser().resolve()
            self._load_one(PluginInfo(path.stem, "file", str(path)), partial(_import_file, path))
        known = {info.name for info in self.plugins()}
        for name in (*self.choice.disabled, *self.choice.detectors):
            if name not in known:
                log.warning("there is no plugin %r; installed: %s", name, ", ".join(sorted(known)))
        return self

    def register(self, plugin: object, name: str) -> PluginHost:
        """Add a plugin object (a module, or anything with @hookimpl methods) by hand: for tests and for embedders.

        Raises:
            PluginError: the name is taken, or the object implements a hook wrongly.

        Returns:
            this host.
        """
        self._register(plugin, PluginInfo(name, "registered"))
        return self

    def _load_one(self, info: PluginInfo, load: Callable[[], object]) -> None:
        if info.name in self.choice.disabled:
            self._infos[info.name] = replace(info, status="disabled")
            return
        try:
            plugin = load()
            self._register(plugin() if isinstance(plugin, type) else plugin, info)
        except _STRANGERS_ERRORS as error:
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            log.warning("plugin %s can't be used: %s", info, reason, exc_info=not isinstance(error, PluginError))
            self._failed.append(replace(info, status="failed", reason=reason))

    def _register(self, plugin: object, info: PluginInfo) -> None:
        if info.name in self.choice.disabled:
            self._infos[info.name] = replace(info, status="disabled")
            return
        if (other := self._infos.get(info.name)) is not None:
            raise PluginError(f"two plugins are named {info.name!r}: {other} and {info}; rename or uninstall one")
        try:
            self._manager.register(plugin, info.name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.has_plugin(info.name):
                self._manager.unregister(name=info.name)
            raise PluginError(f"plugin {info.name} doesn't fit the hooks: {error}") from error
        callers = self._manager.get_hookcallers(plugin) or []
        for caller in callers:
            if any(inspect.iscoroutinefunction(i.function) for i in caller.get_hookimpls() if i.plugin is plugin):
                self._manager.unregister(plugin)
                raise PluginError(f"plugin {info.name}: {caller.name} must be a plain function, not `async def`")
        self._infos[info.name] = replace(info, hooks=tuple(sorted(caller.name for caller in callers)))

    # Asking

    def plugins(self) -> list[PluginInfo]:
        """Every plugin that was found: active, disabled or failed; by name."""
        return sorted([*self._infos.values(), *self._failed], key=lambda info: info.name)

    def open_bundle_store(self, location: str) -> tuple[BundleStore, PluginInfo]:
        """The store at a URL, or at a folder's path, and the plugin that it comes from; nothing is connected yet.

        Raises:
            InvalidURL: the URL is wrong, or no plugin opens it.
            PluginError: two plugins open it.
        """
        url = location if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", location) else _file_url(location)
        answers = []
        for name, call in self._calls("open_bundle_store"):
            answer: BundleStore | None = call(url=url)
            if answer is not None:
                answers.append((name, answer))
        if not answers:
            raise InvalidURL(f"no installed plugin opens {_without_secrets(url)!r}{self._remedy(url)}")
        if len(answers) > 1:
            names = " and ".join(str(self._infos[name]) for name, _ in answers)
            remedy = f"block one: OPENTALKING_DISABLE_PLUGINS={answers[0][0]}"
            raise PluginError(f"{_without_secrets(url)!r} is opened by {names}; {remedy}")
        name, store = answers[0]
        return store, self._infos[name]

    def detectors(self) -> list[PluginInfo]:
        """The plugins that detect mouths, in the order in which they are asked."""
        order = {name: position for position, name in enumerate(self.choice.detectors)}
        names = [name for name, _ in self._calls("detect_mouth")]
        return [self._infos[name] for name in sorted(names, key=lambda name: (order.get(name, len(order)), name))]

    def detect_mouth(self, detector: str, image: NDArray[np.uint8]) -> MouthLandmarks | None:
        """Ask one detector, by its plugin's name, for the mouth in `image` (uint8 RGB, (height, width, 3)).

        Raises:
            PluginError: it could not be loaded here, or returned something else than MouthLandmarks or None.
            Exception: whatever the detector raises.
        """
        detectors = dict(self._calls("detect_mouth"))
        if detector not in detectors:
            reasons = [info.reason for info in self._failed if info.name == detector]
            raise PluginError(f"plugin {detector} can't be asked: {'; '.join(reasons) or 'it detects no mouths'}")
        landmarks = detectors[detector](image=image)
        if landmarks is None or isinstance(landmarks, MouthLandmarks):
            return landmarks
        raise PluginError(
            f"plugin {detector}: detect_mouth returned {type(landmarks).__name__}, not MouthLandmarks or None"
        )

    def model_types(self) -> dict[str, ModelType]:
        """All registered model types by name.

        Raises:
            PluginError: two plugins register one name.
        """
        owners: dict[str, str] = {}
        types: dict[str, ModelType] = {}
        for plugin, call in self._calls("register_model_types"):
            for model_type in call() or ():
                name = model_type.name
                if name in owners:
                    raise PluginError(
                        f"model type {name!r} is registered by {self._infos[owners[name]]} and {self._infos[plugin]};"
                        f" block one: OPENTALKING_DISABLE_PLUGINS={plugin}"
                    )
                owners[name], types[name] = plugin, model_type
        return types

    def authorize(self, action: Action, avatar_id: str | None, credentials: str | None) -> bool | None:
        """Whether the plugins let a client do something: False if one forbids it, else True if one allows it.

        Args:
            action: what the client wants to do.
            avatar_id: to which avatar, as the client wrote it, if to one.
            credentials: the Authorization header, if there is one.

        Returns:
            None if no plugin knows the client.

        Raises:
            PluginError: a plugin answered neither with a bool nor with None.
            Exception: whatever a plugin raises.
        """
        answers = self._manager.hook.authorize(action=action, avatar_id=avatar_id, credentials=credentials)
        if not all(isinstance(answer, bool) for answer in answers):  # pluggy leaves out those that are None
            raise PluginError("a plugin's authorize hook returned something else than True, False or None")
        return all(answers) if answers else None

    def authorizers(self) -> dict[str, bool | None]:
        """Return the plugins that implement `authorize`, and what each answers to `can_authorize` (None: nothing).

        Raises:
            PluginError: a plugin raised an error, or answered neither with a bool nor with None.
        """
        answers: dict[str, bool | None] = {name: None for name, _ in self._calls("authorize")}
        for name, call in self._calls("can_authorize"):
            try:
                answer = call()
            except _STRANGERS_ERRORS as error:
                raise PluginError(f"plugin {name}: can_authorize raised {type(error).__name__}: {error}") from error
            if not isinstance(answer, bool | None):
                raise PluginError(
                    f"plugin {name}: can_authorize returned {type(answer).__name__}, not True, False or None"
                )
            if name in answers:
                answers[name] = answer
        return answers

    def fetch_models(self) -> Iterator[tuple[str, Sequence[Path] | Exception]]:
        """Have each plugin fetch its model files; yields its name and the files, or what went wrong."""
        for name, call in self._calls("fetch_models"):
            try:
                yield name, list(call() or ())
            except _STRANGERS_ERRORS as error:  # one plugin's trouble is not another's
                yield name, error if isinstance(error, Exception) else PluginError(f"it called sys.exit({error})")

    def problems(self) -> dict[str, list[str]]:
        """What keeps plugins from working, by plugin: failures to load, and what each reports of itself."""
        problems = {info.name: [info.reason] for info in self._failed}
        for name, call in self._calls("report_problems"):
            try:
                found = list(call() or ())
            except _STRANGERS_ERRORS as error:  # as above
                found = [f"its report_problems hook raised {type(error).__name__}: {error}"]
            if found:
                problems.setdefault(name, []).extend(found)
        return problems

    def startup(self) -> None:
        """Call every plugin's `startup`, once; one that raises is logged, and its detections will say the rest."""
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
        calls = list(self._calls(hook))
        for name, call in reversed(calls) if backwards else calls:
            try:
                call()
            except PluginError as error:  # its detections will raise the same sentence
                log.info("plugin %s: %s", name, error)
            except _STRANGERS_ERRORS:  # a detector that can't start must not take the others down
                log.exception("plugin %s: %s failed", name, hook)

    def _calls(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Yield (plugin name, a call that reaches this plugin alone, wrappers included), by plugin name.

        pluggy's own call would not tell who answered, and one that raises would keep the others from being asked.
        """
        impls = [i for i in getattr(self._manager.hook, hook).get_hookimpls() if not (i.wrapper or i.hookwrapper)]
        for impl in sorted(impls, key=lambda impl: impl.plugin_name):
            others = [other.plugin for other in impls if other is not impl]
            caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
            yield impl.plugin_name, partial(_single, caller)

    def _remedy(self, url: str) -> str:
        """Say which plugins are not in use, or which package opens URLs like this one."""
        unused = [
            f"{info} {info.status}: {info.reason}".rstrip(": ") for info in self.plugins() if info.status != "active"
        ]
        if unused:
            return f" ({'; '.join(unused)})"
        package = PACKAGES.get(url.partition(":")[0].lower())
        return f"; install the package {package}" if package else "; install the plugin that does"


def _single(caller: pluggy.HookCaller, **arguments: Any) -> Any:
    """The answer of a call that reaches one plugin: pluggy makes a list of it unless the hook is firstresult."""
    result = caller(**arguments)
    if caller.spec is not None and caller.spec.opts.get("firstresult"):
        return result
    return result[0] if result else None


def _describe(entry_point: EntryPoint) -> PluginInfo:
    distribution = entry_point.dist
    if distribution is None:
        return PluginInfo(entry_point.name, "distribution")
    return PluginInfo(entry_point.name, "distribution", distribution.name, distribution.version)


def _import_file(path: Path) -> ModuleType:
    """Import a one-file plugin by its path."""
    if not path.is_file():
        raise PluginError(f"there is no file {path}; correct OPENTALKING_PLUGINS")
    name = f"opentalking_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file_url(path: str) -> str:
    return "file://" + quote(str(Path(path).expanduser().absolute()))


def _without_secrets(url: str) -> str:
    """`url` as it may appear in logs and errors."""
    return re.sub(r"//[^/@]*@", "//", url).partition("?")[0]
