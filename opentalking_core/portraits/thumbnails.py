"""Thumbnails: smaller copies of stored previews."""

from __future__ import annotations

import io
from typing import Literal

from .picture import open_picture

ThumbnailFormat = Literal["PNG", "WEBP"]

#: The format's own limit.
MAX_WEBP_SIDE_PIXELS = 16383


def make_thumbnail(data: bytes, width: int, image_format: ThumbnailFormat) -> bytes | None:
    """Return a stored preview, upright and in sRGB, at most `width` pixels wide, in its proportions.

    Returns:
        The encoded picture, transparent where the preview is. None if the preview is good enough as it is: not wider,
        and a PNG was asked for.

    Raises:
        InvalidRequest: the preview can't be decoded.
    """
    with open_picture(data) as picture:
        original_width, original_height = picture.size
        if original_width <= width:
            if image_format == "PNG" or original_height > MAX_WEBP_SIDE_PIXELS:
                return None
            width = original_width
        thumbnail = picture.render((width, max(1, round(original_height * width / original_width))))
    file = io.BytesIO()
    # Method 2 of 6 encodes a thumbnail in a few milliseconds, within a few percent of the default's size.
    options = {"quality": 80, "method": 2} if image_format == "WEBP" else {}
    thumbnail.save(file, image_format, **options)
    return file.getvalue()
