"""opentalking-core show"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .options import ApiKey, AvatarId, Json, Server, Store

if TYPE_CHECKING:
    from ..bundles.manifest import AvatarManifest


def show(
    avatar_id: AvatarId,
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show an avatar: how it is driven and where its mouth is; with --json, its whole manifest."""
    from rich.markup import escape
    from rich.table import Table

    from .avatars import open_avatars
    from .output import errors_in_words, out

    with errors_in_words(), open_avatars(store, server, api_key) as opened:
        manifest = opened.manifest(avatar_id)
    if as_json:
        out.print_json(manifest.to_json().decode())
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, text in _facts(avatar_id, manifest):
        table.add_row(f"[bold]{label}[/]", escape(text))
    out.print(table)


def _facts(avatar_id: str, manifest: AvatarManifest) -> list[tuple[str, str]]:
    from .output import mouth_in_words

    metadata = manifest.metadata
    facts = [
        ("id", avatar_id),
        ("name", manifest.summary(avatar_id).name),
        ("model type", manifest.model_type),
        ("size", f"{manifest.width} x {manifest.height}"),
        ("driven at", f"{manifest.fps:g} frames/s, {manifest.sample_rate:g} Hz"),
        ("kind", _kind(manifest)),
    ]
    facts.append(("mouth", mouth_in_words(metadata) or "not located"))
    return facts


def _kind(manifest: AvatarManifest) -> str:
    kind = "built in"
    if manifest.is_custom:
        kind = f"custom, made like {manifest.metadata.get('base_avatar_id', 'an unknown base')}"
    return f"{kind}, hidden" if manifest.is_hidden else kind
