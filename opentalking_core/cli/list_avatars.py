"""opentalking-core list"""

from __future__ import annotations

import dataclasses
import json

from .options import ApiKey, Json, Server, Store


def list_avatars(
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the avatars, except for hidden ones."""
    from rich.markup import escape
    from rich.table import Column, Table

    from .avatars import open_avatars
    from .output import errors_in_words, out

    with errors_in_words(), open_avatars(store, server, api_key) as avatars:
        found = avatars.summaries()
    if as_json:
        out.print_json(json.dumps([dataclasses.asdict(summary) for summary in found]))
        return
    whole_id = Column("id", overflow="fold")  # people copy ids
    table = Table(whole_id, "name", "model type", "size", "custom", box=None, header_style="bold", pad_edge=False)
    for summary in found:
        size = f"{summary.width} x {summary.height}"
        custom = "custom" if summary.is_custom else ""
        table.add_row(escape(summary.id), escape(summary.name), escape(summary.model_type), size, custom)
    if found:
        out.print(table)
    out.print(f"{len(found)} avatars")
