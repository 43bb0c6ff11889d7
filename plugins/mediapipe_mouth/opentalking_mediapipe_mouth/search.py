"""Find the faces of a picture in any framing: small, tilted, or upside down.

MediaPipe finds faces that are at least about a fifth as wide as the picture is long, and looks for upright faces: an
upside-down face gets a mesh whose mouth lies on the forehead. So the search goes on where MediaPipe ends:

1. The whole picture. Most portraits end here.
2. Without a face, turned copies of the whole picture, then overlapping square windows at falling scales, with the
   detector alone. Each face found gets its mesh from a crop around it.
3. Each mesh must be confirmed: in a crop that the mesh says is upright, the detector must see a face with its eyes and
   mouth where the mesh has them, and must see it better than upside down.
"""

from __future__ import annotations

from math import ceil, hypot
from typing import TYPE_CHECKING

from PIL import Image

from .crop import Crop
from .landmarker import MAX_FACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .landmarker import Landmarker, Sighting
    from .mesh import Box, FaceMesh

#: The side of a window by the side of a window at the next scale. Faces are found from a fifth of a window's side on.
_SCALE_STEP = 1.6

#: Windows overlap by this part of their side: any face that the next larger windows miss lies whole in one of them.
_OVERLAP = 0.4

#: Width and height of a window in pixels, as the detector sees it. Its own input is 128 x 128.
_WINDOW_PIXELS = 128

#: Windows of all scales together. Each takes 2 ms, so that a search without a result takes less than 0.5 s.
MAX_WINDOWS = 200

#: The smallest windows, in pixels of the picture: in narrower faces than 40 pixels the lips have too few pixels.
_MIN_WINDOW_SIDE = 192

#: The side of a crop by the size of the face in it: to find the mesh, and to confirm a mesh.
_MESH_MARGIN, _CONFIRM_MARGIN = 2.2, 1.7

#: Least score, in its own upright crop, of a face that the search has found. Faces score 0.85 and more there, and what
#: resembles a face up to 0.6. Where the whole picture shows a face, the detector's own limit of 0.5 is enough, because
#: faces that are cut off or partly hidden score less.
_MIN_SEARCHED_SCORE = 0.7

#: A face with this score is upright in its crop: upside down, faces score 0.79 at most.
_CERTAIN_SCORE = 0.86

#: Distances between the eyes, or the mouths, of detector and mesh, by the size of the face. A mesh that is further off
#: is no face; one that is not precise is measured again in a crop: MediaPipe places small faces roughly.
_MAX_DISAGREEMENT, _MAX_PRECISE_DISAGREEMENT = 0.2, 0.035


def find_faces(landmarker: Landmarker, picture: NDArray[np.uint8]) -> list[FaceMesh]:
    """Return the confirmed meshes of up to MAX_FACES faces in `picture` (RGB, uint8), the largest first."""
    return look_at_whole(landmarker, picture) or search_windows(landmarker, picture)


def look_at_whole(landmarker: Landmarker, picture: NDArray[np.uint8]) -> list[FaceMesh]:
    """Return the faces that the whole picture shows, the largest that is confirmed first; the others only count.

    Takes 14 to 20 ms, or 3 ms without a face.
    """
    seen = sorted(landmarker.find_meshes(picture), key=lambda mesh: mesh.box.size, reverse=True)
    if seen and (largest := confirmed(landmarker, picture, seen[0])) is not None:
        return [largest, *seen[1:]]
    return [mesh for mesh in (confirmed(landmarker, picture, mesh) for mesh in seen[1:]) if mesh is not None]


def search_windows(landmarker: Landmarker, picture: NDArray[np.uint8]) -> list[FaceMesh]:
    """Return the confirmed faces in turned copies and windows of `picture`. Takes 250 ms without a face."""
    import numpy as np

    picture = np.ascontiguousarray(picture)
    scales = _sightings(landmarker, picture)
    for sightings in scales:
        if found := _meshes_of(landmarker, picture, sightings, []):
            # A face that is a little smaller may show at the next scale alone.
            return _meshes_of(landmarker, picture, next(scales, []), found)
    return []


def confirmed(
    landmarker: Landmarker,
    picture: NDArray[np.uint8],
    mesh: FaceMesh,
    *,
    may_repeat: bool = True,
    min_score: float = 0.0,
) -> FaceMesh | None:
    """Return `mesh`, or a better mesh of the same face from a crop around it; None if the detector confirms neither."""
    if not mesh.is_plausible():
        return None
    crop = Crop(mesh.box.center, _CONFIRM_MARGIN * mesh.box.size, mesh.lean, _WINDOW_PIXELS)
    pixels = crop.cut(picture)
    sighting = _best(_moved(landmarker.detect(pixels), crop), mesh.box)
    if sighting is None or sighting.score < _CERTAIN_SCORE:
        turned = Crop(crop.center, crop.side, crop.turn + 180, crop.max_size)
        upside_down = _best(_moved(landmarker.detect(pixels[::-1, ::-1]), turned), mesh.box)
        if upside_down is not None and (sighting is None or upside_down.score > sighting.score):
            if not may_repeat:
                return None
            return _mesh_of(landmarker, picture, upside_down, may_repeat=False, min_score=min_score)
    if sighting is None or sighting.score < min_score:
        return None
    disagreement = max(_distance(sighting.eyes, mesh.eyes), _distance(sighting.mouth, mesh.mouth)) / mesh.box.size
    better = None
    if may_repeat and disagreement > _MAX_PRECISE_DISAGREEMENT:
        better = _mesh_of(landmarker, picture, sighting, may_repeat=False, min_score=min_score)
    return better or (mesh if disagreement < _MAX_DISAGREEMENT else None)


def _meshes_of(
    landmarker: Landmarker, picture: NDArray[np.uint8], sightings: Iterable[Sighting], known: Sequence[FaceMesh]
) -> list[FaceMesh]:
    """Return `known` and the confirmed mesh of each other face, the largest first.

    Several sightings may show the same face.
    """
    distinct: list[Sighting] = []
    for sighting in sorted(sightings, key=lambda sighting: sighting.score, reverse=True):
        if not any(sighting.box.is_same_face(other.box) for other in distinct) and not any(
            sighting.box.is_same_face(mesh.box) for mesh in known
        ):
            distinct.append(sighting)
    largest_first = sorted(distinct, key=lambda sighting: sighting.box.size, reverse=True)
    meshes = list(known)
    for sighting in largest_first[: MAX_FACES - len(meshes)]:
        mesh = _mesh_of(landmarker, picture, sighting, may_repeat=True, min_score=_MIN_SEARCHED_SCORE)
        if mesh is not None and not any(mesh.box.is_same_face(other.box) for other in meshes):
            meshes.append(mesh)
    return sorted(meshes, key=lambda mesh: mesh.box.size, reverse=True)


def _mesh_of(
    landmarker: Landmarker,
    picture: NDArray[np.uint8],
    sighting: Sighting,
    *,
    may_repeat: bool,
    min_score: float = 0.0,
) -> FaceMesh | None:
    """Return the confirmed mesh of a face that the detector has seen; None if there is none."""
    crop = Crop(sighting.box.center, _MESH_MARGIN * sighting.box.size, sighting.lean)
    meshes = [mesh.moved(crop) for mesh in landmarker.find_meshes(crop.cut(picture))]
    meshes = [mesh for mesh in meshes if mesh.box.is_same_face(sighting.box)]
    if not meshes:
        return None
    largest = max(meshes, key=lambda mesh: mesh.box.size)
    return confirmed(landmarker, picture, largest, may_repeat=may_repeat, min_score=min_score)


def _sightings(landmarker: Landmarker, picture: NDArray[np.uint8]) -> Iterator[list[Sighting]]:
    """Yield what the detector sees in turned copies of the whole picture, then at each scale of windows."""
    import numpy as np

    height, width = picture.shape[:2]
    turned: list[Sighting] = []
    for turn in (180, 90, 270):
        crop = Crop((width / 2, height / 2), max(width, height), turn, 2 * _WINDOW_PIXELS)
        turned += _moved(landmarker.detect(crop.cut(picture)), crop)
    yield turned
    image = Image.fromarray(picture)
    for side, corners in _window_scales(width, height):
        scale = side / _WINDOW_PIXELS
        size = max(_WINDOW_PIXELS, round(width / scale)), max(_WINDOW_PIXELS, round(height / scale))
        level = np.asarray(image.resize(size, Image.Resampling.BOX))
        seen: list[Sighting] = []
        for left, top in corners:
            x, y = (min(round(at / scale), end - _WINDOW_PIXELS) for at, end in zip((left, top), size, strict=True))
            window = Crop((left + side / 2, top + side / 2), side, 0.0, _WINDOW_PIXELS)
            seen += _moved(landmarker.detect(level[y : y + _WINDOW_PIXELS, x : x + _WINDOW_PIXELS]), window)
        yield seen


def _window_scales(width: int, height: int) -> Iterator[tuple[float, list[tuple[float, float]]]]:
    """Yield the side of the windows of each scale, from large to small, and the corners of all windows of that side."""
    side, windows = float(min(width, height)), 0
    if max(width, height) < _SCALE_STEP * side:  # the look at the whole picture has covered windows of that size
        side /= _SCALE_STEP
    while side >= _MIN_WINDOW_SIDE:
        corners = [(x, y) for y in _starts(height, side) for x in _starts(width, side)]
        windows += len(corners)
        if windows > MAX_WINDOWS:
            return
        yield side, corners
        side /= _SCALE_STEP


def _starts(length: int, side: float) -> list[float]:
    """Return where windows of that side start, so that they cover `length` and overlap."""
    gaps = ceil((length - side) / (side * (1 - _OVERLAP)))
    return [(length - side) * i / max(1, gaps) for i in range(gaps + 1)]


def _moved(sightings: Iterable[Sighting], crop: Crop) -> list[Sighting]:
    """Return `sightings` in a crop as sightings in the picture."""
    return [sighting.moved(crop) for sighting in sightings]


def _best(sightings: Iterable[Sighting], box: Box) -> Sighting | None:
    """Return the best sighting of the face in `box`."""
    same = [sighting for sighting in sightings if sighting.box.is_same_face(box)]
    return max(same, key=lambda sighting: sighting.score, default=None)


def _distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    return hypot(one[0] - other[0], one[1] - other[1])
