"""`python -m benchmarks.framing FOLDER ...`: how many mouths are located in full-body frames, and how long it takes.

Each portrait of the folders of avatar bundles, and a few drawn ones, is placed in a frame of 1080 x 1920 pixels with a
face 60 to 200 pixels wide. A mouth counts as located within 0.1 of its width of where the manifest has it.
"""

from __future__ import annotations

import argparse
import json
import time
from math import hypot
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import opentalking_mediapipe_mouth as plugin
from PIL import Image, ImageFilter

from opentalking_core.portraits.drawn import PALETTES, draw_portrait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentalking_core import MouthLandmarks

FRAME_WIDTH, FRAME_HEIGHT = 1080, 1920
FACE_WIDTHS = (60, 70, 80, 100, 120, 150, 175, 200)
#: Where the middle of the face is, as fractions of the frame.
PLACES = ((0.5, 0.15), (0.31, 0.23), (0.72, 0.4))
MAX_ERROR = 0.1
ROTATIONS = (0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330)


class Portrait(NamedTuple):
    """A portrait and where its mouth is, in pixels; `face` is the face's width."""

    name: str
    image: Image.Image
    mouth: tuple[float, float]
    mouth_width: float
    face: float


def bundle_portraits(folders: list[Path]) -> Iterator[Portrait]:
    """Yield the portrait of each bundle that has one and whose manifest says where the mouth is."""
    for path in sorted(path for folder in folders for path in folder.glob("*/manifest.json")):
        metadata = json.loads(path.read_text()).get("metadata", {})
        picture = path.parent / metadata.get("source_image_path", "reference.png")
        if "animation" not in metadata or not picture.is_file():
            continue
        image = Image.open(picture).convert("RGB")
        found = plugin.detect_mouth(np.asarray(image))
        if found is None or found.face_box is None:
            print(f"{path.parent.name}: no face in its own picture, left out")
            continue
        (x, y), rx = metadata["animation"]["mouth_center"], metadata["animation"]["mouth_rx"]
        face = (found.face_box[2] - found.face_box[0]) * image.width
        yield Portrait(path.parent.name, image, (x * image.width, y * image.height), 2 * rx * image.width, face)


def drawn_portraits() -> Iterator[Portrait]:
    """Yield a drawn portrait of each palette."""
    for seed in range(len(PALETTES)):
        drawn = draw_portrait(600, 900, face_width=0.4, seed=seed)
        (x, y), rx = drawn.mouth_center, drawn.mouth_rx
        yield Portrait(f"drawn {seed}", drawn.image, (600 * x, 900 * y), 1200 * rx, 240)


def framed(portrait: Portrait, face_width: int, place: tuple[float, float]) -> tuple[Image.Image, tuple[float, float]]:
    """Return a frame that shows the portrait on its own blurred colours, and where the mouth is in it."""
    scale = face_width / portrait.face
    small = portrait.image.resize(
        (round(portrait.image.width * scale), round(portrait.image.height * scale)), Image.Resampling.LANCZOS
    )
    x, y = (coordinate * scale for coordinate in portrait.mouth)
    left, top = round(FRAME_WIDTH * place[0] - x), round(FRAME_HEIGHT * place[1] - y)
    ground = portrait.image.resize((27, 48)).filter(ImageFilter.GaussianBlur(8)).resize((FRAME_WIDTH, FRAME_HEIGHT))
    ground.paste(small, (left, top))
    return ground, (left + x, top + y)


def error(found: MouthLandmarks | None, size: tuple[int, int], mouth: tuple[float, float], width: float) -> float:
    """Return the distance of the mouth that was found from `mouth`, by the mouth's width; infinity if none was."""
    if found is None:
        return float("inf")
    xs, ys = zip(*found.outer_lip, strict=True)
    return hypot(sum(xs) / len(xs) * size[0] - mouth[0], sum(ys) / len(ys) * size[1] - mouth[1]) / width


def print_framing(portraits: list[Portrait]) -> None:
    """Print how many mouths are located at each width of the face."""
    print("face width   located     median error   median and longest CPU time")
    every: list[float] = []
    for face_width in FACE_WIDTHS:
        errors, seconds = [], []
        for portrait in portraits:
            for place in PLACES:
                image, mouth = framed(portrait, face_width, place)
                pixels, started = np.asarray(image), time.process_time()
                found = plugin.detect_mouth(pixels)
                seconds.append(time.process_time() - started)
                scale = face_width / portrait.face
                errors.append(error(found, image.size, mouth, portrait.mouth_width * scale))
        located = sum(value <= MAX_ERROR for value in errors)
        print(
            f"{face_width:>7} px {located:>6} of {len(errors)} {median(errors):>11.3f}"
            f" {1e3 * median(seconds):>13.0f} ms {1e3 * max(seconds):>5.0f} ms"
        )
        every += errors
    share = sum(value <= MAX_ERROR for value in every) / max(1, len(every))
    print(f"{share:.1%} of {len(every)} located within {MAX_ERROR} of the mouth's width")


def print_rotation(portraits: list[Portrait]) -> None:
    """Print what comes of portraits that are turned: the mouth in its place, elsewhere, or not at all."""
    print("turned by    right   none   wrong")
    for degrees in ROTATIONS:
        errors = []
        for portrait in portraits:
            image = portrait.image.rotate(-degrees, expand=True, fillcolor="#888888", resample=Image.Resampling.BICUBIC)
            angle, middle = np.radians(degrees), np.array(portrait.image.size) / 2
            x, y = np.array(portrait.mouth) - middle
            turned = np.array((x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)))
            x, y = turned + np.array(image.size) / 2
            found = plugin.detect_mouth(np.asarray(image))
            errors.append(error(found, image.size, (float(x), float(y)), portrait.mouth_width))
        right, none = sum(value < 0.25 for value in errors), sum(np.isinf(value) for value in errors)
        print(f"{degrees:>7}° {right:>8} {none:>6} {len(errors) - right - none:>7}")


def print_times(portraits: list[Portrait]) -> None:
    """Print the CPU time of a search that finds nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAME_HEIGHT, FRAME_WIDTH, 3), np.uint8)
    empty = {"noise": noise, "smooth": np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(30)))}
    for name, pixels in empty.items():
        started = time.process_time()
        found = plugin.detect_mouth(pixels)
        print(f"{name}, 1080 x 1920: {'a face' if found else 'nothing'}, {time.process_time() - started:.3f} s of CPU")
    for portrait in portraits:
        pixels, seconds = np.asarray(portrait.image), []
        for _ in range(9):
            started = time.process_time()
            plugin.detect_mouth(pixels)
            seconds.append(time.process_time() - started)
        print(f"{portrait.name} as it is: {1e3 * median(seconds):.1f} ms of CPU")


def main() -> None:
    """Measure the installed MediaPipe plugin."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.framing", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of avatar bundles")
    folders = parser.parse_args().folders
    plugin.startup()
    for kind, portraits in (("bundles", list(bundle_portraits(folders))), ("drawn", list(drawn_portraits()))):
        if portraits:
            print(f"\n{len(portraits)} portraits, {kind}")
            print_framing(portraits)
            print_rotation(portraits)
            print_times(portraits)
    plugin.shutdown()


if __name__ == "__main__":
    main()
