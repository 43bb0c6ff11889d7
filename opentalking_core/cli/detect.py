"""opentalking-core detect"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import ApiKey, Image, Json, Server


def detect(
    image: Image,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the picture there, with lips and face drawn on it.")
    ] = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Locate the mouth in a picture; exit code 1 if there is none. Nothing is stored."""
    from .avatars import open_avatars
    from .output import err, errors_in_words, mouth_in_words, out, sending

    with errors_in_words():
        with open_avatars(None, server, api_key) as avatars, sending(image, "locating the mouth") as file:
            report = avatars.check(file)
        mouth = report["mouth"]
        if as_json:
            out.print_json(json.dumps(mouth))
        elif mouth is None:
            err.print(report["checks"][0]["message"], markup=False, soft_wrap=True)
        else:
            out.print(f"mouth {mouth_in_words(mouth)}", markup=False, soft_wrap=True)
        if mouth is None:
            raise typer.Exit(1)
        if overlay is not None:
            _draw(image, mouth, overlay)
            err.print(f"wrote {overlay}", markup=False, soft_wrap=True)


def _draw(image: Path, mouth: dict[str, Any], overlay: Path) -> None:
    """Write `image`, upright, with the outlines of lips, mouth and face, to `overlay`."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    from ..errors import OpenTalkingError
    from ..portraits.picture import MAX_PIXELS, decode_portrait

    picture = Pictures.fromarray(decode_portrait(image.read_bytes(), MAX_PIXELS, MAX_PIXELS))
    width, height = picture.size
    draw, line = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 400))

    def outline(points: list[list[float]], colour: str) -> None:
        pixels = [(x * width, y * height) for x, y in points]
        draw.line([*pixels, pixels[0]], fill=colour, width=line, joint="curve")

    if "face_box" in mouth:
        left, top, right, bottom = mouth["face_box"]
        outline([[left, top], [right, top], [right, bottom], [left, bottom]], "#ffd400")
    outline(mouth["animation"]["outer_lip"], "#00e5ff")
    outline(mouth["animation"]["inner_mouth"], "#ff2bd6")
    try:
        picture.save(overlay)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OpenTalkingError(f"{overlay} can't be written: {reason}") from None
