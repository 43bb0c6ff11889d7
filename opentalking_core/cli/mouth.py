"""opentalking-core mouth"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import ApiKey, AvatarId, Server, Store


def mouth(
    avatar_id: AvatarId,
    outline: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help='JSON: {"outer_lip": [[x, y], ...], "inner_mouth": [[x, y], ...]}, fractions of the picture; also'
            ' "face_box": [left, top, right, bottom].',
        ),
    ],
    store: Store = None,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Set the mouth of a custom avatar by hand, for example if it was not found; centre and radii are computed."""
    from .avatars import open_avatars
    from .output import errors_in_words, mouth_in_words, out

    with errors_in_words():
        patch = {"metadata": _mouth(outline)}
        with open_avatars(store, server, api_key) as opened:
            manifest = opened.change(avatar_id, patch)
        out.print(f"mouth {mouth_in_words(manifest.metadata)}", markup=False, soft_wrap=True)


def _mouth(file: Path) -> dict[str, Any]:
    """Return the metadata that the file describes. Raise OpenTalkingError if it can't be read."""
    from ..errors import OpenTalkingError

    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise OpenTalkingError(f"{file} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise OpenTalkingError(f"{file} is not JSON: {error}") from None
    keys = ("outer_lip", "inner_mouth", "face_box")
    if not isinstance(found, dict) or not found or not found.keys() <= set(keys):
        raise OpenTalkingError(f"{file} must hold a JSON object with outer_lip, inner_mouth and, if known, face_box")
    animation = {key: found[key] for key in keys[:2] if key in found}
    return ({"animation": animation} if animation else {}) | {key: found[key] for key in keys[2:] if key in found}
