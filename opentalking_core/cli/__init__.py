"""The command line, `opentalking-core`: one verb per file."""

from __future__ import annotations

from typing import Annotated

import typer

from . import (
    check,
    copy,
    create,
    delete,
    demo,
    detect,
    doctor,
    list_avatars,
    models,
    mouth,
    new_plugin,
    plugins,
    rename,
    serve,
    show,
    update,
    validate,
)

app = typer.Typer(
    name="opentalking-core",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_AVATARS, _PORTRAITS, _SERVICE = "Avatars", "Portraits", "The service and its plugins"
app.command(rich_help_panel=_SERVICE)(serve.serve)
app.command("list", rich_help_panel=_AVATARS)(list_avatars.list_avatars)
app.command(rich_help_panel=_AVATARS)(show.show)
app.command(rich_help_panel=_AVATARS)(create.create)
app.command(rich_help_panel=_AVATARS)(rename.rename)
app.command(rich_help_panel=_AVATARS)(update.update)
app.command(rich_help_panel=_AVATARS)(mouth.mouth)
app.command(rich_help_panel=_AVATARS)(delete.delete)
app.command(rich_help_panel=_AVATARS)(copy.copy)
app.command(rich_help_panel=_AVATARS)(validate.validate)
app.command(rich_help_panel=_AVATARS)(demo.demo)
app.command(rich_help_panel=_PORTRAITS)(check.check)
app.command(rich_help_panel=_PORTRAITS)(detect.detect)
app.command(rich_help_panel=_SERVICE)(doctor.doctor)
app.command(rich_help_panel=_SERVICE)(plugins.plugins)
app.add_typer(models.app, rich_help_panel=_SERVICE)
app.command(rich_help_panel=_SERVICE)(new_plugin.new_plugin)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"opentalking-core {importlib.metadata.version('opentalking-core')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Avatar bundles for talking-head systems: serve them over HTTP, make new ones from a portrait photo.

    Settings come from OPENTALKING_* environment variables; options override them. Commands on avatars and portraits
    work on a store directly or, with --server or OPENTALKING_SERVER, through a server's API.

    Exit codes: 0 done; 1 failed, or the answer is no (no mouth, not fit, an invalid bundle); 2 wrong usage.
    """
