"""Functions that all commands use: to print, to fail, and to load settings and plugins."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ..errors import OpenTalkingError
from ..host.host import PluginChoice, PluginHost
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Lines are not wrapped for a file or a program: `opentalking-core list | grep` needs whole rows.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """End the command with exit code 1 and the sentence of the error, instead of a traceback."""
    try:
        yield
    except OpenTalkingError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command with exit code 1 and this sentence."""
    err.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(1) from None


def warn(message: str) -> None:
    """Print a warning, and go on."""
    err.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


class _Warnings(logging.Handler):
    """Print log records as warnings, without tracebacks: these are for a server's log."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def read_settings() -> Settings:
    """Return the settings from the environment. A wrong setting ends the command, naming its variable."""
    try:
        return Settings()
    except ValidationError as error:
        fail("; ".join(wrong_settings(error)))


def wrong_settings(error: ValidationError) -> list[str]:
    """Return one sentence about each wrong setting, naming its variable."""
    return [
        f"OPENTALKING_{str(fault['loc'][0]).upper()}={fault['input']}: {fault['msg']}"
        for fault in error.errors(include_url=False)
    ]


def load_host(settings: Settings) -> PluginHost:
    """Load the plugins that the settings choose. From here on, log records are printed as warnings."""
    log = logging.getLogger("opentalking_core")
    if not log.handlers:
        log.addHandler(_Warnings(logging.WARNING))
    return PluginHost(PluginChoice(settings.plugins, settings.disable_plugins, settings.detectors)).load()


def mouth_in_words(metadata: Mapping[str, Any]) -> str | None:
    """Describe where the mouth is, by a manifest's metadata; None if the metadata don't say it."""
    match metadata:
        case {"animation": {"mouth_center": [float(x), float(y)], "mouth_rx": float(rx), "mouth_ry": float(ry)}}:
            source = metadata.get("mouth_polygon_source", "an unknown source")
            return f"at {x:.1%}, {y:.1%} of the picture, {2 * rx:.1%} wide, {2 * ry:.1%} high, by {source}"
        case _:
            return None


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; yield a function that takes the amount done and the whole amount."""
    with _bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class SourceProgress:
    """A bar that shows how much of a source was read, and then how many of its frames are finished.

    Args:
        bar: where to show it.
        text: what is being done, such as "making Alice".
    """

    def __init__(self, bar: Progress, text: str) -> None:
        self._bar = bar
        self._text = text
        self._task = bar.add_task(text, total=None)

    def reading(self, content: BinaryIO, size: int) -> BinaryIO:
        """Return `content`, and show how much of it has been read."""
        # The answer counts as one more byte, so that the spinner turns until the answer arrives.
        return self._bar.wrap_file(content, size + 1, task_id=self._task, description=self._text)

    def frames(self, done: int, total: int) -> None:
        """Show how many frames are finished."""
        described = f"{self._text}: {done} of {total} frames" if total else self._text
        self._bar.update(self._task, completed=done, total=total or None, description=described)


@contextlib.contextmanager
def source_progress(text: str) -> Iterator[SourceProgress]:
    """Show on a terminal how the work on a source goes on."""
    with _bar(TimeRemainingColumn()) as bar:
        yield SourceProgress(bar, text)


def _bar(amount: ProgressColumn) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), amount)
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
