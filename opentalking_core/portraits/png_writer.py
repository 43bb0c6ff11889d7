"""Encode PNGs ten times as fast as Pillow, pixel for pixel the same: rows filtered by NumPy, deflated by ISA-L."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from isal import isal_zlib

from .png import SIGNATURE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RGB, _FILTER_UP = 2, 2

#: Of ISA-L's levels 0 to 3. A portrait of 790 x 1166 takes 4 to 8 ms; zlib takes 40 to 85 ms for 3 to 13 % fewer bytes.
_LEVEL = 1


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the PNG of `pixels` (RGB, uint8, (height, width, 3)), without any metadata."""
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, 3 * width)
    filtered = np.empty((height, 1 + 3 * width), np.uint8)
    filtered[:, 0] = _FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            *_chunk(b"IHDR", header),
            *_chunk(b"IDAT", isal_zlib.compress(filtered, _LEVEL)),
            *_chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, ...]:
    checksum = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)
