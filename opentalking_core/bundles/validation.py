"""Strict validation of bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Problem
from .manifest import is_avatar_id
from .mouth import mouth_problem
from .store import PREVIEW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .bundle import AvatarBundle
    from .model_type import ModelType


def validate_bundle(bundle: AvatarBundle, model_types: Mapping[str, ModelType]) -> list[Problem]:
    """Return what is wrong with a bundle: first what every bundle needs, then what its model type needs.

    Args:
        bundle: the bundle to check.
        model_types: the known model types by name (`PluginHost.model_types()`).
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
    if PREVIEW not in bundle.files:
        problems.append(Problem("warning", PREVIEW, "is missing: pickers will have nothing to show"))
    problems += [
        Problem("error", path, "is empty: put the real file there or remove it")
        for path, size in bundle.files.items()
        if size == 0 and path.lower().endswith((".png", ".jpg", ".jpeg"))
    ]
    if (problem := mouth_problem(manifest.metadata)) is not None:
        problems.append(Problem("warning", "metadata.animation", problem))
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
