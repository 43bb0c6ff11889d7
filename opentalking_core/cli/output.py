"""Functions that all commands use: to print, to fail, and to load settings and plugins."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from ..errors import OpenTalkingError
from ..host.host import PluginChoice, PluginHost
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

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


@contextlib.contextmanager
def sending(path: Path, text: str) -> Iterator[BinaryIO]:
    """Open a file; a terminal shows how much of it has been read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        fail(f"{path} can't be read: {error.strerror}")
    with _bar(DownloadColumn()) as bar:
        # The answer counts as one more byte, so that the spinner turns until the answer arrives.
        yield bar.wrap_file(io.BytesIO(content), len(content) + 1, description=text)


def _bar(amount: MofNCompleteColumn | DownloadColumn) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), amount)
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
