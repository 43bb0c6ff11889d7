"""PluginLoader: find the plugins, import them, and check that their functions fit the hooks."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import logging
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pluggy

from .. import hookspecs
from ..errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import EntryPoint
    from types import ModuleType

log = logging.getLogger(__name__)

GROUP = "opentalking"

#: Everything a plugin's code may raise. SystemExit is no Exception, and would end the server or a thread silently.
PLUGIN_EXCEPTIONS = (Exception, SystemExit)

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
        disabled: names of plugins that are not imported.
        detectors: names of mouth detectors to ask first, in this order.
    """

    files: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()


class PluginLoader:
    """The plugins of one host, and which of them are active, disabled or failed.

    Args:
        choice: which installed and one-file plugins to load.
    """

    def __init__(self, choice: PluginChoice) -> None:
        self._choice = choice
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.usable: dict[str, PluginInfo] = {}  #: active and disabled plugins, by name
        self.failed: list[PluginInfo] = []
        for name in choice.disabled:
            self.manager.set_blocked(name)

    def load(self) -> None:
        """Import the installed plugins (entry points, group "opentalking") and the one-file ones.

        A plugin that can't be imported or registered is noted in `failed`, and the others are loaded.
        """
        found = importlib.metadata.entry_points(group=GROUP)
        for entry_point in sorted(found, key=lambda entry_point: entry_point.name):
            self._load_one(_describe(entry_point), entry_point.load)
        for file in self._choice.files:
            path = Path(file).expanduser().resolve()
            self._load_one(PluginInfo(path.stem, "file", str(path)), partial(_import_file, path))
        known = {info.name for info in (*self.usable.values(), *self.failed)}
        for name in (*self._choice.disabled, *self._choice.detectors):
            if name not in known:
                log.warning("there is no plugin %r; installed: %s", name, ", ".join(sorted(known)))

    def register(self, plugin: object, info: PluginInfo) -> None:
        """Add a plugin object.

        Raises:
            PluginError: the name is taken, or the object implements a hook wrongly.
        """
        if info.name in self._choice.disabled:
            self.usable[info.name] = replace(info, status="disabled")
            return
        if (other := self.usable.get(info.name)) is not None:
            raise PluginError(f"two plugins are named {info.name!r}: {other} and {info}; rename or uninstall one")
        try:
            self.manager.register(plugin, info.name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self.manager.has_plugin(info.name):
                self.manager.unregister(name=info.name)
            reason = _one_line(error).removesuffix(f" in plugin {plugin!r}")
            raise PluginError(f"plugin {info.name} doesn't fit the hooks: {reason}") from error
        callers = self.manager.get_hookcallers(plugin) or []
        for caller in callers:
            if any(inspect.iscoroutinefunction(i.function) for i in caller.get_hookimpls() if i.plugin is plugin):
                self.manager.unregister(plugin)
                raise PluginError(f"plugin {info.name}: {caller.name} must be a plain function, not `async def`")
        self.usable[info.name] = replace(info, hooks=tuple(sorted(caller.name for caller in callers)))

    def _load_one(self, info: PluginInfo, load: Callable[[], object]) -> None:
        if info.name in self._choice.disabled:
            self.usable[info.name] = replace(info, status="disabled")
            return
        try:
            with _restored_sys_path():
                plugin = load()
                self.register(plugin() if isinstance(plugin, type) else plugin, info)
        except PLUGIN_EXCEPTIONS as error:
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            log.warning("plugin %s can't be used: %s", info, reason, exc_info=not isinstance(error, PluginError))
            self.failed.append(replace(info, status="failed", reason=reason))


@contextlib.contextmanager
def _restored_sys_path() -> Iterator[None]:
    """Undo what an import that fails has done to sys.path: a failed `import cv2` leaves OpenCV's own folder in it."""
    before = sys.path[:]
    try:
        yield
    except BaseException:
        if sys.path != before:
            sys.path[:] = before
        raise


def _one_line(error: Exception) -> str:
    """Return a message in one line, because those of pluggy have several."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


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
    sys.modules[name] = module  # dataclasses and pickle look the module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
