from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import opentalking_example
import pytest

from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.detectors import MouthDetectorContract
from opentalking_core.testing.fixtures import example_manifest
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from types import ModuleType


class TestExample(MouthDetectorContract):
    @pytest.fixture
    def plugin(self) -> ModuleType:
        return opentalking_example


def test_uploaded_portrait_gets_its_mouth() -> None:
    manifest = json.dumps(example_manifest("base", model_type="wav2lip")).encode()
    asyncio.run(MemoryStore("memory://detector").create("base", {"manifest.json": manifest}))
    portrait, picture = draw_portrait(), io.BytesIO()
    portrait.image.save(picture, "PNG")
    with running_service("memory://detector", plugins={"under_test": opentalking_example}) as client:
        form = {"name": "Alice", "base_avatar_id": "base"}
        made = client.post("/avatars/custom", data=form, files={"image": picture.getvalue()}).json()
        metadata = client.get(f"/avatars/{made['id']}").json()["metadata"]
    assert metadata["mouth_polygon_source"] == "under_test"
    assert metadata["animation"]["mouth_center"] == pytest.approx(portrait.mouth_center, abs=0.01)
