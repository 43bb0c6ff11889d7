"""opentalking-core copy"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, get_args

import typer

if TYPE_CHECKING:
    from ..bundles.copying import CopyResult
    from ..bundles.store import BundleStore


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder or URL to copy from.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Folder or URL to copy to.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Which avatars; all if none is named.")] = None,
    at_once: Annotated[int, typer.Option("--at-once", help="Avatars copied at the same time.", min=1, max=64)] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")] = False,
) -> None:
    """Copy avatars between two stores, hidden ones too; exit code 1 if one could not be copied.

    A bundle appears in the target when all of its files are there. A bundle that the target already has is compared and
    left as it is. To continue an interrupted copy, give the same command again.
    """
    from rich.markup import escape

    from ..bundles.copying import Outcome
    from .output import err, errors_in_words, load_host, out, read_settings

    with errors_in_words():
        host = load_host(read_settings())
        stores = host.open_bundle_store(source)[0], host.open_bundle_store(target)[0]
        try:
            results = asyncio.run(_copy(*stores, ids or [], at_once, dry_run))
        except KeyboardInterrupt:
            err.print("interrupted; what was copied is whole, and the same command goes on from there")
            raise typer.Exit(130) from None
    for result in results:
        if result.outcome == "failed":
            err.print(f"[red]{escape(result.avatar_id)}:[/] {escape(result.problem)}", soft_wrap=True)
    outcomes = {outcome: [r.size for r in results if r.outcome == outcome] for outcome in get_args(Outcome)}
    summary = [f"{len(sizes)} {outcome} ({sum(sizes) / 1e6:.1f} MB)" for outcome, sizes in outcomes.items() if sizes]
    out.print(f"{len(results)} avatars: {', '.join(summary) or 'nothing to do'}", soft_wrap=True)
    if outcomes["failed"]:
        raise typer.Exit(1)


async def _copy(
    source: BundleStore, target: BundleStore, ids: list[str], at_once: int, dry_run: bool
) -> list[CopyResult]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..bundles.copying import copy_bundles
    from .output import err

    results = []
    async with source, target:
        wanted = list(dict.fromkeys(ids)) or sorted([found.avatar_id async for found in source.scan()])
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("avatars, {task.fields[megabytes]:.1f} MB read,"))
        with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
            task, read = bar.add_task("copy", total=len(wanted), megabytes=0.0), 0

            def progress(size: int) -> None:
                nonlocal read
                read += size
                bar.update(task, megabytes=read / 1e6)

            copying = copy_bundles(source, target, wanted, at_once=at_once, dry_run=dry_run, progress=progress)
            async with contextlib.aclosing(copying):
                async for result in copying:
                    bar.advance(task)
                    results.append(result)
    return results
