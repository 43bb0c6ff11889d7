"""decode_portrait and make_thumbnail: colours come out in sRGB."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from opentalking_core.portraits.icc import write_profile
from opentalking_core.portraits.picture import decode_portrait
from opentalking_core.portraits.thumbnails import make_thumbnail

from .helpers.pictures import chunk

if TYPE_CHECKING:
    from collections.abc import Callable

D65 = (0.3127, 0.329)
SRGB = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3 = (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
REC2020 = (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)

#: Colours that all these colour spaces share.
COLOURS = np.array(
    [(200, 120, 90), (90, 60, 50), (120, 130, 140), (230, 220, 200), (70, 90, 60), (12, 14, 16)], np.uint8
)
PICTURE = Image.fromarray(np.repeat(COLOURS[None], 8, axis=0).repeat(8, axis=1))


def to_linear(encoded: Any) -> Any:
    encoded = np.asarray(encoded, float) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Any) -> Any:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def matrix(chromaticities: tuple[float, ...]) -> Any:
    """Return the matrix from linear RGB to XYZ of colour spaces that all have the white D65."""
    white, *primaries = ((x / y, 1, (1 - x - y) / y) for x, y in np.reshape(chromaticities, (4, 2)))
    columns = np.array(primaries).T
    return columns * np.linalg.solve(columns, white)


def expected(chromaticities: tuple[float, ...], linear: Any) -> Any:
    return to_srgb(linear @ (np.linalg.inv(matrix(SRGB)) @ matrix(chromaticities)).T)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def with_chunks(*chunks: bytes, image: Image.Image = PICTURE) -> bytes:
    data = encoded(image, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def colours(data: bytes) -> Any:
    """Return the colour in the middle of each patch."""
    return decode_portrait(data, 1080, 1920)[4, 4::8].astype(float)


def icc(chromaticities: tuple[float, ...] | None, curve: Callable[[Any], Any] = lambda v: to_linear(255 * v)) -> bytes:
    return write_profile(curve(np.linspace(0, 1, 1024)), chromaticities)


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(chromaticities: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in chromaticities)))


SRGB_CHUNK = chunk(b"sRGB", b"\0")
FROM_P3 = expected(P3, to_linear(COLOURS))
FROM_2020 = expected(REC2020, to_linear(COLOURS))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
@pytest.mark.parametrize("space", [P3, REC2020])
def test_decode_converts_profile_of_rgb(image_format: str, options: Any, space: tuple[float, ...]) -> None:
    found = colours(encoded(PICTURE, image_format, icc_profile=icc(space), **options))
    assert np.abs(found - expected(space, to_linear(COLOURS))).max() < (4 if image_format == "JPEG" else 1.5)


def test_decode_converts_profile_of_grey() -> None:
    grey = Image.fromarray(np.array([[40, 90, 150, 220]], np.uint8).repeat(8, 0).repeat(8, 1))
    profile = icc(None, lambda value: value**1.8)
    for data in (encoded(grey, "PNG", icc_profile=profile), encoded(grey, "JPEG", quality=100, icc_profile=profile)):
        assert colours(data)[:, 0] == pytest.approx(to_srgb((np.array([40, 90, 150, 220]) / 255) ** 1.8), abs=1.5)


def test_decode_converts_profile_of_transparent_png() -> None:
    picture = PICTURE.copy()
    picture.putalpha(255)
    picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
    found = colours(encoded(picture, "PNG", icc_profile=icc(P3)))
    assert found[0] == pytest.approx((255, 255, 255))
    assert np.abs(found[1:] - FROM_P3[1:]).max() < 1.5


@pytest.mark.parametrize(
    ("chunks", "result"),
    [
        ((chunk(b"cICP", bytes((12, 13, 0, 1))), iccp(icc(REC2020)), SRGB_CHUNK), FROM_P3),
        ((chunk(b"cICP", bytes((1, 13, 0, 1))), iccp(icc(REC2020))), COLOURS),
        ((chunk(b"cICP", bytes((12, 13, 1, 1))), iccp(icc(REC2020))), FROM_2020),  # a matrix: no RGB
        ((chunk(b"cICP", bytes((99, 13, 0, 1))), iccp(icc(REC2020))), FROM_2020),  # unknown primaries
        ((iccp(icc(P3)), SRGB_CHUNK, gama(1)), FROM_P3),
        ((SRGB_CHUNK, gama(1.0), chrm(P3)), COLOURS),
        ((gama(1 / 2.2), chrm(P3)), FROM_P3),
        ((chrm(P3),), FROM_P3),
        ((gama(1 / 2.2),), COLOURS),
        ((gama(1 / 1.8),), 255 * (COLOURS / 255) ** (1.8 / 2.2)),
        ((gama(0),), COLOURS),
        ((chrm((0,) * 8),), COLOURS),
        ((), COLOURS),
    ],
)  # fmt: skip
def test_decode_png_colour_chunks_win_in_the_order_of_the_specification(chunks: tuple[bytes, ...], result: Any) -> None:
    assert np.abs(colours(with_chunks(*chunks)) - result).max() < 1.6


def test_decode_hdr_png_keeps_white_white() -> None:
    """58 % of PQ are 203 cd/m2, the white of an HDR picture."""
    white = Image.new("RGB", (8, 8), (148, 148, 148))
    assert colours(with_chunks(chunk(b"cICP", bytes((9, 16, 0, 1))), image=white))[0] == pytest.approx(
        (255,) * 3, abs=4
    )


@pytest.mark.parametrize(
    "profile",
    [b"", b"\xff" * 500, icc(P3)[:200], icc(None), ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
)
def test_decode_ignores_broken_profile_and_profile_of_another_space(profile: bytes) -> None:
    for data in (with_chunks(iccp(profile)), encoded(PICTURE, "PNG", icc_profile=profile)):
        assert np.array_equal(colours(data), COLOURS)


def test_decode_does_not_touch_srgb() -> None:
    own = icc(SRGB)
    littlecms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, littlecms):
        assert np.array_equal(colours(encoded(PICTURE, "PNG", icc_profile=profile)), COLOURS)


def test_thumbnail_is_in_srgb_and_stays_transparent() -> None:
    picture = PICTURE.copy()
    picture.putalpha(255)
    picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
    for image_format in ("PNG", "WEBP"):
        data = make_thumbnail(encoded(picture, "PNG", icc_profile=icc(P3)), 24, image_format)  # type: ignore[arg-type]
        assert data is not None
        thumbnail = Image.open(io.BytesIO(data))
        assert (thumbnail.mode, thumbnail.size) == ("RGBA", (24, 4))
        pixels = np.asarray(thumbnail)
        assert pixels[2, 1, 3] < 4
        assert np.abs(pixels[2, 5::4, :3].astype(float) - FROM_P3[1:]).mean() < 8
