"""opentalking-core update"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import ApiKey, AvatarId, Json, Server, Store

if TYPE_CHECKING:
    from collections.abc import Iterable


def update(
    avatar_id: AvatarId,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="What to change: name=Alice, metadata.key=value, metadata.key.inner=value. Repeat it for more. A value"
            " is JSON, or else text; null removes the key.",
        ),
    ],
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Change a custom avatar's name and metadata; with --json, print the new manifest."""
    from rich.markup import escape

    from .avatars import open_avatars
    from .output import errors_in_words, out

    patch = _patch(changes)
    with errors_in_words(), open_avatars(store, server, api_key) as opened:
        manifest = opened.change(avatar_id, patch)
    if as_json:
        out.print_json(manifest.to_json().decode())
    else:
        out.print(f"updated {escape(avatar_id)}", soft_wrap=True)


def _patch(changes: Iterable[str]) -> dict[str, Any]:
    """Return the merge patch of texts such as metadata.key=value. Raise BadParameter if they contradict each other."""
    patch: dict[str, Any] = {}
    for change in changes:
        field, equals, value = change.partition("=")
        *outer, last = field.split(".")
        if not (equals and last and all(outer)):
            raise typer.BadParameter(f"{change!r} is not FIELD=VALUE, such as metadata.language=en")
        inner = patch
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise typer.BadParameter(f"{field} lies inside of another field that is set")
        if last in inner:
            raise typer.BadParameter(f"{field} is set twice")
        inner[last] = value if field == "name" else _value(value)
    return patch


def _value(text: str) -> Any:
    """Return what the text says as JSON, or else the text."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return text
