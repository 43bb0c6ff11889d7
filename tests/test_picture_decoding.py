"""decode_portrait: which pictures are accepted, and which pixels come out."""

from __future__ import annotations

import zlib

import pytest

from opentalking_core.errors import InvalidRequest
from opentalking_core.portraits.picture import decode_portrait

from .helpers.pictures import PNG, chunk, ihdr


def test_decode_rejects_more_than_64_megapixels() -> None:
    """The header claims the pixels and the file holds none, so that nothing large is allocated."""
    data = PNG + ihdr(8193, 8192, colour=0) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(InvalidRequest, match="8193 x 8192 pixels; at most 64 megapixels"):
        decode_portrait(data, 1080, 1920)
