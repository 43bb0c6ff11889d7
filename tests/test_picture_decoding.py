"""decode_portrait: which pictures are accepted, and which pixels come out."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opentalking_core.errors import InvalidRequest
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.portraits.picture import decode_portrait, prepare_portrait

from .helpers.pictures import PNG, chunk, ihdr

DRAWN = draw_portrait(300, 400).image


def encoded(image: Image.Image = DRAWN, image_format: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    return decode_portrait(data, 1080, 1920)


def segment(marker: int, body: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return a big-endian EXIF block whose entries are (tag, type, count, four bytes of value)."""
    directory = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + directory + bytes(4)


SIDEWAYS = (0x0112, 3, 1, b"\0\6\0\0")


def test_decode_rejects_more_than_64_megapixels() -> None:
    """The header claims the pixels and the file holds none, so that nothing large is allocated."""
    data = PNG + ihdr(8193, 8192, colour=0) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(InvalidRequest, match="8193 x 8192 pixels; at most 64 megapixels"):
        decode_portrait(data, 1080, 1920)


# -- what a bundle holds


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (33, 47), (301, 203)])
def test_prepare_portrait_keeps_every_pixel(size: tuple[int, int]) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for pixels in (noise, np.zeros_like(noise), np.asarray(DRAWN.resize(size)), noise[:, ::-1]):
        prepared = prepare_portrait(pixels)
        with Image.open(io.BytesIO(prepared.png)) as stored:
            stored.load()
            assert (stored.format, stored.mode, stored.size, stored.info) == ("PNG", "RGB", size, {})
            assert np.array_equal(np.asarray(stored), pixels)
        assert (prepared.width, prepared.height) == size
        assert np.array_equal(decoded(prepared.png), pixels)


# -- orientation


@pytest.mark.parametrize(
    "odd",
    [
        (0x0128, 2, 4, b"abc\0"),  # a resolution unit that is text
        (0x011A, 2, 4, b"abc\0"),  # a resolution that is text
        (0x011B, 7, 4, b"\1\2\3\4"),  # a resolution of undefined type
        (0x0213, 1, 1, b"\1\0\0\0"),  # YCbCr positioning as a byte
        (0x0214, 10, 1, b"\0\0\0\x08"),  # signed rationals instead of unsigned
        (0x8825, 4, 1, b"\0\0\0\x08"),  # a GPS directory that is the main directory
        (0x9999, 12, 1, b"\xff\xff\xff\xff"),  # a value outside the block
    ],
)
def test_decode_turns_photo_upright_despite_odd_exif(odd: tuple[int, int, int, bytes]) -> None:
    exif = exif_block(SIDEWAYS, odd)
    jpeg = encoded()
    for data in (
        jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif) + jpeg[2:],
        encoded(image_format="WEBP", exif=exif),
        (png := encoded(image_format="PNG"))[:33] + chunk(b"eXIf", exif) + png[33:],
    ):
        assert decoded(data).shape == (300, 400, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_applies_every_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
    stored.putpixel((5, 5), (255, 0, 0))
    for image_format in ("PNG", "WEBP"):
        data = encoded(stored, image_format, exif=exif, **({"lossless": True} if image_format == "WEBP" else {}))
        turns = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.transpose(1, 0, 2)]
        turns += [lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).transpose(1, 0, 2), np.rot90]
        assert np.array_equal(decoded(data), turns[orientation - 1](np.asarray(stored)))


def test_decode_ignores_orientation_in_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:Description tiff:Orientation="6"/></x:xmpmeta>'
    jpeg = encoded()
    data = jpeg[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) + jpeg[2:]
    assert decoded(data).shape == decoded(encoded(image_format="WEBP", xmp=xmp)).shape == (400, 300, 3)


# -- JPEGs that end early


def test_decode_accepts_jpeg_without_end_marker() -> None:
    for options in ({}, {"progressive": True}):
        data = encoded(**options)
        assert data.endswith(b"\xff\xd9")
        trailers = (b"trailing bytes of a camera", segment(0xE5, b"maker note"), b"SEFH\xff\xe1\xff\xffSEFT")
        for tail in (b"", *trailers):
            assert np.array_equal(decoded(data[:-2] + tail), decoded(data))


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff\xd9" + encoded()])
def test_decode_rejects_jpeg_cut_in_the_middle(part: float, progressive: bool, end: bytes) -> None:
    noisy = Image.blend(DRAWN, Image.effect_noise(DRAWN.size, 80).convert("RGB"), 0.2)
    for image in (noisy, noisy.convert("L"), noisy.convert("CMYK")):
        data = encoded(image, progressive=progressive)
        with pytest.raises(InvalidRequest, match="incomplete"):
            decoded(data[: int(len(data) * part)] + end)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_decode_rejects_progressive_jpeg_cut_between_scans(end: bytes) -> None:
    """With an end marker, the cut must show in the pixels: between scans nothing is missing but sharpness."""
    data = encoded(progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for at in scans[1:]:
        for cut in (at + 4, at + 12, at + 20):
            with pytest.raises(InvalidRequest, match="incomplete"):
                decoded(data[:cut] + end)


def test_decode_accepts_whole_picture_that_ends_grey() -> None:
    for mode in ("RGB", "L", "CMYK"):
        grey = Image.new("RGB", (100, 90), (128, 128, 128)).convert(mode)
        assert decoded(encoded(grey)).shape == decoded(encoded(grey, progressive=True)).shape == (90, 100, 3)


def test_decode_counts_scans_in_the_picture_alone() -> None:
    data = encoded(Image.new("RGB", (3000, 3000), "#123456"), progressive=True)
    assert decoded(data + b"\xff\xda\0\x0c" * 1000).shape[2] == 3
    first_scan = data.index(b"\xff\xda")
    many = data[:first_scan] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 1000 + data[first_scan:]
    with pytest.raises(InvalidRequest, match="too many scans"):
        decoded(many)


# -- PNGs


def with_chunk(data: bytes, extra: bytes) -> bytes:
    return data[:33] + extra + data[33:]


@pytest.mark.parametrize("kind", [b"tEXt", b"gAMA", b"iCCP", b"eXIf", b"tRNS", b"teSt"])
def test_decode_ignores_ancillary_chunk_with_wrong_checksum(kind: bytes) -> None:
    data = encoded(image_format="PNG")
    assert np.array_equal(decoded(with_chunk(data, chunk(kind, bytes(6), crc=1))), np.asarray(DRAWN))


def test_decode_ignores_text_bomb() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 * 1024 * 1024)))
    assert np.array_equal(decoded(with_chunk(encoded(image_format="PNG"), bomb)), np.asarray(DRAWN))


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key"),
    [
        (16, 0, b"\x12\x34\x12\x35", b"\x12\x34"),
        (8, 0, b"\x12\x13", b"\0\x12"),
        (4, 0, b"\x34", b"\0\x03"),
        (2, 0, b"\x60", b"\0\x01"),
        (1, 0, b"\x40", b"\0\0"),
        (16, 2, b"\x12\x34\xfe\xdc\x12\x34" + b"\x13\x34\xfe\xdc\x12\x34", b"\x12\x34\xfe\xdc\x12\x34"),
        (8, 2, b"\x12\xfe\x12" + b"\x13\xfe\x12", b"\0\x12\0\xfe\0\x12"),
    ],
)
def test_decode_puts_transparent_colour_on_white(bits: int, colour: int, row: bytes, key: bytes) -> None:
    """Of two pixels the first has the transparent colour."""
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    data = PNG + ihdr(2, 1, bits, colour) + chunk(b"tRNS", key) + pixels + chunk(b"IEND", b"")
    first, second = decoded(data)[0]
    assert (first == 255).all()
    assert (second != 255).any() or bits == 1


def test_decode_shows_first_frame_of_animation_with_hidden_default_image() -> None:
    def frame(number: int, colour: bytes) -> bytes:
        control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number, 4, 4, 0, 0, 1, 10, 0, 0))
        pixels = zlib.compress((b"\0" + colour * 4) * 4)
        return control + chunk(b"fdAT", struct.pack(">I", 2 * number + 1) + pixels)

    hidden = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\0\0" * 4) * 4))
    frames = frame(0, b"\0\xff\0") + frame(1, b"\0\0\xff")
    animated = PNG + ihdr(4, 4) + chunk(b"acTL", struct.pack(">II", 2, 0)) + hidden + frames + chunk(b"IEND", b"")
    assert (decoded(animated) == (0, 255, 0)).all()
    plain = PNG + ihdr(4, 4) + hidden + frames + chunk(b"IEND", b"")
    assert (decoded(plain) == (255, 0, 0)).all()


# -- what is no JPEG, PNG or WebP


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "HEIC|AVIF"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42", "video"),
        (b"\x1aE\xdf\xa3" + bytes(30), "video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (encoded(DRAWN.quantize(8), "GIF"), "GIF"),
        (encoded(DRAWN, "TIFF"), "TIFF"),
        (b"\n<!DOCTYPE html><title>404</title>", "HTML"),
        (b"<html><body>", "HTML"),
        (b"data:image/png;base64,iVBORw0KGgo=", "data URL"),
        (b"anything else", "not a picture"),
    ],
)
def test_decode_names_the_format_that_it_rejects(data: bytes, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the image is .*({name}).*: send a JPEG, PNG or WebP"):
        decoded(data)


def test_decode_rejects_jpeg_of_12_bits() -> None:
    data = encoded()
    frame = data.index(b"\xff\xc0")
    with pytest.raises(InvalidRequest, match="12 bits"):
        decoded(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
