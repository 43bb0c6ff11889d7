"""Decode portraits to upright RGB pictures of bounded size, and encode them for bundles and for galleries."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from ..errors import InvalidRequest
from .colour import profile_of_png, to_srgb
from .formats import foreign_format
from .jpeg import JPEGFile, read_jpeg
from .png import SIGNATURE as PNG_SIGNATURE
from .png import PNGFile, read_png
from .png_writer import encode_png

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Pictures with more pixels are refused before they are decoded: a phone's 64-megapixel photo still passes.
MAX_PIXELS = 64 * 1024 * 1024

#: A progressive JPEG goes over its pixels once for each scan. Encoders make ten scans, attackers 300,000.
_MAX_SCANNED_PIXELS = 16 * MAX_PIXELS

_ORIENTATION_TAG = 0x0112

#: How to turn a picture upright, by its EXIF orientation.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_portrait(data: bytes, max_width: int, max_height: int) -> NDArray[np.uint8]:
    """Decode an uploaded picture: upright, in sRGB, on white where it is transparent, shrunk to fit.

    Args:
        data: the bytes of a JPEG, PNG or WebP. Of an animation, the first frame is taken.
        max_width: in pixels. The picture is shrunk to fit, keeps its proportions and is never enlarged.
        max_height: in pixels.

    Returns:
        RGB, uint8, shape (height, width, 3), C-contiguous.

    Raises:
        InvalidRequest: empty, not one of the formats, broken, or more than MAX_PIXELS.
        MemoryError: decoding needs more memory than this process may use.
    """
    with open_picture(data) as picture:
        width, height = picture.size
        scale = min(max_width / width, max_height / height, 1.0)
        upright = picture.render((max(1, round(width * scale)), max(1, round(height * scale))))
        if upright.mode == "RGBA":
            opaque = Image.new("RGB", upright.size, "white")
            opaque.paste(upright, mask=upright.getchannel("A"))
            upright = opaque
        return np.asarray(upright)


@contextlib.contextmanager
def open_picture(data: bytes) -> Iterator[Picture]:
    """Open an encoded picture. Any error while it is decoded becomes InvalidRequest."""
    if not data:
        raise InvalidRequest("the image is empty: send a JPEG, PNG or WebP picture")
    try:
        with contextlib.ExitStack() as stack:
            # Ignored are warnings of damaged metadata, and of sizes, which are checked here.
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            yield stack.enter_context(contextlib.closing(Picture(data)))
    except (InvalidRequest, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InvalidRequest(
            f"the image has too many pixels; at most {MAX_PIXELS // 1024**2} megapixels are accepted"
        ) from None
    except UnidentifiedImageError:
        raise InvalidRequest("the image is not a picture that can be read: send a JPEG, PNG or WebP") from None
    except Exception as error:  # hostile bytes make decoders raise many types, struct.error among them
        raise InvalidRequest(f"the image is damaged or incomplete and can't be decoded ({error})") from None


class Picture:
    """An encoded picture whose header has been read.

    Args:
        data: the bytes of a JPEG, PNG or WebP.
    """

    def __init__(self, data: bytes) -> None:
        self._jpeg: JPEGFile | None = None
        self._png: PNGFile | None = None
        if data.startswith(b"\xff\xd8"):
            self._jpeg = _checked_jpeg(data)
            self._image = _open_image(self._jpeg.data, "JPEG")
            exif, self._profile = self._jpeg.exif, self._jpeg.icc_profile
        elif data.startswith(PNG_SIGNATURE):
            self._png = read_png(data)
            self._image = _open_image(self._png.data, "PNG")
            exif, self._profile = self._png.exif, profile_of_png(self._png)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            self._image = _open_image(data, "WEBP")
            exif = self._image.info.get("exif", b"").removeprefix(b"Exif\0\0")
            self._profile = self._image.info.get("icc_profile", b"")
        else:
            name = foreign_format(data) or "not a picture that can be read"
            raise InvalidRequest(f"the image is {name}: send a JPEG, PNG or WebP")
        self._orientation = _orientation(exif)
        width, height = self._image.size
        if width * height > MAX_PIXELS:
            raise InvalidRequest(
                f"the image has {width} x {height} pixels; at most {MAX_PIXELS // 1024**2} megapixels are accepted"
            )
        if self._jpeg is not None and self._jpeg.scans > 1 and self._jpeg.scans * width * height > _MAX_SCANNED_PIXELS:
            raise InvalidRequest("the image has too many scans for its size: save it as an ordinary JPEG")

    def close(self) -> None:
        self._image.close()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture in pixels."""
        width, height = self._image.size
        return (height, width) if self._is_sideways else (width, height)

    @property
    def _is_sideways(self) -> bool:
        return self._orientation >= 5

    def render(self, size: tuple[int, int]) -> Image.Image:
        """Return the upright picture in sRGB, shrunk to `size`: RGB, or RGBA if it is transparent."""
        stored_size = size[::-1] if self._is_sideways else size
        image = self._load(stored_size)
        if image.size != stored_size:
            image = image.resize(stored_size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        if image.mode in ("LA", "RGBA"):
            *colours, alpha = image.split()
            image = to_srgb(Image.merge(image.mode[:-1], colours), self._profile)
            image.putalpha(alpha)
        else:
            image = to_srgb(image, self._profile)
        turn = _TRANSPOSITIONS.get(self._orientation)
        return image if turn is None else image.transpose(turn)

    def _load(self, size: tuple[int, int]) -> Image.Image:
        """Return the decoded pixels, at `size` or larger, as L, LA, RGB, RGBA or CMYK."""
        if self._jpeg is not None:
            # A JPEG far larger than needed is decoded at 1/2, 1/4 or 1/8: faster, and it never exists in full.
            self._image.draft("RGB", size)
            self._image.load()
            _check_completeness(self._jpeg, self._image, size)
        elif self._png is not None:
            if self._png.shows_second_frame:
                self._image.seek(1)
            if self._png.transparent is not None:
                return _with_transparent_colour(self._image, self._png.transparent, self._png.bits)
        return _in_plain_mode(self._image)


def _open_image(data: bytes, image_format: str) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=(image_format,))


def _checked_jpeg(data: bytes) -> JPEGFile:
    jpeg = read_jpeg(data)
    if jpeg.bits != 8:
        raise InvalidRequest(
            f"the image is a JPEG with {jpeg.bits} bits per channel, which can't be read: save it with 8 bits"
        )
    if jpeg.lacks_scans:
        raise InvalidRequest("the image is incomplete: the file ends before its last scan")
    return jpeg


def _check_completeness(jpeg: JPEGFile, image: Image.Image, size: tuple[int, int]) -> None:
    """Raise InvalidRequest if the file ends in the middle of its pixels; an end marker may follow there all the same.

    The decoder fills missing pixels with grey. So where the last pixel is grey, or scans refine each other, the picture
    is decoded once more, with other pixels in the place of missing ones.
    """
    last_pixel = image.getpixel((image.width - 1, image.height - 1))
    channels = last_pixel if isinstance(last_pixel, tuple) else (last_pixel,)
    is_grey = all(value is not None and 126 <= value <= 129 for value in channels)
    if not jpeg.can_be_verified or not (is_grey or jpeg.scans > 1):
        return
    with _open_image(jpeg.with_filler, "JPEG") as other:
        other.draft("RGB", size)
        if other.size != image.size or ImageChops.difference(image, other).getbbox() is not None:
            raise InvalidRequest("the image is damaged or incomplete: the file ends in the middle of its pixels")


def _orientation(exif: bytes) -> int:
    """Return EXIF's orientation, 1 to 8. Damaged EXIF is no reason to refuse a picture."""
    try:
        block = Image.Exif()
        block.load(exif)
        orientation = block.get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _in_plain_mode(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it to white
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _with_transparent_colour(image: Image.Image, colour: tuple[int, ...], bits: int) -> Image.Image:
    """Return the picture with an alpha channel.

    Args:
        image: grey or RGB.
        colour: which is transparent, in values of `bits` bits.
        bits: of each channel in the file. Pillow decodes 16-bit RGB to its high bytes.
    """
    image.load()
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != colour[0]
    elif len(colour) == 1:
        opaque = np.asarray(image.convert("L")) != colour[0] * 255 // (2**bits - 1)
    else:
        key = [value >> 8 if bits == 16 else value for value in colour]
        opaque = (np.asarray(image.convert("RGB")) != key).any(axis=-1)
    plain = _in_plain_mode(image)
    plain.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return plain


class PreparedPortrait(NamedTuple):
    """The PNG that a bundle holds, its SHA-256 in hexadecimal digits, and its size in pixels."""

    png: bytes
    sha256: str
    width: int
    height: int


def prepare_portrait(pixels: NDArray[np.uint8]) -> PreparedPortrait:
    """Encode `pixels` (RGB, uint8, (height, width, 3)) for a bundle."""
    png = encode_png(pixels)
    return PreparedPortrait(png, hashlib.sha256(png).hexdigest(), *measure_size(pixels))


def measure_size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the (width, height) of a picture in pixels."""
    height, width, _ = pixels.shape
    return width, height
