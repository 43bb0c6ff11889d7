"""Make a bundle's files from a portrait or a video, as its model type wants them."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bundles.manifest import is_bundle_path
from ..bundles.model_type import BundleMaker
from ..bundles.source import BundleFile, BundleMetadata
from ..bundles.store import MANIFEST, PREVIEW
from ..errors import InvalidRequest, PluginError
from ..portraits.checks import measure_face
from ..portraits.detected_mouth import DetectedMouth
from ..portraits.png_writer import encode_png
from .mouth_finder import MouthFinder
from .progress import ProgressFile
from .source import LocatedSource, open_upload

if TYPE_CHECKING:
    from pathlib import Path

    from ..bundles.source import SourceKind
    from ..host.host import PluginHost
    from .source import SourceFrame
    from .worker_host import WorkerPlugins

#: The picture in which the manifest says where the mouth is.
REFERENCE = "reference.png"


class MakingTask(NamedTuple):
    """What to make files of.

    Args:
        upload: the uploaded file.
        kind: what was uploaded.
        folder: where to write the files; it exists and is empty.
        progress: the path of a `ProgressFile`.
        model_type: the name of the model type that makes the files; None to look at the source only.
        detectors: the plugins to ask for mouths, in order.
        max_size: (width, height) in pixels into which frames are fitted.
        max_frames: how many frames of a video to use.
    """

    upload: Path
    kind: SourceKind
    folder: Path
    progress: Path
    model_type: str | None
    detectors: tuple[str, ...]
    max_size: tuple[int, int]
    max_frames: int


class MadeFiles(NamedTuple):
    """What was made of a source.

    Args:
        paths: the files in the task's folder.
        metadata: entries for the manifest.
        size: (width, height) of the frames in pixels.
        fps: frames per second; None for a portrait.
        frames: how many frames were used.
        frames_with_mouth: in how many of them a mouth was found.
        source_fps: frames per second of the source, whose frames may have been dropped or repeated.
        source_frames: how many frames the whole source has.
        suffix: of the uploaded file's name, by its content: ".mp4". Empty for a portrait.
        reference_sha256: of the reference picture, in hexadecimal digits; empty if no files were made.
        mouth: in the reference picture.
        failures: what each detector raised, by plugin.
        detections: how often each detector found or did not find a mouth: (plugin, outcome) -> count.
        seconds: how long each stage took, by the stage's name.
    """

    paths: tuple[str, ...]
    metadata: dict[str, Any]
    size: tuple[int, int]
    fps: float | None
    frames: int
    frames_with_mouth: int
    source_fps: float | None
    source_frames: int
    suffix: str
    reference_sha256: str
    mouth: DetectedMouth | None
    failures: dict[str, str]
    detections: dict[tuple[str, str], int]
    seconds: dict[str, float]


def make_files(plugins: WorkerPlugins, task: MakingTask) -> MadeFiles:
    """Make the files of a bundle. This runs in a worker.

    Raises:
        InvalidRequest: the upload can't be decoded, or the model type refuses it.
        PluginError: the model type raises something else, or yields what it may not.
    """
    host = plugins.load_host()
    host.startup()
    started = time.perf_counter()
    progress = ProgressFile(task.progress)
    progress.start()
    with (
        open_upload(task.upload, task.kind, task.max_size, task.max_frames) as upload,
        MouthFinder(host, task.detectors, upload.size, upload.fps or 1.0, progress) as mouths,
    ):
        source = LocatedSource(task.upload, task.kind, upload, mouths, progress)
        written = _Files(task.folder)
        if task.model_type is None:
            for _ in source.frames():
                pass
        else:
            _run_maker(host, task.model_type, source, written)
        if source.reference is None:
            raise InvalidRequest(f"the {task.kind} has no frame: send one that shows a face")
        reference_sha256 = _write_stills(source.reference, written) if task.model_type else ""
        seconds = {
            f"{task.kind}_decode": source.decoding_seconds,
            f"{task.kind}_detect": mouths.seconds,
            f"{task.kind}_make": time.perf_counter() - started,
        }
        return MadeFiles(
            tuple(written.paths),
            written.metadata,
            upload.size,
            upload.fps,
            source.frame_count,
            source.frames_with_mouth,
            upload.fps,
            max(upload.source_frames, source.frame_count),
            upload.suffix,
            reference_sha256,
            _measured_mouth(source.reference),
            mouths.failures,
            dict(mouths.detections),
            seconds,
        )


def _run_maker(host: PluginHost, name: str, source: LocatedSource, written: _Files) -> None:
    """Write what the model type yields."""
    maker = host.model_types().get(name)
    if not isinstance(maker, BundleMaker):
        raise PluginError(f"the worker has no model type {name} that makes files; are all its plugins installed?")
    try:
        for made in maker.make_files(source):
            written.add(made)
    except (InvalidRequest, MemoryError, OSError):  # OSError: the disk is full, or nobody waits any more
        raise
    except Exception as error:  # a plugin can raise anything
        raise PluginError(f"model type {name} can't make files: {type(error).__name__}: {error}") from error


def _write_stills(reference: SourceFrame, written: _Files) -> str:
    """Write the reference picture and the preview, unless the model type did; return the reference's SHA-256."""
    missing = [path for path in (REFERENCE, PREVIEW) if path not in written.paths]
    if missing:
        png = encode_png(reference.pixels)
        for path in missing:
            written.add(BundleFile(path, png))
    return hashlib.sha256(written.read(REFERENCE)).hexdigest()


def _measured_mouth(reference: SourceFrame) -> DetectedMouth | None:
    mouth = reference.mouth
    if mouth is None:
        return None
    return DetectedMouth(mouth, mouth.source or "", measure_face(reference.pixels, mouth))


class _Files:
    """The files and the metadata that a model type has yielded.

    Args:
        folder: where the files are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths: dict[str, None] = {}  # a set that keeps its order
        self.metadata: dict[str, Any] = {}

    def add(self, made: object) -> None:
        """Write a file, or add entries to the metadata. Raise ValueError if it is not fit for a bundle."""
        match made:
            case BundleFile(path, content):
                if not is_bundle_path(path) or path == MANIFEST or path in self.paths:
                    raise ValueError(f"the file {path!r} is {MANIFEST}, repeated, or no path inside a bundle")
                self.paths[path] = None
                file = self._folder / path
                # The folder itself is never made again: it is gone if nobody waits for the files any more.
                for parent in reversed(file.relative_to(self._folder).parents[:-1]):
                    (self._folder / parent).mkdir(exist_ok=True)
                file.write_bytes(content)
            case BundleMetadata(entries):
                self.metadata |= json.loads(json.dumps(dict(entries), allow_nan=False))
            case _:
                raise ValueError(f"it yielded {type(made).__name__}, not a BundleFile or BundleMetadata")

    def read(self, path: str) -> bytes:
        """Return the content of a file that was written."""
        return (self._folder / path).read_bytes()
