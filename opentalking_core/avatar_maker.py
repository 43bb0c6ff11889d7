"""AvatarMaker: from a portrait or a video to the files and the manifest of a new avatar, before anything is stored."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from .bundles.model_type import BundleMaker, OwnMetadata, PortraitRecipe
from .errors import InvalidRequest
from .portraits.checks import with_frame_check
from .portraits.custom_avatar import NewContent, custom_manifest
from .portraits.picture import measure_size, prepare_portrait
from .scratch import scratch_folder
from .source_intake import FileContent
from .workers.making import REFERENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
    from pathlib import Path

    from .bundles.manifest import AvatarManifest
    from .bundles.model_type import ModelType
    from .bundles.source import SourceKind
    from .portrait_intake import PortraitIntake
    from .portraits.checks import PortraitReport
    from .portraits.detected_mouth import DetectedMouth
    from .source_intake import SourceIntake, WorkProgress
    from .workers.making import MadeFiles

    #: The bytes of a JPEG, PNG or WebP, or the file of a video.
    Source = bytes | Path
    OnProgress = Callable[[WorkProgress], None]


class MadeAvatar(NamedTuple):
    """A new avatar that is not stored yet.

    Args:
        manifest: with the id of the base.
        files: all other files of the bundle.
        mouth: in the reference picture; None if none was found.
    """

    manifest: AvatarManifest
    files: Mapping[str, bytes | AsyncIterable[bytes]]
    mouth: DetectedMouth | None


class AvatarMaker:
    """Makes avatars of portraits and videos, and checks what is fit for it.

    Args:
        model_types: the known model types by name.
        portraits: prepares portraits that are only copied.
        sources: has model types make files.
    """

    def __init__(self, model_types: Mapping[str, ModelType], portraits: PortraitIntake, sources: SourceIntake) -> None:
        self._model_types = model_types
        self._portraits = portraits
        self._sources = sources

    @contextlib.asynccontextmanager
    async def make(
        self, name: str, base_id: str, base: AvatarManifest, source: Source, on_progress: OnProgress | None
    ) -> AsyncIterator[MadeAvatar]:
        """Make an avatar; its files can be read until the context ends.

        Args:
            name: the display name.
            base_id: the avatar that is the template.
            base: the template's manifest.
            source: the portrait or video.
            on_progress: called a few times a second while files are made.

        Raises:
            InvalidRequest: the base can't be used for such a source, the source can't be decoded, or its model type
                refuses it.
            WorkersUnavailable: try again.
        """
        maker = self._maker_for(base_id, base, "portrait" if isinstance(source, bytes) else "video")
        if isinstance(maker, PortraitRecipe) and isinstance(source, bytes):
            yield await self._from_recipe(name, base_id, base, source, maker)
        else:
            async with self._with_made_files(name, base_id, base, source, on_progress) as made:
                yield made

    async def check(self, source: Source, on_progress: OnProgress | None = None) -> PortraitReport:
        """Report whether a portrait or a video is fit to be an avatar. Raises what `make` raises."""
        if isinstance(source, bytes):
            size, mouth = await self._portraits.process(source, measure_size)
            return await self._portraits.report(size, mouth)
        async with scratch_folder() as scratch:
            made = await self._sources.process(source, "video", await _new_folder(scratch), None, on_progress)
            return await self._report(made)

    def _maker_for(self, base_id: str, base: AvatarManifest, kind: SourceKind) -> PortraitRecipe | BundleMaker:
        """Return how a bundle of the base's model type is made. Raise InvalidRequest if it can't be."""
        maker = _maker(self._model_types.get(base.model_type), kind)
        if maker is None:
            usable = ", ".join(sorted(name for name, other in self._model_types.items() if _maker(other, kind)))
            raise InvalidRequest(
                f"the base avatar {base_id!r} is of model type {base.model_type!r}; a {kind} needs {usable}"
            )
        return maker

    async def _from_recipe(
        self, name: str, base_id: str, base: AvatarManifest, image: bytes, recipe: PortraitRecipe
    ) -> MadeAvatar:
        portrait, mouth = await self._portraits.process(image, prepare_portrait)
        size = portrait.width, portrait.height
        report = await self._portraits.report(size, mouth)
        content = NewContent(size, None, recipe.picture_paths[0], portrait.sha256, mouth, report, recipe.metadata)
        manifest = custom_manifest(base_id, base, name, content, self._stale_metadata(base))
        return MadeAvatar(manifest, dict.fromkeys(recipe.picture_paths, portrait.png), mouth)

    @contextlib.asynccontextmanager
    async def _with_made_files(
        self, name: str, base_id: str, base: AvatarManifest, source: Source, on_progress: OnProgress | None
    ) -> AsyncIterator[MadeAvatar]:
        async with scratch_folder() as scratch:
            folder = await _new_folder(scratch)
            if isinstance(source, bytes):
                kind: SourceKind = "portrait"
                upload = scratch / "upload"
                await asyncio.to_thread(upload.write_bytes, source)
            else:
                kind, upload = "video", source
            made = await self._sources.process(upload, kind, folder, base.model_type, on_progress)
            files = {path: FileContent(folder / path) for path in made.paths}
            metadata = dict(made.metadata)
            if kind == "video":
                video = f"source/source_video{made.suffix}"
                files.setdefault(video, FileContent(upload))
                metadata |= _video_metadata(video, made)
            report = await self._report(made)
            content = NewContent(made.size, made.fps, REFERENCE, made.reference_sha256, made.mouth, report, metadata)
            manifest = custom_manifest(base_id, base, name, content, self._stale_metadata(base))
            yield MadeAvatar(manifest, files, made.mouth)

    async def _report(self, made: MadeFiles) -> PortraitReport:
        report = await self._portraits.report(made.size, made.mouth)
        return report if made.fps is None else with_frame_check(report, made.frames_with_mouth, made.frames)

    def _stale_metadata(self, base: AvatarManifest) -> frozenset[str]:
        model_type = self._model_types[base.model_type]
        return frozenset(model_type.stale_metadata if isinstance(model_type, OwnMetadata) else ())


def _maker(model_type: ModelType | None, kind: SourceKind) -> PortraitRecipe | BundleMaker | None:
    """Return how a model type makes a bundle of a source; None if it can't."""
    if model_type is None:
        return None
    if kind == "portrait" and model_type.portrait_recipe is not None:
        return model_type.portrait_recipe
    return model_type if isinstance(model_type, BundleMaker) and kind in model_type.sources else None


def _video_metadata(path: str, made: MadeFiles) -> dict[str, Any]:
    return {
        "source_video": path,
        "source_fps": made.source_fps,
        "source_frame_count": made.source_frames,
        "extracted_frame_count": made.frames,
    }


async def _new_folder(scratch: Path) -> Path:
    folder = scratch / "files"
    await asyncio.to_thread(folder.mkdir)
    return folder
