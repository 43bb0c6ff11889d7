"""opentalking-core models"""

from __future__ import annotations

import typer

app = typer.Typer(name="models", help="The model files that plugins need.", no_args_is_help=True)


@app.callback()
def _models() -> None:
    """The model files that plugins need."""


@app.command()
def fetch() -> None:
    """Download and verify the model files that are not there yet."""
    from rich.markup import escape

    from .output import err, load_host, out, read_settings

    failed = False
    for plugin, result in load_host(read_settings()).fetch_models():
        if isinstance(result, Exception):
            failed = True
            err.print(f"[red]{escape(plugin)}:[/] {escape(str(result))}", soft_wrap=True)
        else:
            for path in result:
                out.print(f"{plugin}: {path}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
