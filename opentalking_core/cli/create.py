"""opentalking-core create"""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from .options import ApiKey, Json, Server, Source, Store


def create(
    source: Source,
    name: Annotated[str, typer.Option(help="The new avatar's name, for people to read.")],
    base: Annotated[str, typer.Option(metavar="ID", help="The wav2lip avatar that says how the new one is driven.")],
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Make an avatar from a portrait or a video: locate its mouth and write a bundle like the base's."""
    from rich.markup import escape

    from .avatars import open_avatars
    from .output import errors_in_words, out, source_progress, warn

    with errors_in_words(), open_avatars(store, server, api_key) as opened:
        with source_progress(f"making {name}") as shown:
            summary = opened.create(name, base, source, shown)
        found = "animation" in opened.manifest(summary.id).metadata
    if as_json:
        out.print_json(json.dumps(dataclasses.asdict(summary)))
    else:
        out.print(f"made {escape(summary.id)}, {summary.width} x {summary.height}", soft_wrap=True)
    if not found:
        warn("no mouth was found, so the avatar has no animation; `opentalking-core check` says what to improve")
