"""Makes schemathesis send readable pictures."""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.transport.serialization import Binary


def encoded(file_format: str) -> Binary:
    file = io.BytesIO()
    Image.new("RGB", (40, 60), "teal").save(file, file_format)
    return Binary(file.getvalue())


schemathesis.openapi.format("binary", st.sampled_from([encoded(name) for name in ("JPEG", "PNG", "WEBP")]))
