"""Write ICC profiles of RGB and grey colour spaces that a file describes by numbers instead of a profile."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: x and y of white, red, green and blue.
Chromaticities = tuple[float, ...]

_D50 = np.array((0.9642, 1.0, 0.8249))

#: The Bradford matrix, with which ICC profiles adapt a white to D50.
_BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))


def write_profile(curve: NDArray[np.float64], chromaticities: Chromaticities | None) -> bytes:
    """Return an ICC profile (version 2) of a matrix and one curve.

    Args:
        curve: linear light from 0 to 1, at evenly spaced encoded values.
        chromaticities: of white, red, green and blue; None for a profile of grey.

    Raises:
        ValueError: the primaries span no colour space.
    """
    table = struct.pack(">4sII", b"curv", 0, len(curve))
    table += np.clip(np.round(curve * 65535), 0, 65535).astype(">u2").tobytes()
    tags = {b"desc": _description(), b"cprt": b"text\0\0\0\0CC0\0", b"wtpt": _xyz(_D50)}
    if chromaticities is None:
        tags[b"kTRC"] = table
    else:
        matrix = _primaries_in_d50(chromaticities)
        tags |= {b"rXYZ": _xyz(matrix[:, 0]), b"gXYZ": _xyz(matrix[:, 1]), b"bXYZ": _xyz(matrix[:, 2])}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), table)
    return _assembled(b"GRAY" if chromaticities is None else b"RGB ", tags)


def _assembled(colour_space: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = 128 + 4 + 12 * len(tags)
    directory, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        padded = body + b"\0" * (-len(body) % 4)
        directory += struct.pack(">4sII", name, offset + len(bodies), len(body))
        bodies += padded
    header = struct.pack(">I4sI4s4s4s", offset + len(bodies), b"lcms", 0x02400000, b"mntr", colour_space, b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _xyz(_D50)[8:]
    return header.ljust(128, b"\0") + directory + bodies


def _description() -> bytes:
    text = b"described by the picture\0"
    return struct.pack(">4sII", b"desc", 0, len(text)) + text + bytes(78)


def _xyz(values: NDArray[np.float64] | Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _primaries_in_d50(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """Return the XYZ of red, green and blue as columns, adapted to D50."""
    pairs = np.array(chromaticities, np.float64).reshape(4, 2)
    if not (np.isfinite(pairs).all() and (pairs[:, 1] > 1e-4).all() and (pairs <= 1.5).all()):
        raise ValueError(f"{chromaticities} are no chromaticities")
    white, *primaries = (np.array((x / y, 1.0, (1 - x - y) / y)) for x, y in pairs)
    columns = np.array(primaries).T
    if abs(np.linalg.det(columns)) < 1e-6:
        raise ValueError(f"the primaries {chromaticities[2:]} span no colour space")
    matrix = columns * np.linalg.solve(columns, white)
    cones = _BRADFORD @ _D50 / (_BRADFORD @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
    return adapted
