"""opentalking-core rename"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ApiKey, AvatarId, Server, Store


def rename(
    avatar_id: AvatarId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name, for people to read.")],
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Give a custom avatar another name; its id stays."""
    from rich.markup import escape

    from .avatars import open_avatars
    from .output import errors_in_words, out

    with errors_in_words(), open_avatars(store, server, api_key) as opened:
        manifest = opened.change(avatar_id, {"name": name})
    out.print(f"renamed {escape(avatar_id)} to {escape(manifest.summary(avatar_id).name)}", soft_wrap=True)
