"""Thumbnails: smaller copies of stored previews."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

from .picture import MAX_PIXELS, decode_portrait

ThumbnailFormat = Literal["PNG", "WEBP"]


def make_thumbnail(data: bytes, width: int, image_format: ThumbnailFormat) -> bytes | None:
    """Encode a smaller copy of a preview, with the preview's proportions.

    Args:
        data: the preview.
        width: of the copy, in pixels.
        image_format: of the copy.

    Returns:
        None if the preview isn't wider than `width`.

    Raises:
        InvalidRequest: the preview can't be decoded.
    """
    original = decode_portrait(data, MAX_PIXELS, MAX_PIXELS)
    if original.shape[1] <= width:
        return None
    height = max(1, round(original.shape[0] * width / original.shape[1]))
    thumbnail = Image.fromarray(original).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    # WebP's method 2 of 6 encodes a thumbnail in a few milliseconds, within a few percent of the default's size.
    options = {"quality": 80, "method": 2} if image_format == "WEBP" else {}
    thumbnail.save(file, image_format, **options)
    return file.getvalue()
