"""opentalking-core detect"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ApiKey, Json, Server, Source

if TYPE_CHECKING:
    from .output import SourceProgress


def detect(
    source: Source,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the picture there, with lips and face drawn on it; or a video (.mp4), or a picture with every"
            " tenth frame (.png).",
        ),
    ] = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Locate the mouth in a picture or a video; exit code 1 if there is none. Nothing is stored."""
    from ..errors import OpenTalkingError
    from .avatars import is_video, open_avatars
    from .output import err, errors_in_words, mouth_in_words, out, source_progress

    with errors_in_words():
        draws_video = overlay is not None and is_video(source)
        if draws_video and server:
            raise OpenTalkingError("the mouths of a video are drawn on this machine: leave out --server or --overlay")
        with open_avatars(None, server, api_key) as avatars, source_progress("locating the mouth") as shown:
            report = avatars.check(source, shown)
        mouth = report["mouth"]
        if as_json:
            out.print_json(json.dumps(mouth))
        elif mouth is None:
            err.print(report["checks"][0]["message"], markup=False, soft_wrap=True)
        else:
            out.print(f"mouth {mouth_in_words(mouth)}", markup=False, soft_wrap=True)
            for check in report["checks"]:
                if check["name"] == "frames_with_mouth":
                    out.print(check["message"], markup=False, soft_wrap=True)
        if mouth is None:
            raise typer.Exit(1)
        if overlay is not None:
            with source_progress(f"drawing {overlay.name}") as shown:
                _draw(source, mouth, overlay, shown, draws_video)
            err.print(f"wrote {overlay}", markup=False, soft_wrap=True)


def _draw(source: Path, mouth: dict[str, object], overlay: Path, shown: SourceProgress, is_video: bool) -> None:
    from .overlay import draw_on_frames, draw_on_portrait

    if not is_video:
        draw_on_portrait(source, mouth, overlay)
        return
    with tempfile.TemporaryDirectory() as folder:
        draw_on_frames(_made_bundle(source, Path(folder), shown), overlay)


def _made_bundle(video: Path, folder: Path, shown: SourceProgress) -> Path:
    """Make an avatar of a video in a store of its own; return the bundle's folder."""
    from ..bundles.store import MANIFEST
    from .avatars import open_avatars

    base = {"id": "base", "model_type": "wav2lip", "fps": 25, "sample_rate": 16000, "width": 1, "height": 1}
    (folder / "base").mkdir()
    (folder / "base" / MANIFEST).write_text(json.dumps(base))
    with open_avatars(str(folder), None, None) as avatars:
        return folder / avatars.create("overlay", "base", video, shown).id
