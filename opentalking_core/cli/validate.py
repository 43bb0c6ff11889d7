"""opentalking-core validate"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ..bundles.model_type import ModelType
    from ..bundles.store import BundleStore
    from ..errors import Problem


def validate(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Folder or URL of the avatars, or the folder of one bundle."
            " [default: $OPENTALKING_AVATARS_DIR or ./avatars]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check avatar bundles strictly; exit code 1 if one has an error."""
    from .avatars import existing_store, folder_of
    from .output import errors_in_words, load_host, out, progress, read_settings

    with errors_in_words(), progress("checking bundles") as report:
        settings = read_settings()
        host = load_host(settings)
        location = existing_store(host, store or settings.avatars_dir)
        if (folder := folder_of(location)) is not None:
            found = _check_folders(folder, host.model_types(), report)
        else:
            found = asyncio.run(_check_store(host.open_bundle_store(location)[0], host.model_types(), report))
    if as_json:
        rows = [{"id": i, "problems": [dataclasses.asdict(problem) for problem in found[i]]} for i in found]
        out.print_json(json.dumps(rows))
    else:
        _print_table(found)
    if any(problem.severity == "error" for problems in found.values() for problem in problems):
        raise typer.Exit(1)


def _check_folders(
    folder: Path, model_types: Mapping[str, ModelType], report: Callable[[int, int], None]
) -> dict[str, list[Problem]]:
    """Check every folder that holds a manifest, including those whose names a store ignores."""
    from ..bundles.folder import list_avatar_dirs, load_avatar_bundle
    from ..bundles.store import MANIFEST
    from ..bundles.validation import validate_bundle
    from ..errors import InvalidManifest, NotFound

    bundles = [folder] if (folder / MANIFEST).is_file() else list_avatar_dirs(folder)
    found = {}
    for done, path in enumerate(bundles, start=1):
        try:
            problems = validate_bundle(load_avatar_bundle(path, strict=False), model_types)
        except (InvalidManifest, NotFound) as error:
            problems = [_unreadable(error)]
        found[path.resolve().name] = problems
        report(done, len(bundles))
    return found


async def _check_store(
    unopened: BundleStore, model_types: Mapping[str, ModelType], report: Callable[[int, int], None]
) -> dict[str, list[Problem]]:
    from ..bundles.bundle import AvatarBundle
    from ..bundles.reading import read_manifest
    from ..bundles.validation import validate_bundle
    from .avatars import read_each

    loop = asyncio.get_running_loop()

    async def check(store: BundleStore, avatar_id: str) -> list[Problem]:
        async def read(path: str) -> bytes:
            async with store.open(avatar_id, path) as file:
                return await file.read()

        files = {info.path: info.size async for info in store.files(avatar_id)}
        bundle = AvatarBundle(
            avatar_id,
            await read_manifest(store, avatar_id),
            files,
            reader=lambda path: asyncio.run_coroutine_threadsafe(read(path), loop).result(),
        )
        return await asyncio.to_thread(validate_bundle, bundle, model_types)  # which may read files

    async with unopened as store:
        checked = await read_each(store, check, report)
    return {
        avatar_id: result if isinstance(result, list) else [_unreadable(result)]
        for avatar_id, result in checked.items()
    }


def _unreadable(error: Exception) -> Problem:
    from ..bundles.store import MANIFEST
    from ..errors import Problem

    return Problem("error", MANIFEST, str(error))


def _print_table(found: Mapping[str, Iterable[Problem]]) -> None:
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
    wrong = sum(any(problem.severity == "error" for problem in problems) for problems in found.values())
    if found:
        out.print(table)
    out.print(f"{len(found)} bundles, {wrong} with errors")
