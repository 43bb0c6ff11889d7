"""Changing a custom avatar's manifest by a JSON merge patch (RFC 7396), and what of a manifest can't be changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import InvalidManifest, InvalidRequest
from .display_name import checked_name
from .manifest import AvatarManifest
from .manual_mouth import MANUAL, OUTLINES, check_face_box, manual_animation
from .mouth import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Keys of `metadata` that can't be changed, with the reason.
FIXED_METADATA: Mapping[str, str] = {
    key: reason
    for reason, keys in {
        "it decides who may change and delete the avatar": ("custom_avatar", "hidden"),
        "it records how the avatar was made": (
            *("base_avatar_id", "portrait_checks", "created_at", "created_by", "consent"),
        ),
        "it says which files the runtime opens, and these can't be changed": (
            *("reference_mode", "frame_dir", "frame_metadata", "extracted_frame_count", "template_video"),
            *("asset_root", "video", "quicktalk", "preprocessed", "preprocess_version"),
        ),
        "it follows from the animation: change metadata.animation": ("mouth_polygon_source",),
    }.items()
    for key in keys
}

#: Keys of `metadata` that begin like this can't be changed: source_image_hash, source_video, source_fps ...
FIXED_METADATA_PREFIX = "source_"


def parse_patch(body: bytes) -> dict[str, Any]:
    """Return the merge patch that a request's body holds.

    Raises:
        InvalidRequest: the body is not a JSON object.
    """
    try:
        patch = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("the patch is not UTF-8 text") from None
    except RecursionError:
        raise InvalidRequest("the patch is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"the patch is not JSON: {error}") from None
    if not isinstance(patch, dict):
        raise InvalidRequest("the patch must be a JSON object with name, metadata or both")
    return patch


def apply_patch(manifest: AvatarManifest, patch: Mapping[str, Any]) -> AvatarManifest:
    """Return the manifest that `patch` makes of `manifest`.

    If the patch changes `metadata.animation`, the centre and the radii of the mouth are computed from its outlines. If
    it changes an outline, `mouth_polygon_source` becomes "manual". If it removes the animation, `mouth_polygon_source`
    becomes "unavailable".

    Args:
        manifest: of a custom avatar.
        patch: may hold `name` and `metadata`.

    Raises:
        InvalidRequest: a field can't be changed, or can't have this value; the message names the field.
    """
    if others := sorted(patch.keys() - {"name", "metadata"}):
        raise InvalidRequest(f"{others[0]:.80} can't be changed: only name and metadata can")
    changes: dict[str, Any] = {}
    if "name" in patch:
        changes["name"] = _new_name(patch["name"])
    if "metadata" in patch:
        changes["metadata"] = _new_metadata(manifest.metadata, patch["metadata"])
    try:
        changed = AvatarManifest.model_validate(manifest.model_dump(exclude_unset=True) | changes)
        return AvatarManifest.parse(changed.to_json())
    except InvalidManifest as error:
        raise InvalidRequest(f"metadata can't be stored: {error}") from None


def _new_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidRequest(f"name is {json.dumps(name):.40}, not a text: a custom avatar needs a display name")
    return checked_name(name)


def _new_metadata(metadata: Mapping[str, Any], patch: object) -> dict[str, Any]:
    if not isinstance(patch, dict):
        raise InvalidRequest(f"metadata is {json.dumps(patch):.40}: send an object with the keys to change")
    for key in patch:
        if key in FIXED_METADATA or key.startswith(FIXED_METADATA_PREFIX):
            reason = FIXED_METADATA.get(key, FIXED_METADATA["base_avatar_id"])
            raise InvalidRequest(f"metadata.{key:.80} can't be changed: {reason}")
    merged: dict[str, Any] = merge(metadata, patch)
    if patch.get("face_box") is not None:
        check_face_box(merged["face_box"])
    if "animation" in patch:
        _update_mouth(merged, metadata.get("animation"))
    return merged


def _update_mouth(metadata: dict[str, Any], before: object) -> None:
    """Compute what follows from the animation in `metadata`, if the animation isn't as it was before."""
    animation = metadata.get("animation")
    if animation is None:
        metadata["mouth_polygon_source"] = UNAVAILABLE
    elif not isinstance(animation, dict):
        raise InvalidRequest(f"metadata.animation is {json.dumps(animation):.40}: send an object with the outlines")
    elif json.dumps(animation) != json.dumps(before):
        metadata["animation"] = manual_animation(animation)
        if not (isinstance(before, dict) and all(animation[name] == before.get(name) for name in OUTLINES)):
            metadata["mouth_polygon_source"] = MANUAL


def merge(target: object, patch: object) -> Any:
    """Return what the JSON merge patch makes of the target: null removes a key, objects are merged, others replaced."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON; write null or a number")
