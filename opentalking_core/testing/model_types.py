"""ModelTypeContract: what every model type promises, as tests. A plugin's own test is

    from opentalking_core.testing.model_types import ModelTypeContract

    class TestMyType(ModelTypeContract):
        @pytest.fixture
        def model_type(self):
            return MyType()

Model types check bundles that people made by hand, so the tests pass them broken bundles of every kind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core import AvatarBundle, PortraitRecipe, Problem
from opentalking_core.bundles.manifest import AvatarManifest, is_bundle_path
from opentalking_core.bundles.store import MANIFEST, PREVIEW

from .contract import Contract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentalking_core import ModelType

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
