from __future__ import annotations

import asyncio
import io
import json

import opentalking_example
import pytest
from opentalking_example import ExampleType

from opentalking_core import BundleFile, BundleMetadata, InvalidRequest
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.fixtures import example_manifest
from opentalking_core.testing.model_types import DrawnSource, ModelTypeContract, bundle
from opentalking_core.testing.running import running_service


class TestExampleType(ModelTypeContract):
    @pytest.fixture
    def model_type(self) -> ExampleType:
        return ExampleType()


def test_bundle_without_its_still_has_an_error() -> None:
    (problem,) = ExampleType().problems(bundle(ExampleType()))
    assert (problem.severity, problem.where) == ("error", "reference.png")


def test_unknown_expression_is_an_error() -> None:
    checked = bundle(ExampleType(), {"reference.png": 1000}, {"expression": "bored"})
    (problem,) = ExampleType().problems(checked)
    assert problem.where == "metadata.expression"
    assert "'bored'" in problem.message


def test_wrong_number_of_frames_is_an_error() -> None:
    files = {"reference.png": 1000, "frames/00000.jpg": 1000}
    (problem,) = ExampleType().problems(bundle(ExampleType(), files, {"frame_count": 2}))
    assert problem.message == "holds 1 frames, but metadata.frame_count is 2"


def test_frames_before_the_first_mouth_are_left_out() -> None:
    made = list(ExampleType().make_files(DrawnSource("video", gap=range(5))))
    assert [file.path for file in made if isinstance(file, BundleFile)] == [f"frames/{n:05d}.jpg" for n in range(7)]
    assert made[-1] == BundleMetadata({"expression": "neutral", "frame_count": 7})


def test_video_without_a_mouth_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="shows no mouth"):
        list(ExampleType().make_files(DrawnSource("video", gap=range(100))))


def test_portrait_becomes_an_avatar_of_this_type() -> None:
    manifest = json.dumps(example_manifest("base", model_type="example")).encode()
    asyncio.run(MemoryStore("memory://model-type").create("base", {"manifest.json": manifest}))
    picture = io.BytesIO()
    draw_portrait().image.save(picture, "PNG")
    # The installed plugin "example" is disabled, so that only the one under test is used.
    plugins = {"under_test": opentalking_example}
    with running_service("memory://model-type", plugins=plugins, disable_plugins=("example",)) as client:
        form = {"name": "Alice", "base_avatar_id": "base"}
        made = client.post("/avatars/custom", data=form, files={"image": picture.getvalue()}).json()
        assert made["model_type"] == "example"
        assert client.get(f"/avatars/{made['id']}").json()["metadata"]["expression"] == "neutral"
