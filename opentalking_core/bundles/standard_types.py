"""The six model types of the bundle format."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import Problem
from .model_type import PortraitRecipe
from .mouth import mouth_metadata
from .source import BundleFile, BundleMetadata
from .store import PREVIEW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .bundle import AvatarBundle
    from .model_type import ModelType
    from .source import AvatarSource, SourceKind


def _reference(bundle: AvatarBundle) -> bool:
    return "reference.png" in bundle.files or "reference.jpg" in bundle.files


_WAV2LIP_RECIPE = PortraitRecipe(
    ("reference.png", PREVIEW, "frames/frame_00000.png"),
    {"reference_mode": "image", "frame_dir": "frames"},
)

#: Where a wav2lip bundle made from a video says where the mouth is in each frame.
_FRAME_METADATA = "frames/mouth_metadata.json"


@dataclass(frozen=True)
class _Wav2Lip:
    name: str = "wav2lip"
    portrait_recipe: PortraitRecipe | None = _WAV2LIP_RECIPE
    sources: ClassVar[tuple[SourceKind, ...]] = ("video",)

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Require frames, or a reference picture unless `metadata.reference_mode` asks for frames."""
        metadata = bundle.manifest.metadata
        folder = metadata.get("frame_dir", "frames")
        if not isinstance(folder, str) or not folder.strip("/"):
            yield Problem("error", "metadata.frame_dir", f"must name a folder of the bundle, not {folder!r:.60}")
        elif not bundle.images_in(folder):
            if metadata.get("reference_mode") == "frames":
                yield Problem("error", f"{folder}/", "holds no PNG or JPG, and metadata.reference_mode asks for frames")
            elif not _reference(bundle):
                yield Problem(
                    "error", f"{folder}/", "holds no PNG or JPG, and there is no reference.png or reference.jpg either"
                )
        else:
            yield from _frame_metadata_problems(bundle, folder.strip("/"))

    def make_files(self, source: AvatarSource) -> Iterator[BundleFile | BundleMetadata]:
        """Yield every frame as a JPEG, and where the mouth is in each."""
        mouths: dict[str, dict[str, Any]] = {}
        missing: list[str] = []
        for number, frame in enumerate(source.frames()):
            name, jpeg = f"frame_{number:05d}.jpg", frame.jpeg()
            yield BundleFile(f"frames/{name}", jpeg)
            if frame.mouth is None or not frame.mouth.is_in_picture:
                missing.append(name)
            else:
                digest = hashlib.sha256(jpeg).hexdigest()
                mouths[name] = mouth_metadata(frame.mouth) | {"source_frame_hash": digest}
        index = {"version": 1, "frames": mouths, "missing_frames": missing}
        yield BundleFile(_FRAME_METADATA, json.dumps(index).encode())
        yield BundleMetadata(
            {"reference_mode": "frames", "frame_dir": "frames", "frame_metadata": _FRAME_METADATA, "idle_mode": "loop"}
        )


def _frame_metadata_problems(bundle: AvatarBundle, folder: str) -> Iterator[Problem]:
    """Warn about a list of the frames' mouths that doesn't fit the frames."""
    path = bundle.manifest.metadata.get("frame_metadata")
    if not isinstance(path, str):
        return
    if path not in bundle.files:
        yield Problem("warning", "metadata.frame_metadata", f"names {path!r:.80}, which is missing")
        return
    data = bundle.read_small(path)
    if data is None:  # it can't be read here
        return
    try:
        frames = json.loads(data)["frames"]
        unknown = sorted(name for name in frames if f"{folder}/{name}" not in bundle.files)
        wrong = sorted(name for name, mouth in frames.items() if not isinstance(mouth, dict))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        yield Problem("warning", path, 'is not JSON with an object "frames": make the avatar again from its video')
        return
    if unknown:
        yield Problem("warning", path, f"names {len(unknown)} frames that are missing, {unknown[0]!r:.60} first")
    if wrong:
        yield Problem("warning", path, f"has no object for {len(wrong)} frames, {wrong[0]!r:.60} first")


@dataclass(frozen=True)
class _MuseTalk:
    name: str = "musetalk"
    portrait_recipe: PortraitRecipe | None = None

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Require a sequence of full frames."""
        if not bundle.images_in("full_frames"):
            yield Problem("error", "full_frames/", "holds no PNG or JPG: musetalk needs at least one full frame")


@dataclass(frozen=True)
class _QuickTalk:
    name: str = "quicktalk"
    portrait_recipe: PortraitRecipe | None = None

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Require the paths of a template video and an asset root, which may lie outside the bundle."""
        for key in ("template_video", "asset_root"):
            value = bundle.manifest.metadata.get(key)
            if not isinstance(value, str) or not value.strip():
                yield Problem("error", f"metadata.{key}", "is missing: quicktalk needs its path")


@dataclass(frozen=True)
class _ReferenceDriven:
    name: str
    portrait_recipe: PortraitRecipe | None = None

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Require a still picture to animate."""
        if not _reference(bundle):
            yield Problem("error", "reference.png", f"is missing (as is reference.jpg): {self.name} animates it")


@dataclass(frozen=True)
class _Mock:
    name: str = "mock"
    portrait_recipe: PortraitRecipe | None = None

    def problems(self, bundle: AvatarBundle) -> Iterable[Problem]:
        """Require nothing."""
        return ()


STANDARD_MODEL_TYPES: tuple[ModelType, ...] = (
    _Wav2Lip(),
    _MuseTalk(),
    _QuickTalk(),
    _ReferenceDriven("flashtalk"),
    _ReferenceDriven("flashhead"),
    _Mock(),
)
