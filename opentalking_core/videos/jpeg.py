"""Encode frames as JPEG."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encode RGB pixels with chroma at half the resolution: the same bytes as OpenCV's `imwrite` makes."""
    image = Image.fromarray(pixels)
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return buffer.getvalue()
    # Into a file descriptor, Pillow encodes without the interpreter's lock, so that another thread can locate mouths.
    with os.fdopen(os.memfd_create("frame"), "w+b", buffering=0) as file:
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        file.seek(0)
        return file.readall()
