"""opentalking-core demo"""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from PIL import Image

    from ..bundles.store import BundleStore


def demo(
    avatars: Annotated[str, typer.Argument(metavar="DIR", help="Folder (or URL) to write them to.")],
    if_empty: Annotated[bool, typer.Option("--if-empty", help="Do nothing if there are avatars already.")] = False,
) -> None:
    """Write two demo avatars with drawn portraits: demo-avatar (mock) and demo-wav2lip."""
    from .output import errors_in_words, load_host, out, read_settings

    with errors_in_words():
        store, _ = load_host(read_settings()).open_bundle_store(avatars)
        for avatar_id in asyncio.run(_write(store, if_empty)):
            out.print(f"wrote {avatar_id} to {store.url}", soft_wrap=True)


async def _write(unopened: BundleStore, if_empty: bool) -> list[str]:
    from ..portraits.drawn import draw_portrait

    async with unopened as store:
        present = {bundle.avatar_id async for bundle in store.scan()}
        if if_empty and present:
            return []
        bundles = {
            "demo-avatar": _bundle("Demo", "mock", draw_portrait(seed=0).image),
            "demo-wav2lip": _bundle("Demo Wav2Lip", "wav2lip", draw_portrait(768, 1024, seed=1).image),
        }
        missing = [avatar_id for avatar_id in bundles if avatar_id not in present]
        for avatar_id in missing:
            manifest, files = bundles[avatar_id]
            text = json.dumps({"id": avatar_id, **manifest}, indent=2) + "\n"
            await store.create(avatar_id, {"manifest.json": text.encode(), **files})
        return missing


def _bundle(name: str, model_type: str, portrait: Image.Image) -> tuple[dict[str, Any], dict[str, bytes]]:
    file = io.BytesIO()
    portrait.save(file, "PNG", optimize=True)
    picture = file.getvalue()
    files, metadata = {"preview.png": picture}, {}
    if model_type == "wav2lip":
        files |= {"reference.png": picture, "frames/frame_00000.png": picture}
        metadata = {"reference_mode": "image", "frame_dir": "frames"}
    manifest = {"name": name, "model_type": model_type, "fps": 25, "sample_rate": 16000, "width": portrait.width}
    return manifest | {"height": portrait.height, "version": "1.0", "metadata": metadata}, files
