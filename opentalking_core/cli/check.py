"""opentalking-core check"""

from __future__ import annotations

import json

import typer

from .options import ApiKey, Json, Server, Source


def check(source: Source, server: Server = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Check whether a portrait or a video is fit to be an avatar; exit code 1 if it isn't. Nothing is stored."""
    from rich.markup import escape
    from rich.table import Table

    from .avatars import open_avatars
    from .output import errors_in_words, out, source_progress

    with errors_in_words(), open_avatars(None, server, api_key) as avatars, source_progress("checking") as shown:
        report = avatars.check(source, shown)
    if as_json:
        out.print_json(json.dumps(report))
    else:
        table = Table("check", "", "", box=None, header_style="bold", pad_edge=False)
        words = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[dim]-[/]"}
        for row in report["checks"]:
            table.add_row(escape(row["name"]), words[row["passed"]], escape(row["message"]))
        out.print(table)
        out.print("fit to be an avatar" if report["passed"] else "not fit to be an avatar")
    if not report["passed"]:
        raise typer.Exit(1)
