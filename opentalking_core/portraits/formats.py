"""Tell what a file is by its first bytes. Its name is not used."""

from __future__ import annotations

#: Brands of ISO media files (ftyp) that hold still pictures.
_BRANDS = {b"avif": "an AVIF picture", b"avis": "an AVIF picture"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC photo"
)

#: The first bytes of files that are no JPEG, PNG or WebP.
_SIGNATURES = {
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"II*\0": "a TIFF picture or a camera's raw file",
    b"MM\0*": "a TIFF picture or a camera's raw file",
    b"BM": "a BMP picture",
    b"8BPS": "a Photoshop document",
    b"%PDF": "a PDF document",
    b"\x1aE\xdf\xa3": "a video",
    b"\0\0\1\xba": "a video",
    b"FLV": "a video",
    b"OggS": "a video or a sound",
    b"PK\3\4": "a ZIP archive",
    b"data:image/": "a data URL, which is text",
}


def foreign_format(data: bytes) -> str | None:
    """Return the name of a file's format, such as "a HEIC photo"; None if it is not known."""
    if data[4:8] == b"ftyp":
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4], "big"), 64), 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "a video")
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "a video"
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"WAVE"):
        return "a video or a sound"
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "an SVG drawing"
    return None
