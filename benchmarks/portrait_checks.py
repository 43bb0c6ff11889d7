"""`python -m benchmarks.portrait_checks FOLDER ...`: false alarms of the portrait checks, as a table for the docs.

The portraits of the folders of avatar bundles are avatars that work, and drawn portraits of several skin tones are good
ones: a check that fails is a false alarm, unless the picture shows what the check is for. Blurred copies must fail.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import opentalking_mediapipe_mouth as plugin
from PIL import Image, ImageFilter

from opentalking_core.portraits.checks import PortraitReport, check_portrait, measure_face
from opentalking_core.portraits.drawn import PALETTES, draw_portrait
from opentalking_core.portraits.picture import decode_portrait

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SIZE = (1080, 1920)
#: How much light the skin reflects, by that of the portrait as it is.
SKIN = (1.0, 0.5, 0.3, 0.18)
#: Radius of the blur by the face's width, and deviation of the noise in levels.
BLUR = 0.01
NOISE = 6.0


class Group(NamedTuple):
    """Portraits of one kind and their reports."""

    name: str
    reports: Sequence[PortraitReport]


def bundle_pictures(folders: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield the portrait of each bundle."""
    for path in sorted(path for folder in folders for path in folder.glob("*/manifest.json")):
        metadata = json.loads(path.read_text()).get("metadata", {})
        for name in (metadata.get("source_image_path", "reference.png"), "preview.png"):
            if (path.parent / name).is_file():
                yield decode_portrait((path.parent / name).read_bytes(), *MAX_SIZE)
                break


def drawn_pictures() -> Iterator[np.ndarray]:
    """Yield a drawn portrait of each palette, at three sizes of the face."""
    for seed in range(len(PALETTES)):
        for face_width in (0.2, 0.3, 0.4):
            yield np.asarray(draw_portrait(790, 1166, face_width=face_width, seed=seed).image)


def report_of(pixels: np.ndarray, light: float = 1.0, blur: float = 0.0, noise: float = 0.0) -> PortraitReport:
    """Check a portrait whose face reflects `light` of its light, blurred by `blur` of the face's width, with noise."""
    landmarks = plugin.detect_mouth(pixels)
    if landmarks is None or landmarks.face_box is None:
        return check_portrait(pixels.shape[1::-1], None, None, max_size=MAX_SIZE)
    radius = blur * (landmarks.face_box[2] - landmarks.face_box[0]) * pixels.shape[1]
    changed = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius))) * light
    changed = changed + np.random.default_rng(0).normal(0, noise, changed.shape)
    quality = measure_face(changed.round().clip(0, 255).astype(np.uint8), landmarks)
    return check_portrait(pixels.shape[1::-1], landmarks, quality, max_size=MAX_SIZE)


def print_table(groups: Sequence[Group]) -> None:
    """Print how many portraits of each group fail each check."""
    print("| check | " + " | ".join(f"{group.name} ({len(group.reports)})" for group in groups) + " |")
    print("| --- |" + " --- |" * len(groups))
    for i, check in enumerate(groups[0].reports[0].checks):
        failed = (sum(report.checks[i].passed is False for report in group.reports) for group in groups)
        print(f"| `{check.name}` | " + " | ".join(str(count) for count in failed) + " |")


def print_sharpness(pictures: dict[str, Sequence[np.ndarray]]) -> None:
    """Print how many portraits are called blurred, by skin tone, as they are and blurred, without and with noise."""
    print("\n| portraits | skin reflects | sharp: called blurred | blurred: found | blurred, with noise: found |")
    print("| --- | --- | --- | --- | --- |")
    for kind, group in pictures.items():
        for light in SKIN:
            counts = []
            for blur, noise in ((0.0, 0.0), (BLUR, 0.0), (BLUR, NOISE if light == 1 else NOISE / 2)):
                reports = [report_of(pixels, light, blur, noise) for pixels in group]
                failed = sum(check.passed is False for r in reports for check in r.checks if check.name == "sharpness")
                counts.append(f"{failed} of {len(reports)}")
            print(f"| {kind} | {light:.0%} | {counts[0]} | {counts[1]} | {counts[2]} |")


def main() -> None:
    """Measure with the installed MediaPipe plugin."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portrait_checks", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of avatar bundles")
    plugin.startup()
    pictures = {"bundles": list(bundle_pictures(parser.parse_args().folders)), "drawn": list(drawn_pictures())}
    groups = [Group(kind, [report_of(pixels) for pixels in group]) for kind, group in pictures.items()]
    print_table(groups)
    for group in groups:
        pitches = [
            c.value for report in group.reports for c in report.checks if c.name == "pitch" and c.value is not None
        ]
        print(f"\n{group.name}: pitch {min(pitches)} to {max(pitches)} degrees, mean {mean(pitches):.1f}")
    print_sharpness(pictures)
    plugin.shutdown()


if __name__ == "__main__":
    main()
