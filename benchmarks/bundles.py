"""Test data: folders of bundles, and pictures that compress like photographs."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from opentalking_core.portraits.drawn import draw_portrait

if TYPE_CHECKING:
    from pathlib import Path

#: The id of a bundle in every folder, which is the base of uploads.
BASE = "avatar-000000"

_LINKS = 30_000  # hard links to one preview; ext4 allows 65,000


def make_bundles(folder: Path, count: int, preview: bytes) -> Path:
    """Create `folder` with `count` bundles of type wav2lip. Their previews are hard links, to save disk space."""
    folder.mkdir()
    shared = ""
    for number in range(count):
        avatar_id = f"avatar-{number:06}"
        bundle = f"{folder}/{avatar_id}"
        os.mkdir(bundle)  # noqa: PTH102  # pathlib takes longer than the system calls
        with open(f"{bundle}/manifest.json", "wb") as file:  # noqa: PTH123
            file.write(_manifest(avatar_id, number))
        if number % _LINKS:
            os.link(shared, f"{bundle}/preview.png")
        else:
            shared = f"{bundle}/preview.png"
            with open(shared, "wb") as file:  # noqa: PTH123
                file.write(preview)
    return folder


def add_frames(bundle: Path, count: int, size: int) -> None:
    """Add frames of random bytes to a bundle."""
    (bundle / "frames").mkdir()
    for number in range(count):
        (bundle / "frames" / f"frame_{number:05}.png").write_bytes(os.urandom(size))


def _manifest(avatar_id: str, number: int) -> bytes:
    mouth = {"center": [0.5, 0.62], "rx": 0.08, "ry": 0.03}
    metadata = {"reference_mode": "image", "frame_dir": "frames", "animation": {"mouth": mouth}}
    manifest: dict[str, object] = {"id": avatar_id, "name": f"Avatar {number}", "model_type": "wav2lip", "fps": 25}
    manifest |= {"sample_rate": 16000, "width": 412, "height": 548, "version": "1.0", "metadata": metadata}
    return json.dumps(manifest, indent=2).encode()


def preview_png() -> bytes:
    """Return a preview of about 257 KB."""
    file = io.BytesIO()
    _photo(412, 548, grain=3, clouds=3).save(file, "PNG")
    return file.getvalue()


def portrait_jpeg() -> bytes:
    """Return a portrait of 790x1166 pixels and about 300 KB, typical of phones and picture agencies."""
    file = io.BytesIO()
    _photo(790, 1166, grain=5, clouds=6).save(file, "JPEG", quality=92)
    return file.getvalue()


def _photo(width: int, height: int, *, grain: float, clouds: float) -> Image.Image:
    """Return a drawn portrait with grain and texture; without them it would compress too well."""
    random = np.random.default_rng(1)
    pixels = np.asarray(draw_portrait(width, height).image, np.float64)
    pixels = pixels + random.normal(0, grain, (height, width, 1))
    for size in (4, 16, 64):
        small = random.normal(0, clouds, (height // size + 1, width // size + 1)).astype(np.float32)
        texture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        pixels = pixels + np.asarray(texture)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
