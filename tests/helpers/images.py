"""Encoded images for tests."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping

#: By EXIF orientation: how a camera stores an upright picture.
STORED_AS: Mapping[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Encode an image with Pillow; the options are Pillow's."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()
