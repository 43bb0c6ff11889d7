"""HookCall: call one hook of one plugin, and name the plugin in every error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import PluginError
from .loading import PLUGIN_EXCEPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pluggy

    from .loading import PluginInfo

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class HookFailed(PluginError):
    """A hook raised an error, or returned something that it may not return.

    Args:
        info: the plugin.
        reason: what went wrong, without the plugin's name.
    """

    def __init__(self, info: PluginInfo, reason: str) -> None:
        super().__init__(f"plugin {info}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HookCall:
    """One hook of one plugin.

    Args:
        info: the plugin.
        hook: the hook's name.
        caller: reaches this plugin's implementation alone, hook wrappers included.
        rank: -1 for an implementation marked `tryfirst`, 1 for `trylast`, else 0.
    """

    info: PluginInfo
    hook: str
    caller: pluggy.HookCaller
    rank: int = 0

    def raw(self, **arguments: Any) -> Any:
        """Call the hook. Exceptions of the plugin propagate unchanged."""
        result = self.caller(**arguments)
        if self.caller.spec is not None and self.caller.spec.opts.get("firstresult"):
            return result
        return result[0] if result else None  # pluggy collects the results of other hooks in a list

    def __call__(self, **arguments: Any) -> Any:
        """Call the hook.

        Raises:
            HookFailed: the plugin raised; `__cause__` is its exception, and a PluginError's sentence is kept as it is.
        """
        try:
            return self.raw(**arguments)
        except PLUGIN_EXCEPTIONS as error:
            raise self._translate(error) from error

    def guard(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function of the plugin, on behalf of this hook.

        Raises:
            HookFailed: the plugin raised. A MemoryError propagates unchanged: the worker process has to be replaced.
        """
        try:
            return function(*args, **kwargs)
        except MemoryError:
            raise
        except PLUGIN_EXCEPTIONS as error:
            raise self._translate(error) from error

    def items(self, kind: type[T], described: str) -> list[T]:
        """Call a hook that takes no arguments and returns an iterable of `kind`, and check what it returns.

        Args:
            kind: the type of the items.
            described: the items in the error's words, such as "texts".

        Raises:
            HookFailed: the plugin raised, or returned something else.
        """
        result = self()
        if result is None:
            return []
        if isinstance(result, str | bytes):
            raise self.wrong_result(result, f"an iterable of {described}")
        try:
            found = list(result)
        except TypeError as error:
            if hasattr(result, "__iter__"):
                raise self._translate(error) from error
            raise self.wrong_result(result, f"an iterable of {described}") from None
        except PLUGIN_EXCEPTIONS as error:  # the hook is a generator
            raise self._translate(error) from error
        for item in found:
            if not isinstance(item, kind):
                raise self.wrong_result(item, kind.__name__, "yielded")
        return found

    def wrong_result(self, result: object, wanted: str, verb: str = "returned") -> HookFailed:
        """Return the error for a result that the hook does not allow."""
        return HookFailed(self.info, f"{self.hook} {verb} {type(result).__name__}, not {wanted}")

    def _translate(self, error: BaseException) -> HookFailed:
        if isinstance(error, PluginError):
            return HookFailed(self.info, str(error))
        if isinstance(error, SystemExit):
            return HookFailed(
                self.info, f"{self.hook} called sys.exit({'' if error.code is None else repr(error.code)})"
            )
        return HookFailed(self.info, f"{self.hook} raised {type(error).__name__}: {error}".removesuffix(": "))
