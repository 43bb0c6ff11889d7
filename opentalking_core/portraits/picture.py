"""Portraits: from uploaded bytes to an upright RGB picture of bounded size, and to the PNG that a bundle holds."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Pictures with more pixels are refused before they are decoded: a phone's 64-megapixel photo still passes.
MAX_PIXELS = 64 * 1024 * 1024

#: A progressive JPEG goes over its pixels once for each scan, of which encoders make ten and attackers 300,000.
_MAX_SCANNED_PIXELS = 32 * MAX_PIXELS

_FORMATS = ("JPEG", "PNG", "WEBP")


def decode_portrait(data: bytes, max_width: int, max_height: int) -> NDArray[np.uint8]:
    """Decode an uploaded picture: upright by its EXIF orientation, on white where transparent, shrunk to fit.

    Args:
        data: the bytes of a JPEG, PNG or WebP; of an animated one the first frame is taken.
        max_width: in pixels; the picture is fitted into it, keeping its shape, never enlarged.
        max_height: likewise.

    Returns:
        RGB, uint8, shape (height, width, 3), C-contiguous.

    Raises:
        InvalidRequest: empty, not one of the formats, broken, or more than MAX_PIXELS.
        MemoryError: this process may not take as much as that needs.
    """
    if not data:
        raise InvalidRequest("the image is empty: send a JPEG, PNG or WebP picture")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # Ignored are warnings of damaged metadata, and of sizes, which are looked at here.
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InvalidRequest(
                    f"the image has {width} x {height} pixels; at most {MAX_PIXELS // 1024**2} megapixels are accepted"
                )
            if "progressive" in image.info and data.count(b"\xff\xda") * width * height > _MAX_SCANNED_PIXELS:
                raise InvalidRequest("the image has too many scans for its size: save it as an ordinary JPEG")
            return np.asarray(_upright_rgb(image, max_width, max_height))
    except (InvalidRequest, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InvalidRequest(
            f"the image has too many pixels; at most {MAX_PIXELS // 1024**2} megapixels are accepted"
        ) from None
    except UnidentifiedImageError:
        raise InvalidRequest("the image is not a picture that can be read: send a JPEG, PNG or WebP") from None
    except Exception as error:  # decoders meet hostile bytes with whatever their code runs into, struct.error included
        raise InvalidRequest(f"the image is damaged or incomplete and can't be decoded ({error})") from None


def _upright_rgb(image: Image.Image, max_width: int, max_height: int) -> Image.Image:
    orientation = _orientation(image)
    sideways = orientation in (5, 6, 7, 8)  # those that swap width and height
    width, height = image.size[::-1] if sideways else image.size
    scale = min(max_width / width, max_height / height, 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # A JPEG far larger than needed is decoded at 1/2, 1/4 or 1/8: faster, and it never exists in full.
    image.draft("RGB", size[::-1] if sideways else size)
    rgb = _to_rgb(image if orientation == 1 else ImageOps.exif_transpose(image))
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF, which is no reason to refuse the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it to white
        grey = np.asarray(image).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    transparent = image.convert("RGBA")
    opaque = Image.new("RGB", transparent.size, "white")
    opaque.paste(transparent, mask=transparent.getchannel("A"))
    return opaque


class PreparedPortrait(NamedTuple):
    """The PNG that a bundle holds, its SHA-256 in hex, and its size in pixels."""

    png: bytes
    sha256: str
    width: int
    height: int


def prepare_portrait(pixels: NDArray[np.uint8]) -> PreparedPortrait:
    """Encode pixels (RGB, uint8, (height, width, 3)) for a bundle."""
    png = encode_png(pixels)
    return PreparedPortrait(png, hashlib.sha256(png).hexdigest(), *measure_size(pixels))


def measure_size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """The (width, height) of a picture in pixels."""
    height, width, _ = pixels.shape
    return width, height


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG of `pixels` (RGB, uint8, (height, width, 3)), without any metadata.

    Level 1 with run-length matching takes a quarter of the time of Pillow's defaults, at the same size for photos.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1, compress_type=3)  # 3: zlib's Z_RLE
    return file.getvalue()
