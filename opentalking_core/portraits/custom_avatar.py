"""Build the manifest and the id of an avatar that is made from a portrait or a video."""

from __future__ import annotations

import itertools
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bundles.manifest import AvatarManifest
from ..bundles.mouth import UNAVAILABLE, mouth_metadata

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from .checks import PortraitReport
    from .detected_mouth import DetectedMouth

#: Keys that describe the base's own media. They are wrong for another picture, so a new avatar does not inherit them.
#: `model_crop` is a box in the base's own picture.
STALE_METADATA = frozenset(
    {
        *("animation", "face_box", "mouth_polygon_source", "model_crop", "model_crop_source", "hidden"),
        "portrait_checks",
        *("source_video", "source_fps", "source_frame_count", "extracted_frame_count", "frame_metadata"),
        *("template_video", "video", "quicktalk", "preprocessed", "preprocess_version"),
    }
)

_MAX_SLUG_CHARACTERS = 40  # of up to 4 bytes each, so that an id stays below manifest.MAX_ID_BYTES


def slug(name: str) -> str:
    """Return `name` as a part of an id: letters, marks and digits of any script in lower case, joined by hyphens.

    "Alice B." gives "alice-b", "李 雷" gives "李-雷"; a name without any letter or digit gives "avatar".
    """
    kept = [
        char if unicodedata.category(char)[0] in "LMN" else " "
        for char in unicodedata.normalize("NFKC", name).lower().replace("'", "").replace("’", "")
    ]
    return "-".join("".join(kept).split())[:_MAX_SLUG_CHARACTERS].strip("-") or "avatar"


def candidate_ids(name: str, now: datetime) -> Iterator[str]:
    """Yield ids like custom-alice-20260513-153012-001, each a millisecond later, until an id is free.

    Args:
        name: the avatar's display name.
        now: the time to start from; written in UTC.
    """
    stem = slug(name)
    for milliseconds in itertools.count():
        moment = now.astimezone(UTC) + timedelta(milliseconds=milliseconds)
        yield f"custom-{stem}-{moment:%Y%m%d-%H%M%S}-{moment.microsecond // 1000:03d}"


class NewContent(NamedTuple):
    """What a new avatar shows.

    Args:
        size: (width, height) of its frames in pixels.
        fps: frames per second of its video; None if the base's rate is kept.
        reference_path: the file in the bundle in which the mouth was located.
        reference_sha256: of that file, in hexadecimal digits.
        mouth: what the detector found; None if nothing.
        report: the result of the checks; recorded as metadata.portrait_checks.
        metadata: further entries for the metadata.
    """

    size: tuple[int, int]
    fps: float | None
    reference_path: str
    reference_sha256: str
    mouth: DetectedMouth | None
    report: PortraitReport
    metadata: Mapping[str, Any]


def custom_manifest(
    base_id: str, base: AvatarManifest, name: str, content: NewContent, stale: Collection[str] = ()
) -> AvatarManifest:
    """Return the manifest of a new avatar that is driven like `base` and shows `content`; `id` is still the base's.

    Args:
        base_id: recorded as metadata.base_avatar_id.
        base: its fps, sample_rate, model_type, free-form keys and metadata are inherited, except STALE_METADATA.
        name: the display name.
        content: what the new avatar shows.
        stale: further keys of the metadata that are not inherited.
    """
    inherited = {key: value for key, value in base.model_dump(exclude_unset=True).items() if not _is_stale(key)}
    metadata: dict[str, Any] = {
        key: value for key, value in base.metadata.items() if not _is_stale(key) and key not in stale
    }
    metadata |= content.metadata
    metadata |= {
        "custom_avatar": True,
        "base_avatar_id": base_id,
        "source_image_hash": content.reference_sha256,
        "source_image_path": content.reference_path,
        "mouth_polygon_source": UNAVAILABLE,
        "portrait_checks": content.report.metadata(),
    }
    if content.mouth is not None:
        metadata |= mouth_metadata(content.mouth.landmarks, content.mouth.detector)
    changes: dict[str, Any] = {"name": name, "metadata": metadata}
    changes["width"], changes["height"] = content.size
    if content.fps is not None:
        changes["fps"] = int(content.fps) if content.fps.is_integer() else content.fps
    return AvatarManifest.model_validate(inherited | changes)


def _is_stale(key: str) -> bool:
    return key in STALE_METADATA or key.startswith("source_image")  # source_image, source_image_hash, ...
