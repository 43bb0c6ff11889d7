"""opentalking-core validate"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path  # noqa: TC003  # Typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..bundle import Problem
    from ..model_types import ModelType


def validate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of avatar bundles, or one bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check avatar bundles strictly; exit code 1 if one has an error."""
    from ..bundle import list_avatar_dirs
    from .output import errors_in_words, load_host, out, read_settings

    with errors_in_words():
        model_types = load_host(read_settings()).model_types()
        folders = [directory] if (directory / "manifest.json").is_file() else list_avatar_dirs(directory)
    found = {folder.resolve().name: _check(folder, model_types) for folder in folders}
    if as_json:
        out.print_json(
            json.dumps([{"id": i, "problems": [dataclasses.asdict(p) for p in found[i]]} for i in found])
        )  # fmt: skip
    else:
        _print_table(found)
    if any(problem.severity == "error" for problems in found.values() for problem in problems):
        raise typer.Exit(1)


def _check(folder: Path, model_types: Mapping[str, ModelType]) -> list[Problem]:
    from ..bundle import Problem, load_avatar_bundle, validate_bundle
    from ..errors import InvalidManifest, NotFound

    try:
        return validate_bundle(load_avatar_bundle(folder, strict=False), model_types)
    except (InvalidManifest, NotFound) as error:
        return [Problem("error", "manifest.json", str(error))]


def _print_table(found: Mapping[str, list[Problem]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from .output import out

    table = Table("avatar", "", "where", "problem", box=None, header_style="bold", pad_edge=False)
    for avatar_id, problems in found.items():
        if not problems:
            table.add_row(escape(avatar_id), "[green]ok[/]")
        for problem in problems:
            colour = "red" if problem.severity == "error" else "yellow"
            row = (avatar_id, problem.where, problem.message)
            table.add_row(escape(row[0]), f"[{colour}]{problem.severity}[/]", escape(row[1]), escape(row[2]))
    out.print(table)
    wrong = sum(any(problem.severity == "error" for problem in problems) for problems in found.values())
    out.print(f"\n{len(found)} bundles, {wrong} with errors")
