"""Find and load avatar bundles that are folders on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidBundle, InvalidManifest, NotFound
from .bundle import AvatarBundle
from .manifest import AvatarManifest
from .standard_types import STANDARD_MODEL_TYPES
from .store import MANIFEST
from .validation import validate_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from .model_type import ModelType


def load_avatar_bundle(
    path: str | PathLike[str], strict: bool = True, model_types: Iterable[ModelType] | None = None
) -> AvatarBundle:
    """Load the bundle in the folder `path`.

    Args:
        path: the bundle's folder.
        strict: also validate the bundle, including what its model type needs.
        model_types: the known model types; the six built-in ones if None.

    Raises:
        NotFound: there is no such folder, or the folder has no manifest.json.
        InvalidManifest: the manifest can't be read.
        InvalidBundle: strict validation found errors; `problems` holds the errors and the warnings.
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
    bundle = AvatarBundle(folder.resolve().name, manifest, files, folder, lambda path: (folder / path).read_bytes())
    if strict:
        types = STANDARD_MODEL_TYPES if model_types is None else model_types
        problems = validate_bundle(bundle, {model_type.name: model_type for model_type in types})
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            listed = "; ".join(f"{problem.where} {problem.message}" for problem in errors)
            raise InvalidBundle(f"{folder} is not a valid {manifest.model_type} bundle: {listed}", problems)
    return bundle


def list_avatar_dirs(root: str | PathLike[str]) -> list[Path]:
    """Return the folders in `root` that have a manifest.json, sorted by name, without hidden folders.

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
