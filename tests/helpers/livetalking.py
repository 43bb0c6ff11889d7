"""A model type that makes its own files: LiveTalking's wav2lip avatars. Loaded as a one-file plugin.

LiveTalking keeps frames as full_imgs/%08d.png, the face of each as face_imgs/%08d.png of 256 x 256 pixels, and where
each face was cut out in coords.pkl: a pickled list of (top, bottom, left, right) in pixels. Its loader is
`pickle.load`, which runs what a stranger wrote. So `problems` reads the list without unpickling: everything but lists,
tuples and whole numbers is an error.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from opentalking_core import BundleFile, BundleMetadata, InvalidRequest, Problem, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentalking_core import AvatarBundle, AvatarSource, Frame, ModelType, PortraitRecipe, SourceKind

    Coords = tuple[int, int, int, int]

COORDS = "coords.pkl"
FACE_PIXELS = 256

#: Added below a face, in pixels, as LiveTalking does it: the chin moves.
_CHIN_PADDING = 10

#: A face that is not seen stays where it was: the lips are pasted there. After this many frames that would show.
_MAX_GAP_FRAMES = 5


@dataclass(frozen=True)
class LiveTalking:
    name: str = "livetalking"
    portrait_recipe: PortraitRecipe | None = None
    sources: ClassVar[tuple[SourceKind, ...]] = ("portrait", "video")
    stale_metadata: ClassVar[tuple[str, ...]] = ("livetalking_frames",)

    def make_files(self, source: AvatarSource) -> Iterator[BundleFile | BundleMetadata]:
        """Yield the frames from the first face on, their faces, and where the faces are."""
        coords: list[Coords] = []
        gap = 0
        for frame in source.frames():
            found = _face(frame, source.width, source.height)
            gap = 0 if found else gap + 1
            if gap > _MAX_GAP_FRAMES and coords:
                raise InvalidRequest(f"the face is not seen for more than {_MAX_GAP_FRAMES} frames: show it throughout")
            if found or coords:
                coords.append(found or coords[-1])
                top, bottom, left, right = coords[-1]
                number = f"{len(coords) - 1:08d}.png"
                yield BundleFile(f"full_imgs/{number}", _png(Image.fromarray(frame.pixels)))
                face = Image.fromarray(frame.pixels[top:bottom, left:right])
                yield BundleFile(f"face_imgs/{number}", _png(face.resize((FACE_PIXELS, FACE_PIXELS))))
        if not coords:
            raise InvalidRequest(f"the {source.kind} shows no face: LiveTalking avatars need one")
        yield BundleFile(COORDS, pickle.dumps(coords, protocol=4))
        yield BundleMetadata({"livetalking_frames": len(coords)})

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        """Require as many faces and coordinates as frames."""
        frames, faces = len(bundle.images_in("full_imgs")), len(bundle.images_in("face_imgs"))
        if not frames:
            yield Problem("error", "full_imgs/", "holds no PNG or JPG: LiveTalking needs the frames")
        if faces != frames:
            yield Problem("error", "face_imgs/", f"holds {faces} faces for {frames} frames")
        if COORDS not in bundle.files:
            yield Problem("error", COORDS, "is missing: LiveTalking needs the place of each face")
        elif (data := bundle.read_small(COORDS)) is not None:
            try:
                count = len(read_coords(data))
            except ValueError as error:
                yield Problem("error", COORDS, str(error))
            else:
                if count != frames:
                    yield Problem("error", COORDS, f"has {count} places for {frames} frames")


@hookimpl
def register_model_types() -> Iterable[ModelType]:
    return (LiveTalking(),)


def read_coords(data: bytes) -> list[Coords]:
    """Return the list in a coords.pkl, without running anything of it.

    Raises:
        ValueError: it is no pickle of a list of four whole numbers each, or holds anything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    marks: list[int] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                break
            _run(opcode.name, argument, stack, marks, memo)
        (coords,) = stack
        if not isinstance(coords, list) or not all(isinstance(c, tuple) and len(c) == 4 for c in coords):
            raise ValueError("it is not a list of tuples")
    except ValueError as error:
        raise ValueError(f"is not a list of (top, bottom, left, right): {error}") from None
    except (IndexError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError("is damaged") from None
    return coords


def _run(name: str, argument: Any, stack: list[Any], marks: list[int], memo: dict[int, Any]) -> None:
    """Run one opcode of those that make lists and tuples of whole numbers."""
    match name:
        case "PROTO" | "FRAME":
            pass
        case "EMPTY_LIST":
            stack.append([])
        case "BININT" | "BININT1" | "BININT2":
            stack.append(argument)
        case "MARK":
            marks.append(len(stack))
        case "TUPLE":
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
        case "APPENDS":
            start = marks.pop()
            items = stack[start:]
            del stack[start:]
            stack[-1].extend(items)
        case "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case _:
            raise ValueError(f"it holds the operation {name}")


def _face(frame: Frame, width: int, height: int) -> Coords | None:
    """Return (top, bottom, left, right) of the face in pixels, within the frame; None without a face."""
    if frame.mouth is None or frame.mouth.face_box is None:
        return None
    left, top, right, bottom = frame.mouth.face_box
    box = (
        max(0, int(top * height)),
        min(height, int(bottom * height) + _CHIN_PADDING),
        max(0, int(left * width)),
        min(width, int(right * width)),
    )
    return box if box[0] < box[1] and box[2] < box[3] else None


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
