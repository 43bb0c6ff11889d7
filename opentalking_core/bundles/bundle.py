"""Avatar bundles as a whole: finding and loading them from a folder, and validating them strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InvalidBundle, InvalidManifest, NotFound
from .manifest import AvatarManifest, is_avatar_id
from .store import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

    from ..builtin_plugins.model_types import ModelType


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that validation found.

    Args:
        severity: an "error" keeps the bundle from working, a "warning" doesn't.
        where: the file ("frames/") or the manifest's field ("metadata.template_video") that it is about.
        message: one sentence: what is wrong and what to do.
    """

    severity: Literal["error", "warning"]
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class AvatarBundle:
    """A bundle's manifest and which files it holds, wherever it lives.

    Args:
        avatar_id: the bundle's folder name.
        manifest: its manifest.json.
        files: path inside the bundle (slashes) -> size in bytes.
        path: its folder, if it lives in one.
    """

    avatar_id: str
    manifest: AvatarManifest
    files: Mapping[str, int]
    path: Path | None = None

    def images_in(self, folder: str) -> list[str]:
        """The PNG and JPG files right inside `folder` ("frames"), in the order in which they are played."""
        prefix = folder.strip("/") + "/"
        return sorted(
            path
            for path in self.files
            if path.startswith(prefix)
            and "/" not in path.removeprefix(prefix)
            and path.lower().endswith((".png", ".jpg", ".jpeg"))
        )


def validate_bundle(bundle: AvatarBundle, model_types: Mapping[str, ModelType]) -> list[Problem]:
    """Check a bundle strictly: what every bundle needs, then what its model type does.

    Args:
        bundle: the bundle to check.
        model_types: the known ones by name (`PluginHost.model_types()`).
    """
    problems = []
    manifest = bundle.manifest
    if not is_avatar_id(bundle.avatar_id):
        problems.append(
            Problem("error", bundle.avatar_id, "the folder's name may hold letters, digits, - and _ only: rename it")
        )
    if manifest.id != bundle.avatar_id:
        problems.append(
            Problem(
                "error", "id", f"is {manifest.id!r} but the folder is named {bundle.avatar_id!r}: make them the same"
            )
        )
    if "preview.png" not in bundle.files:
        problems.append(Problem("warning", "preview.png", "is missing: pickers will have nothing to show"))
    problems += [
        Problem("error", path, "is empty: put the real file there or remove it")
        for path, size in bundle.files.items()
        if size == 0 and path.lower().endswith((".png", ".jpg", ".jpeg"))
    ]
    model_type = model_types.get(manifest.model_type)
    if model_type is None:
        known = ", ".join(sorted(model_types))
        problems.append(
            Problem(
                "error", "model_type", f"{manifest.model_type!r} is none of {known}: install its plugin or correct it"
            )
        )
    else:
        problems += model_type.problems(bundle)
    return problems


def load_avatar_bundle(
    path: str | PathLike[str], strict: bool = True, model_types: Iterable[ModelType] | None = None
) -> AvatarBundle:
    """Load the bundle in the folder `path`.

    Args:
        path: the bundle's folder.
        strict: also check what its model type needs.
        model_types: those to check by; the six built-in ones if None.

    Raises:
        NotFound: there is no folder, or no manifest.json in it.
        InvalidManifest: the manifest can't be read.
        InvalidBundle: strict, and the check found errors; `problems` holds them and the warnings.
    """
    folder = Path(path)
    try:
        data = (folder / MANIFEST).read_bytes()
        files = dict(_files_below(folder))
    except OSError as error:
        raise NotFound(f"there is no avatar bundle at {folder}: {error.strerror} ({MANIFEST})") from None
    try:
        manifest = AvatarManifest.parse(data)
    except InvalidManifest as error:
        raise InvalidManifest(f"{folder}: {error}") from None
    bundle = AvatarBundle(folder.resolve().name, manifest, files, folder)
    if strict:
        if model_types is None:
            from ..builtin_plugins.model_types import register_model_types  # it needs this module's types

            model_types = register_model_types()
        problems = validate_bundle(bundle, {model_type.name: model_type for model_type in model_types})
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            listed = "; ".join(f"{problem.where} {problem.message}" for problem in errors)
            raise InvalidBundle(f"{folder} is not a valid {manifest.model_type} bundle: {listed}", problems)
    return bundle


def list_avatar_dirs(root: str | PathLike[str]) -> list[Path]:
    """The folders in `root` that hold a manifest.json, by name; hidden ones are left out.

    Raises:
        NotFound: `root` can't be read.
    """
    try:
        return sorted(
            entry for entry in Path(root).iterdir() if not entry.name.startswith(".") and (entry / MANIFEST).is_file()
        )
    except OSError as error:
        raise NotFound(f"the avatars folder {root} can't be read: {error.strerror}") from None


def _files_below(folder: Path) -> Iterator[tuple[str, int]]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path.stat().st_size
