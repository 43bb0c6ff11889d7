"""Makes schemathesis send readable pictures and videos."""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.transport.serialization import Binary


def encoded(file_format: str) -> Binary:
    file = io.BytesIO()
    Image.new("RGB", (40, 60), "teal").save(file, file_format)
    return Binary(file.getvalue())


sys.path.append(str(Path(__file__).parent / "helpers"))
from videos import make_video  # noqa: E402 - schemathesis imports this file on its own


def encoded_video() -> Binary:
    with tempfile.TemporaryDirectory() as folder:
        frames = [np.full((60, 40, 3), grey, np.uint8) for grey in (0, 100, 200)]
        return Binary(make_video(Path(folder, "grey.mp4"), frames).read_bytes())


schemathesis.openapi.format("binary", st.sampled_from([encoded(name) for name in ("JPEG", "PNG", "WEBP")]))

VIDEO = encoded_video()


@schemathesis.hook
def before_call(context: object, case: schemathesis.Case, kwargs: object) -> None:
    """Replace a picture that is sent as a video, unless the request is meant to be wrong."""
    is_positive = case.meta is not None and case.meta.generation.mode.is_positive
    if is_positive and isinstance(case.body, dict) and isinstance(case.body.get("video"), Binary):
        case.body["video"] = VIDEO
