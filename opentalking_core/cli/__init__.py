"""The command line, `opentalking-core`: one verb per file."""

from __future__ import annotations

import typer

from . import demo, models, plugins, serve, validate

app = typer.Typer(
    name="opentalking-core",
    help="Avatar bundles for talking-head systems: serve them over HTTP, make new ones from a portrait photo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(demo.demo)
app.command()(validate.validate)
app.command()(plugins.plugins)
app.add_typer(models.app)


@app.callback()
def _main() -> None:
    """Avatar bundles for talking-head systems: serve them over HTTP, make new ones from a portrait photo.

    Settings come from OPENTALKING_* environment variables; options override them.
    """
