"""The command line, `opentalking-core`: one verb per file."""

from __future__ import annotations

import typer

from . import copy, create, delete, demo, list_avatars, models, new_plugin, plugins, serve, show, validate

app = typer.Typer(
    name="opentalking-core",
    help="Avatar bundles for talking-head systems: serve them over HTTP, make new ones from a portrait photo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(demo.demo)
app.command("list")(list_avatars.list_avatars)
app.command()(show.show)
app.command()(create.create)
app.command()(delete.delete)
app.command()(copy.copy)
app.command()(validate.validate)
app.command()(plugins.plugins)
app.command()(new_plugin.new_plugin)
app.add_typer(models.app)


@app.callback()
def _main() -> None:
    """Avatar bundles for talking-head systems: serve them over HTTP, make new ones from a portrait photo.

    Settings come from OPENTALKING_* environment variables; options override them.
    """
