"""Draw the mouths that were located on a portrait, or on the frames of a video."""

from __future__ import annotations

import contextlib
import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from ..bundles.folder import load_avatar_bundle
from ..errors import OpenTalkingError
from ..portraits.picture import MAX_PIXELS, decode_portrait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FACE, _LIPS, _OPENING = "#ffd400", "#00e5ff", "#ff2bd6"

#: A contact sheet shows every tenth frame, in rows of five.
_SHEET_STEP, _SHEET_COLUMNS, _SHEET_WIDTH_PIXELS = 10, 5, 320

_VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv"})


def draw_on_portrait(portrait: Path, mouth: Mapping[str, Any], overlay: Path) -> None:
    """Write a portrait, upright, with the outlines of lips, mouth and face, to `overlay`.

    Args:
        portrait: the picture.
        mouth: the metadata of a located mouth.
        overlay: the file to write.

    Raises:
        OpenTalkingError: the file can't be written.
    """
    picture = Image.fromarray(decode_portrait(portrait.read_bytes(), MAX_PIXELS, MAX_PIXELS))
    _draw(picture, mouth)
    with _write_errors_in_words(overlay):
        picture.save(overlay)


def draw_on_frames(bundle: Path, overlay: Path) -> None:
    """Write the frames of a bundle that was made from a video, with the outlines that were located in each.

    Args:
        bundle: the bundle's folder.
        overlay: the file to write: a video (.mp4, .mov, .mkv), or a picture that shows every tenth frame.

    Raises:
        OpenTalkingError: the file can't be written.
    """
    loaded = load_avatar_bundle(bundle, strict=False)
    mouths = json.loads((bundle / loaded.manifest.metadata["frame_metadata"]).read_bytes())["frames"]
    frames = [bundle / path for path in loaded.images_in("frames")]
    with _write_errors_in_words(overlay):
        if overlay.suffix.lower() in _VIDEO_SUFFIXES:
            _write_video(_drawn(frames, mouths), loaded.manifest.fps, overlay)
        else:
            _contact_sheet(_drawn(frames[::_SHEET_STEP], mouths)).save(overlay)


def _drawn(frames: list[Path], mouths: Mapping[str, Mapping[str, Any]]) -> Iterator[Image.Image]:
    """Yield each frame, with its mouth if one was located."""
    for path in frames:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        if path.name in mouths:
            _draw(picture, mouths[path.name])
        yield picture


def _draw(picture: Image.Image, mouth: Mapping[str, Any]) -> None:
    width, height = picture.size
    draw, line = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 400))

    def outline(points: list[list[float]], colour: str) -> None:
        pixels = [(x * width, y * height) for x, y in points]
        draw.line([*pixels, pixels[0]], fill=colour, width=line, joint="curve")

    if "face_box" in mouth:
        left, top, right, bottom = mouth["face_box"]
        outline([[left, top], [right, top], [right, bottom], [left, bottom]], _FACE)
    outline(mouth["animation"]["outer_lip"], _LIPS)
    outline(mouth["animation"]["inner_mouth"], _OPENING)


def _contact_sheet(pictures: Iterator[Image.Image]) -> Image.Image:
    small = []
    for picture in pictures:
        picture.thumbnail((_SHEET_WIDTH_PIXELS, 4 * _SHEET_WIDTH_PIXELS))
        small.append(picture)
    width, height = small[0].size
    columns = min(_SHEET_COLUMNS, len(small))
    sheet = Image.new("RGB", (columns * width, -(-len(small) // columns) * height), "white")
    for number, picture in enumerate(small):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def _write_video(pictures: Iterator[Image.Image], fps: float, overlay: Path) -> None:
    import av

    with av.open(overlay, "w") as container:
        stream = container.add_stream("libx264", Fraction(fps).limit_denominator(1001), {"crf": "18"})
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))  # as its chroma needs
            if number == 0:
                stream.width, stream.height = even.size
            container.mux(stream.encode(av.VideoFrame.from_image(even)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode(None))


@contextlib.contextmanager
def _write_errors_in_words(overlay: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OpenTalkingError(f"{overlay} can't be written: {reason}") from None
