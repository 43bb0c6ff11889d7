"""load_avatar_bundle(), list_avatar_dirs() and validate_bundle(): bundles in folders, checked strictly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core import InvalidBundle, InvalidManifest, NotFound, list_avatar_dirs, load_avatar_bundle
from opentalking_core.bundles.bundle import AvatarBundle
from opentalking_core.bundles.manifest import AvatarManifest
from opentalking_core.bundles.validation import validate_bundle
from opentalking_core.host.host import PluginHost
from opentalking_core.testing.fixtures import example_manifest

if TYPE_CHECKING:
    from pathlib import Path

MODEL_TYPES = PluginHost().load().model_types()


def make(root: Path, name: str, files: tuple[str, ...] = ("preview.png",), **changes: object) -> Path:
    folder = root / name
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"png")
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(example_manifest(name, **changes)))
    return folder


def problems(files: dict[str, int], avatar_id: str = "anna", **changes: Any) -> list[tuple[str, str]]:
    manifest = AvatarManifest.model_validate(example_manifest("anna", **changes))
    found = validate_bundle(AvatarBundle(avatar_id, manifest, files), MODEL_TYPES)
    return [(problem.severity, problem.where) for problem in found]


def test_load_returns_manifest_and_files(tmp_path: Path) -> None:
    folder = make(tmp_path, "anna", ("preview.png", "frames/1.png", "frames/0.JPG", ".DS_Store", ".git/config"))
    bundle = load_avatar_bundle(folder)
    assert (bundle.avatar_id, bundle.path, bundle.manifest.name) == ("anna", folder, "Demo")
    assert set(bundle.files) == {"manifest.json", "preview.png", "frames/1.png", "frames/0.JPG"}
    assert bundle.files["preview.png"] == 3
    assert bundle.images_in("frames") == bundle.images_in("/frames/") == ["frames/0.JPG", "frames/1.png"]
    assert bundle.images_in("fram") == []


def test_load_accepts_relative_str_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "anna")
    assert load_avatar_bundle(str(tmp_path / "anna")).avatar_id == "anna"
    monkeypatch.chdir(tmp_path / "anna")
    assert load_avatar_bundle(".").avatar_id == "anna"


def test_load_keeps_unknown_keys(tmp_path: Path) -> None:
    manifest = load_avatar_bundle(make(tmp_path, "anna", unknown={"a": 1}, metadata={"free": [1]})).manifest
    assert manifest.model_extra == {"unknown": {"a": 1}}
    assert json.loads(manifest.to_json()) == example_manifest("anna", unknown={"a": 1}, metadata={"free": [1]})


@pytest.mark.parametrize("strict", [True, False])
def test_load_missing_folder_raises_not_found(tmp_path: Path, strict: bool) -> None:
    (tmp_path / "no-manifest").mkdir()
    (tmp_path / "a-file").write_text("x")
    for name in ("nothing", "no-manifest", "a-file"):
        with pytest.raises(NotFound, match=name):
            load_avatar_bundle(tmp_path / name, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_load_unreadable_manifest_names_folder_and_field(tmp_path: Path, strict: bool) -> None:
    with pytest.raises(InvalidManifest, match=r"anna.*fps"):
        load_avatar_bundle(make(tmp_path, "anna", fps="fast"), strict=strict)


def test_load_strict_raises_invalid_bundle(tmp_path: Path) -> None:
    folder = make(tmp_path, "anna", ("frames/readme.txt",), model_type="wav2lip", id="ben")
    with pytest.raises(InvalidBundle) as caught:
        load_avatar_bundle(folder, strict=True)
    found = [(problem.severity, problem.where) for problem in caught.value.problems]
    assert found == [("error", "id"), ("warning", "preview.png"), ("error", "frames/")]
    assert "frames/" in str(caught.value)
    assert "preview.png" not in str(caught.value), "a warning is no reason"
    assert load_avatar_bundle(folder, strict=False).manifest.id == "ben"


def test_load_is_strict_by_default(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle):
        load_avatar_bundle(make(tmp_path, "anna", model_type="musetalk"))


def test_validate_good_bundle_finds_no_problems() -> None:
    assert problems({"manifest.json": 9, "preview.png": 9}) == []


@pytest.mark.parametrize(
    ("files", "avatar_id", "changes", "expected"),
    [
        ({}, "anna", {}, [("warning", "preview.png")]),
        ({"preview.png": 0}, "anna", {}, [("error", "preview.png")]),
        ({"preview.png": 9, "frames/0.jpg": 0}, "anna", {}, [("error", "frames/0.jpg")]),
        ({"preview.png": 9}, "ben", {}, [("error", "id")]),
        ({"preview.png": 9}, "two words", {}, [("error", "two words"), ("error", "id")]),
        ({"preview.png": 9}, "anna", {"model_type": "somebodys"}, [("error", "model_type")]),
        ({"preview.png": 9}, "anna", {"model_type": "flashtalk"}, [("error", "reference.png")]),
    ],
)
def test_validate_problem_names_its_file_or_field(
    files: dict[str, int], avatar_id: str, changes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert problems(files, avatar_id, **changes) == expected


def test_validate_unknown_model_type_names_the_known_ones() -> None:
    manifest = AvatarManifest.model_validate(example_manifest("anna", model_type="wav2lips"))
    (problem,) = validate_bundle(AvatarBundle("anna", manifest, {"preview.png": 9}), MODEL_TYPES)
    assert "wav2lips" in problem.message
    assert "quicktalk" in problem.message


def test_list_avatar_dirs_returns_folders_with_a_manifest_by_name(tmp_path: Path) -> None:
    for name in ("ben", "anna", "李雷", ".hidden"):
        make(tmp_path, name)
    (tmp_path / "no-manifest").mkdir()
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "odd" / "manifest.json").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    assert [folder.name for folder in list_avatar_dirs(tmp_path)] == ["anna", "ben", "broken", "李雷"]
    assert list_avatar_dirs(str(tmp_path)) == list_avatar_dirs(tmp_path)


def test_list_avatar_dirs_missing_folder_raises_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        list_avatar_dirs(tmp_path / "nowhere")


def test_validate_mouth_clamped_to_the_edge_warns() -> None:
    inside = {"outer_lip": [[0.4, 0.9], [0.5, 0.85], [0.6, 0.9], [0.5, 1.0]]}
    below = {"outer_lip": [[0.4, 1.0], [0.5, 0.98], [0.6, 1.0], [0.5, 1]], "mouth_ry": 0.01}
    for animation, expected in ((inside, []), (below, [("warning", "metadata.animation")]), ({"outer_lip": "?"}, [])):
        found = problems({"preview.png": 1, "reference.png": 1}, metadata={"animation": animation})
        assert [problem for problem in found if problem[1] == "metadata.animation"] == expected
