"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AvatarId = Annotated[str, typer.Argument(metavar="ID", help="The avatar's id, as `list` shows it.")]
Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="A portrait (JPEG, PNG, WebP) or a video (MP4, MOV, WebM, MKV).")
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="STORE", help="Folder or URL of the avatars. [default: $OPENTALKING_AVATARS_DIR or ./avatars]"
    ),
]
Server = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Ask this server instead of a store. [default: $OPENTALKING_SERVER]"),
]
ApiKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The server's API key. [default: $OPENTALKING_API_KEY, which `ps` doesn't show]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
