"""ModelTypeContract: what every model type promises, as tests. A plugin's own test is

    from opentalking_core.testing.model_types import ModelTypeContract

    class TestMyType(ModelTypeContract):
        @pytest.fixture
        def model_type(self):
            return MyType()

Model types check bundles that people made by hand, so the tests pass them broken bundles of every kind. Tests of a
model type that makes its own files can use `DrawnSource`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Generator
from dataclasses import dataclass, replace
from math import cos, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import pytest
from PIL import Image

from opentalking_core import (
    AvatarBundle,
    BundleFile,
    BundleMaker,
    BundleMetadata,
    InvalidRequest,
    MouthLandmarks,
    OwnMetadata,
    PortraitRecipe,
    Problem,
)
from opentalking_core.bundles.manifest import AvatarManifest, is_bundle_path
from opentalking_core.bundles.store import MANIFEST, PREVIEW
from opentalking_core.portraits.drawn import draw_portrait

from .contract import Contract

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from numpy.typing import NDArray

    from opentalking_core import ModelType, SourceKind

#: A value of every JSON type, and texts that are no good as paths.
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**70, 1.5, 1e300, [], ["a", 1], {}, {"a": {"b": []}}),
    *("", " ", ".", "..", "/", "//", "../..", "/etc/passwd", "C:\\x", "a\0b", "frames/", "x" * 10_000, "帧", "[", "*"),
)

#: What metadata of the bundle format a model type may look at.
KEYS = (
    *("reference_mode", "frame_dir", "template_video", "asset_root", "animation", "face_box", "source_image_path"),
    *("preprocessed", "quicktalk", "video", "source_video", "frame_metadata", "custom_avatar", "hidden"),
)

#: The files of odd bundles: path -> size in bytes.
ODD_FILES: tuple[Mapping[str, int], ...] = (
    {},
    {MANIFEST: 2},
    {PREVIEW: 0, "reference.png": 0, "frames/frame_00000.png": 0, "full_frames/0.png": 0},
    {"frames": 1, "full_frames": 1, "reference.png/x": 1, "frames/a/b/c.png": 1},
    {"frames/README.txt": 1, "frames/.png": 1, "full_frames/png": 1, "帧/0.png": 1},
    {f"frames/frame_{n:05d}.png": 1 for n in range(2000)},
)

#: Contents of small files: empty, binary, texts of other formats, and a damaged pickle.
ODD_CONTENTS = (b"", b"\0" * 100, b"not what it should be", b"{}", b'{"frames": [1]}', b"[[[", b"\xff", b"\x80\x04.")


class ModelTypeContract(Contract):
    """The promises of a model type, one test each. Subclass it and supply the fixture `model_type`."""

    @pytest.fixture
    def model_type(self) -> ModelType:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `model_type`: your model type")

    def test_the_name_is_what_a_manifest_can_say(self, model_type: ModelType) -> None:
        """The name is a text without white space around it."""
        name = model_type.name
        assert isinstance(name, str)
        assert name
        assert name == name.strip()
        assert bundle(model_type).manifest.model_type == name

    @pytest.mark.parametrize("files", ODD_FILES, ids=lambda files: f"{len(files)} files")
    def test_a_bundle_with_odd_files_gets_problems_not_exceptions(
        self, model_type: ModelType, files: Mapping[str, int]
    ) -> None:
        """Odd files: none at all, empty files, folders in the place of files, thousands of frames."""
        check(model_type, bundle(model_type, files))

    @pytest.mark.parametrize("key", KEYS)
    def test_a_bundle_with_odd_metadata_gets_problems_not_exceptions(self, model_type: ModelType, key: str) -> None:
        """Each key gets a value of every JSON type, because people write manifests by hand."""
        for value in ODD_VALUES:
            for files in ODD_FILES[:3]:
                check(model_type, bundle(model_type, files, {key: value}))

    def test_the_same_bundle_gets_the_same_problems(self, model_type: ModelType) -> None:
        """A check changes neither the bundle nor the model type."""
        checked = bundle(model_type, metadata={"frame_dir": "elsewhere"})
        before = checked.manifest.model_dump_json()
        assert check(model_type, checked) == check(model_type, checked)
        assert checked.manifest.model_dump_json() == before

    def test_a_bundle_that_is_not_in_a_folder_can_be_checked(self, model_type: ModelType) -> None:
        """A bundle of a store has no folder: `path` is None, and `files` lists the files."""
        assert bundle(model_type).path is None
        check(model_type, bundle(model_type, {"reference.png": 1000}))

    def test_the_portrait_recipe_makes_a_bundle_that_passes(self, model_type: ModelType) -> None:
        """A bundle made from a portrait has a preview, and this model type finds no error in it."""
        recipe = model_type.portrait_recipe
        if recipe is None:
            pytest.skip(f"{model_type.name} avatars are not made from a portrait")
        assert isinstance(recipe, PortraitRecipe)
        assert recipe.picture_paths
        assert len(set(recipe.picture_paths)) == len(recipe.picture_paths)
        assert all(is_bundle_path(path) for path in recipe.picture_paths)
        assert MANIFEST not in recipe.picture_paths
        assert PREVIEW in recipe.picture_paths, "pickers would have nothing to show"
        metadata = json.loads(json.dumps(dict(recipe.metadata), allow_nan=False))
        assert metadata == dict(recipe.metadata), "it goes into a manifest.json"
        made = bundle(model_type, {MANIFEST: 100, **dict.fromkeys(recipe.picture_paths, 1000)}, metadata)
        assert [problem for problem in check(model_type, made) if problem.severity == "error"] == []

    def test_made_files_are_a_bundle_that_passes_or_the_source_is_refused(self, model_type: ModelType) -> None:
        """Paths are valid and unique, metadata is JSON, and this model type finds no error in what it has made.

        The manifest, the preview, the reference picture and the video are added by the host. A source without a mouth,
        or with frames without a mouth, may be refused.
        """
        maker = _maker(model_type)
        for kind in maker.sources:
            for gap in (range(0), range(7, 9), range(100)):
                try:
                    files, metadata = _made(maker, DrawnSource(kind, gap))
                except InvalidRequest as error:
                    refused = str(error)
                    assert gap, f"a {kind} with a mouth in each frame was refused: {refused}"
                    assert refused.strip(), "say why"
                    continue
                assert all(is_bundle_path(path) for path in files)
                assert MANIFEST not in files
                files = {MANIFEST: b"{}", PREVIEW: b"x", "reference.png": b"x"} | files
                found = check(model_type, _readable(model_type, files, metadata))
                assert [problem for problem in found if problem.severity == "error"] == []

    def test_frames_are_released_while_files_are_made(self, model_type: ModelType) -> None:
        """A video has hundreds of frames of several MB: at most four are held at once."""
        maker = _maker(model_type)
        for kind in maker.sources:
            source = DrawnSource(kind)
            for _ in maker.make_files(source):
                assert source.frames_alive <= 4

    def test_making_files_can_be_broken_off(self, model_type: ModelType) -> None:
        """The host stops reading if the client leaves."""
        maker = _maker(model_type)
        for kind in maker.sources:
            making = iter(maker.make_files(DrawnSource(kind)))
            next(making)
            if isinstance(making, Generator):
                making.close()

    def test_odd_content_of_small_files_gets_problems_not_exceptions(self, model_type: ModelType) -> None:
        """Each file of a made bundle in turn has other content, because bundles come from strangers, too."""
        maker = _maker(model_type)
        for kind in maker.sources:
            files, metadata = _made(maker, DrawnSource(kind))
            files[MANIFEST] = b"{}"
            for path in sorted(files)[:50]:
                for content in ODD_CONTENTS:
                    check(model_type, _readable(model_type, files | {path: content}, metadata))

    def test_stale_metadata_are_keys(self, model_type: ModelType) -> None:
        """`stale_metadata` names keys of a manifest's metadata."""
        if not isinstance(model_type, OwnMetadata):
            pytest.skip(f"{model_type.name} has no metadata of its own")
        assert not isinstance(model_type.stale_metadata, str)
        assert all(isinstance(key, str) and key for key in model_type.stale_metadata)


class DrawnSource:
    """A drawn portrait or video as an `AvatarSource`, for tests of `make_files`.

    Args:
        kind: a portrait has one frame, a video 12 frames, 24 per second.
        gap: the numbers of the frames without a mouth.
        upload: the uploaded file, which need not exist.
    """

    width, height = 96, 128

    def __init__(self, kind: SourceKind, gap: Container[int] = (), upload: Path = Path("upload")) -> None:
        self.kind = kind
        self.upload = upload
        self.fps = None if kind == "portrait" else 24.0
        self.frame_count = 1 if kind == "portrait" else 12
        self._gap = gap
        self._alive: WeakSet[DrawnFrame] = WeakSet()

    @property
    def frames_alive(self) -> int:
        """How many frames are held by anybody."""
        return len(self._alive)

    def frames(self) -> Iterator[DrawnFrame]:
        """Yield the frames: a face whose mouth opens and closes."""
        for number in range(self.frame_count):
            frame = _draw_frame(self.width, self.height, number, has_mouth=number not in self._gap)
            self._alive.add(frame)
            yield frame
            del frame


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    """A drawn frame; see `opentalking_core.Frame`."""

    pixels: NDArray[np.uint8]
    mouth: MouthLandmarks | None
    seconds: float

    def jpeg(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, "JPEG", quality=95)
        return file.getvalue()


def _draw_frame(width: int, height: int, number: int, *, has_mouth: bool) -> DrawnFrame:
    drawn = draw_portrait(width, height, mouth_open=number % 4 / 3)
    (x, y), rx, ry = drawn.mouth_center, drawn.mouth_rx, drawn.mouth_ry
    around = [(cos(2 * pi * n / 20), sin(2 * pi * n / 20)) for n in range(20)]
    mouth = MouthLandmarks(
        outer_lip=[(x + rx * across, y + ry * down) for across, down in around],
        inner_mouth=[(x + 0.7 * rx * across, y + 0.5 * ry * down) for across, down in around],
        face_box=(x - 3 * rx, y - 0.4, x + 3 * rx, y + 0.2),
        source="example",
    )
    return DrawnFrame(np.asarray(drawn.image), mouth if has_mouth else None, number / 24)


def _maker(model_type: ModelType) -> BundleMaker:
    """Return the model type, if it makes files of its own; else skip the test."""
    if not isinstance(model_type, BundleMaker):
        pytest.skip(f"{model_type.name} makes no files of its own")
    return model_type


def _made(maker: BundleMaker, source: DrawnSource) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files and the metadata that a model type makes of a source."""
    files: dict[str, bytes] = {}
    metadata: dict[str, Any] = {}
    for made in maker.make_files(source):
        if isinstance(made, BundleFile):
            assert made.path not in files, f"{made.path} is made twice"
            assert isinstance(made.content, bytes)
            files[made.path] = made.content
        else:
            assert isinstance(made, BundleMetadata)
            entries = json.loads(json.dumps(dict(made.entries), allow_nan=False))
            assert entries == dict(made.entries), "it goes into a manifest.json"
            metadata |= entries
    return files, metadata


def _readable(model_type: ModelType, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> AvatarBundle:
    """Return a bundle of this type whose files can be read."""
    made = bundle(model_type, {path: len(content) for path, content in files.items()}, metadata)
    return replace(made, reader=files.__getitem__)


def bundle(
    model_type: ModelType, files: Mapping[str, int] | None = None, metadata: Mapping[str, Any] | None = None
) -> AvatarBundle:
    """Return a bundle of this type that is not in a folder."""
    fields = {"id": "anna", "model_type": model_type.name, "fps": 25, "sample_rate": 16000, "width": 64, "height": 64}
    manifest = AvatarManifest.model_validate(fields | {"metadata": dict(metadata or {})})
    return AvatarBundle("anna", manifest, files if files is not None else {MANIFEST: 100})


def check(model_type: ModelType, checked: AvatarBundle) -> list[Problem]:
    """Return the problems of a bundle, and assert that each of them is well-formed."""
    problems = list(model_type.problems(checked))
    for problem in problems:
        assert isinstance(problem, Problem)
        assert problem.severity in ("error", "warning")
        assert isinstance(problem.where, str)
        assert problem.where, "name the file or the field"
        assert isinstance(problem.message, str)
        assert problem.message.strip(), "say what is wrong"
    return problems
