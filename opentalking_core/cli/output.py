"""What the commands share: where they print, and how they fail."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError
from rich.console import Console

from ..errors import OpenTalkingError
from ..host import PluginChoice, PluginHost
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """End the command with exit code 1 and the sentence of the error, instead of a traceback."""
    try:
        yield
    except OpenTalkingError as error:
        err.print(f"[red]error:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from None


def read_settings() -> Settings:
    """The settings from the environment; a wrong one ends the command with a sentence that names its variable."""
    try:
        return Settings()
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            variable = f"OPENTALKING_{str(fault['loc'][0]).upper()}"
            err.print(f"[red]error:[/] {variable}={fault['input']}: {fault['msg']}", soft_wrap=True)
        raise typer.Exit(1) from None


def load_host(settings: Settings) -> PluginHost:
    """The plugins that the settings choose."""
    return PluginHost(PluginChoice(settings.plugins, settings.disable_plugins, settings.detectors)).load()
