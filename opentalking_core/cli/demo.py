"""opentalking-core demo"""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .options import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from ..bundles.model_type import ModelType
    from ..bundles.store import BundleStore


class _Demo(NamedTuple):
    """A demo avatar, and the portrait that is drawn for it."""

    avatar_id: str
    name: str
    model_type: str
    width: int
    height: int


_DEMOS = (_Demo("demo-avatar", "Demo", "mock", 512, 512), _Demo("demo-wav2lip", "Demo Wav2Lip", "wav2lip", 768, 1024))


def demo(
    store: Store = None,
    if_empty: Annotated[bool, typer.Option("--if-empty", help="Do nothing if there are avatars already.")] = False,
) -> None:
    """Write two demo avatars with drawn portraits: demo-avatar (mock) and demo-wav2lip."""
    from .output import errors_in_words, load_host, out, read_settings

    with errors_in_words():
        settings = read_settings()
        host = load_host(settings)
        unopened, _ = host.open_bundle_store(store or settings.avatars_dir)
        for avatar_id in asyncio.run(_write(unopened, host.model_types(), if_empty)):
            out.print(f"wrote {avatar_id} to {unopened.url}", soft_wrap=True)


async def _write(unopened: BundleStore, model_types: Mapping[str, ModelType], if_empty: bool) -> list[str]:
    from ..portraits.drawn import draw_portrait

    async with unopened as store:
        present = {bundle.avatar_id async for bundle in store.scan()}
        if if_empty and present:
            return []
        written = []
        for seed, demo in enumerate(_DEMOS):
            if demo.avatar_id not in present:
                portrait = draw_portrait(demo.width, demo.height, seed=seed).image
                await store.create(demo.avatar_id, _bundle(demo, model_types.get(demo.model_type), portrait))
                written.append(demo.avatar_id)
        return written


def _bundle(demo: _Demo, model_type: ModelType | None, portrait: Image.Image) -> dict[str, bytes]:
    """Return the files of a demo avatar, made by the portrait recipe of its model type."""
    from ..bundles.model_type import PortraitRecipe
    from ..bundles.store import MANIFEST, PREVIEW

    recipe = (model_type.portrait_recipe if model_type else None) or PortraitRecipe((PREVIEW,))
    file = io.BytesIO()
    portrait.save(file, "PNG", optimize=True)
    manifest = {"id": demo.avatar_id, "name": demo.name, "model_type": demo.model_type, "fps": 25, "sample_rate": 16000}
    size = {"width": demo.width, "height": demo.height}
    text = json.dumps({**manifest, **size, "version": "1.0", "metadata": dict(recipe.metadata)}, indent=2) + "\n"
    return {MANIFEST: text.encode(), **dict.fromkeys(recipe.picture_paths, file.getvalue())}
