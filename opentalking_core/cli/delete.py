"""opentalking-core delete"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ApiKey, AvatarId, Server, Store


def delete(
    avatar_id: AvatarId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a custom avatar permanently. Built-in avatars can't be deleted."""
    from rich.markup import escape

    from .avatars import open_avatars
    from .output import errors_in_words, out

    with errors_in_words(), open_avatars(store, server, api_key) as opened:
        if not yes:
            typer.confirm(f"Delete {avatar_id} ({opened.manifest(avatar_id).summary(avatar_id).name})?", abort=True)
        opened.delete(avatar_id)
        out.print(f"deleted {escape(avatar_id)}", soft_wrap=True)
