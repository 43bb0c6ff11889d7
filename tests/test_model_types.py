"""The six built-in model types: the contract of each, and what each needs (strict validation in the bundle format)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core.host.host import PluginHost
from opentalking_core.testing.model_types import ModelTypeContract, bundle, check

if TYPE_CHECKING:
    from opentalking_core import ModelType

MODEL_TYPES = PluginHost().load().model_types()
NAMES = ("wav2lip", "musetalk", "quicktalk", "flashtalk", "flashhead", "mock")


@pytest.mark.parametrize("name", NAMES)
class TestBuiltInTypes(ModelTypeContract):
    @pytest.fixture
    def model_type(self, name: str) -> ModelType:
        return MODEL_TYPES[name]


def test_built_in_types_are_the_six_of_the_bundle_format() -> None:
    assert set(NAMES) <= set(MODEL_TYPES)
    assert {name for name in NAMES if MODEL_TYPES[name].portrait_recipe} == {"wav2lip"}


@pytest.mark.parametrize(
    ("name", "files", "metadata", "where"),
    [
        ("wav2lip", ["frames/0.png"], {}, None),
        ("wav2lip", ["frames/0.JPG"], {"reference_mode": "frames"}, None),
        ("wav2lip", ["reference.png"], {}, None),
        ("wav2lip", ["reference.jpg"], {"reference_mode": "image"}, None),
        ("wav2lip", ["reference.png"], {"reference_mode": "frames"}, "frames/"),
        ("wav2lip", ["stills/0.png"], {"frame_dir": "stills"}, None),
        ("wav2lip", ["stills/0.png"], {"frame_dir": "stills/"}, None),
        ("wav2lip", ["frames/0.png"], {"frame_dir": "stills"}, "stills/"),
        ("wav2lip", [], {}, "frames/"),
        ("wav2lip", ["frames/0.txt", "frames/sub/0.png"], {}, "frames/"),
        ("wav2lip", ["frames/0.png"], {"frame_dir": 3}, "metadata.frame_dir"),
        ("wav2lip", ["frames/0.png"], {"frame_dir": ""}, "metadata.frame_dir"),
        ("musetalk", ["full_frames/0.png"], {}, None),
        ("musetalk", ["frames/0.png"], {}, "full_frames/"),
        ("quicktalk", [], {"template_video": "/srv/t.mp4", "asset_root": "/srv"}, None),
        ("quicktalk", [], {"template_video": "/srv/t.mp4"}, "metadata.asset_root"),
        ("quicktalk", [], {"asset_root": "/srv", "template_video": 3}, "metadata.template_video"),
        ("quicktalk", [], {"asset_root": "/srv", "template_video": " "}, "metadata.template_video"),
        ("flashtalk", ["reference.png"], {}, None),
        ("flashtalk", ["reference.jpg"], {}, None),
        ("flashtalk", ["frames/0.png"], {}, "reference.png"),
        ("flashhead", ["reference.jpg"], {}, None),
        ("flashhead", [], {}, "reference.png"),
        ("mock", [], {}, None),
    ],
)
def test_type_reports_what_the_bundle_format_requires(
    name: str, files: list[str], metadata: dict[str, Any], where: str | None
) -> None:
    found = check(MODEL_TYPES[name], bundle(MODEL_TYPES[name], dict.fromkeys(files, 1), metadata))
    assert [problem.where for problem in found if problem.severity == "error"] == ([where] if where else [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"frames": {"0.jpg": {}, "1.jpg": {}}}', None),
        (b'{"frames": {"0.jpg": {}, "7.jpg": {}, "8.jpg": {}}}', "names 2 frames that are missing, '7.jpg' first"),
        (b'{"frames": {"0.jpg": 3}}', "has no object for 1 frames, '0.jpg' first"),
        (b'{"frames": [1]}', "is not JSON with an object"),
        (b"no JSON", "is not JSON with an object"),
        (b"[" * 100_000, "is not JSON with an object"),
        (None, "names 'frames/mouths.json', which is missing"),
    ],
)
def test_wav2lip_warns_of_mouths_that_do_not_fit_the_frames(content: bytes | None, message: str | None) -> None:
    files = {"frames/0.jpg": b"x", "frames/1.jpg": b"x"} | ({"frames/mouths.json": content} if content else {})
    made = bundle(MODEL_TYPES["wav2lip"], {path: len(data) for path, data in files.items()})
    made.manifest.metadata["frame_metadata"] = "frames/mouths.json"
    found = check(MODEL_TYPES["wav2lip"], dataclasses.replace(made, reader=files.__getitem__))
    assert [problem.severity for problem in found] == (["warning"] if message else [])
    assert message is None or message in found[0].message
