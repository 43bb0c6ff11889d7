"""The six model types of the bundle format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Problem
from .model_type import PortraitRecipe
from .store import PREVIEW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .bundle import AvatarBundle
    from .model_type import ModelType


def _reference(bundle: AvatarBundle) -> bool:
    return "reference.png" in bundle.files or "reference.jpg" in bundle.files


_WAV2LIP_RECIPE = PortraitRecipe(
    ("reference.png", PREVIEW, "frames/frame_00000.png"),
    {"reference_mode": "image", "frame_dir": "frames"},
)


@dataclass(frozen=True)
class _Wav2Lip:
    name: str = "wav2lip"
    portrait_recipe: PortraitRecipe | None = _WAV2LIP_RECIPE

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
