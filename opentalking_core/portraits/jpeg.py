"""Read the structure of a JPEG file: its segments and scans, where the picture ends, and its metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import InvalidRequest

_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
_ADOBE, _JFIF = 0xEE, 0xE0

#: Markers of a frame header: baseline, extended, progressive ...; 0xC4, 0xC8 and 0xCC mean other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _HUFFMAN = (0xC2, 0xC6, 0xCA, 0xCE), (0xC0, 0xC1, 0xC2)

#: Inside a scan 0xFF is followed by 0x00, a restart marker or another 0xFF. Anything else ends the scan.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

#: What stands in for the end of a scan to find out whether the scan is complete: no 0xFF, so that it is read as pixels.
_FILLER = bytes((37 * i + 11) % 255 for i in range(4096)) * 16


@dataclass(slots=True)
class JPEGFile:
    """The parts of a JPEG.

    Args:
        picture: the file up to the last scan's end, without metadata and without an end marker.
        has_end: whether an end marker follows.
        bits: of each channel.
        scans: how often the decoder goes over the pixels.
        is_progressive: whether each scan refines the picture.
        can_be_verified: whether the scans are Huffman coded, see `with_filler`.
        exif: the EXIF block, or nothing.
        icc_profile: the colour profile, or nothing.
    """

    picture: bytes = b""
    has_end: bool = False
    bits: int = 8
    scans: int = 0
    is_progressive: bool = False
    can_be_verified: bool = False
    exif: bytes = b""
    icc_profile: bytes = b""
    _components: int = 0
    _profile_parts: dict[int, bytes] = field(default_factory=dict)
    #: How precise the last scan of each component's average and details was: 0 is complete.
    _missing_bits: dict[tuple[int, bool], int] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The picture as a complete file."""
        return self.picture + _EOI

    @property
    def with_filler(self) -> bytes:
        """The picture with other pixels behind its last scan. It decodes to the same pixels if no pixel was missing."""
        return self.picture + _FILLER + _EOI

    @property
    def lacks_scans(self) -> bool:
        """Whether the picture ends before its last scan."""
        seen = {component for component, _ in self._missing_bits}
        if len(seen) < self._components:
            return True
        has_details = all((component, True) in self._missing_bits for component in seen)
        return self.is_progressive and not self.has_end and (any(self._missing_bits.values()) or not has_details)


def read_jpeg(data: bytes) -> JPEGFile:
    """Read the structure of a JPEG. What stands behind the picture, such as a video, is not looked at.

    Raises:
        InvalidRequest: the file ends before its first scan, or in the middle of a segment.
    """
    jpeg = JPEGFile()
    kept: list[bytes | memoryview] = [_SOI]
    view, at = memoryview(data), 2
    while True:
        found = _NEXT_MARKER.search(data, at)
        at = found.start() if found else len(data)
        marker = data[at + 1] if found else None
        if marker is None or marker == _EOI[1]:
            jpeg.has_end = marker is not None
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if length < 2 or end > len(data):
            if jpeg.scans:  # what a camera has put behind the pixels, or a cut: `lacks_scans` and the pixels tell
                break
            raise InvalidRequest("the image is damaged or incomplete: it ends in the middle of a segment")
        body = view[at + 4 : end]
        if marker == _SOS:
            _note_scan(jpeg, bytes(body))
            following = _NEXT_MARKER.search(data, end)
            end = following.start() if following else len(data)
        elif marker in _FRAMES and len(body) >= 6:
            jpeg.bits, jpeg._components = body[0], body[5]
            jpeg.is_progressive = marker in _PROGRESSIVE
            jpeg.can_be_verified = marker in _HUFFMAN
        if not _is_metadata(marker) or (marker == _ADOBE and bytes(body[:5]) == b"Adobe"):
            kept.append(view[at:end])
        else:
            _note_metadata(jpeg, marker, body)
        at = end
    if not jpeg.scans:
        raise InvalidRequest("the image is damaged or incomplete: it ends before its pixels")
    jpeg.picture = b"".join(kept)
    jpeg.icc_profile = b"".join(part for _, part in sorted(jpeg._profile_parts.items()))
    return jpeg


def _is_metadata(marker: int) -> bool:
    return (0xE0 <= marker <= 0xEF and marker != _JFIF) or marker == 0xFE


def _note_metadata(jpeg: JPEGFile, marker: int, body: memoryview) -> None:
    if marker == 0xE1 and not jpeg.exif and bytes(body[:6]) == b"Exif\0\0":
        jpeg.exif = bytes(body[6:])
    elif marker == 0xE2 and bytes(body[:12]) == b"ICC_PROFILE\0" and len(body) > 14:
        jpeg._profile_parts.setdefault(body[12], bytes(body[14:]))


def _note_scan(jpeg: JPEGFile, header: bytes) -> None:
    jpeg.scans += 1
    count = header[0] if header else 0
    if len(header) >= 4 + 2 * count:
        first, low_bits = header[1 + 2 * count], header[3 + 2 * count] & 15
        for i in range(count):
            jpeg._missing_bits[header[1 + 2 * i], first > 0] = low_bits
