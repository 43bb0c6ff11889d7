"""Read the structure of a PNG file: what is needed to decode it, its colour space and its metadata."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from ..errors import InvalidRequest

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: A longer colour profile is ignored: press profiles have 0.5 to 3 MB.
MAX_PROFILE_BYTES = 8 * 1024 * 1024

_PALETTE = 3
_CHUNK_HEAD_BYTES, _CHECKSUM_BYTES = 8, 4


@dataclass(slots=True)
class PNGFile:
    """The parts of a PNG.

    Args:
        data: the file without metadata. If its default image is not part of its animation, the first frame is kept.
        shows_second_frame: whether that first frame is to be shown and not the default image.
        bits: of each channel.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
        transparent: the colour that is transparent, in values of `bits` bits; None without such a colour.
        exif: the EXIF block, or nothing.
        cicp: primaries, transfer function, matrix and range of ITU-T H.273, or None.
        icc_profile: the colour profile, or nothing.
        is_srgb: whether the file says so itself.
        gamma: the exponent that encodes light, such as 1 / 2.2, or None.
        chromaticities: x and y of white, red, green and blue, or None.
    """

    data: bytes = b""
    shows_second_frame: bool = False
    bits: int = 8
    colour_type: int = 2
    transparent: tuple[int, ...] | None = None
    exif: bytes = b""
    cicp: tuple[int, int, int, int] | None = None
    icc_profile: bytes = b""
    is_srgb: bool = False
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None
    _kept: list[bytes] = field(default_factory=list)
    _is_animated: bool = False
    _frames: int = 0  # fcTL chunks
    _has_pixels: bool = False


def read_png(data: bytes) -> PNGFile:
    """Read the structure of a PNG. An ancillary chunk with a wrong checksum is ignored, as browsers do.

    Raises:
        InvalidRequest: the file does not begin with an intact header.
    """
    if data[12:16] != b"IHDR" or len(data) < 33 or data[8:12] != b"\0\0\0\x0d":
        raise InvalidRequest("the image is not a picture that can be read: its PNG header is missing")
    png = PNGFile(bits=data[24], colour_type=data[25])
    at = len(SIGNATURE)
    while at + _CHUNK_HEAD_BYTES <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + _CHUNK_HEAD_BYTES + length + _CHECKSUM_BYTES
        is_critical = not kind[0] & 32
        if is_critical or (kind == b"fdAT" and png.shows_second_frame and png._frames == 1):
            png._has_pixels |= kind == b"IDAT"
            png._kept.append(data[at:end])
        elif end <= len(data) and _is_intact(data, at, end):
            _note_chunk(png, kind, data[at + 8 : end - 4], data[at:end])
        at = end
        if kind == b"IEND":
            break
    png.data = SIGNATURE + b"".join(png._kept)
    return png


def _is_intact(data: bytes, at: int, end: int) -> bool:
    return zlib.crc32(memoryview(data)[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _note_chunk(png: PNGFile, kind: bytes, body: bytes, chunk: bytes) -> None:
    """Note what an ancillary chunk says."""
    if kind == b"tRNS" and not png._has_pixels:
        if png.colour_type == _PALETTE:
            png._kept.append(chunk)
        elif len(body) == (2 if png.colour_type == 0 else 6):
            png.transparent = struct.unpack(f">{len(body) // 2}H", body)
    elif kind == b"eXIf":
        png.exif = body.removeprefix(b"Exif\0\0")
    elif kind in (b"acTL", b"fcTL"):
        _note_animation(png, kind, chunk)
    elif not png._has_pixels:
        _note_colour(png, kind, body)


def _note_animation(png: PNGFile, kind: bytes, chunk: bytes) -> None:
    if kind == b"acTL" and not png._has_pixels:
        png._is_animated = True
    elif kind == b"fcTL" and png._is_animated:
        png._frames += 1
        if png._frames == 1 and png._has_pixels:  # the default image has no fcTL: it is not part of the animation
            png.shows_second_frame = True
            body = struct.pack(">II", 1, 0)
            control = b"acTL" + body
            png._kept.insert(1, struct.pack(">I", 8) + control + struct.pack(">I", zlib.crc32(control)))
            png._kept.append(chunk)


def _note_colour(png: PNGFile, kind: bytes, body: bytes) -> None:
    if kind == b"cICP" and len(body) == 4:
        png.cicp = body[0], body[1], body[2], body[3]
    elif kind == b"iCCP" and not png.icc_profile:
        png.icc_profile = _inflated(body.partition(b"\0")[2][1:])
    elif kind == b"sRGB" and len(body) == 1:
        png.is_srgb = True
    elif kind == b"gAMA" and len(body) == 4:
        png.gamma = int.from_bytes(body, "big") / 100_000 or None
    elif kind == b"cHRM" and len(body) == 32:
        png.chromaticities = tuple(value / 100_000 for value in struct.unpack(">8I", body))


def _inflated(body: bytes) -> bytes:
    """Return a profile; nothing if it is damaged or too long."""
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(body, MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if inflate.eof else b""
