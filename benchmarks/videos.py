"""A video for the benchmark, and the loop that it is compared with: OpenCV, MediaPipe and JPEG, frame by frame."""

from __future__ import annotations

import functools
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import cv2  # type: ignore[import-not-found, unused-ignore]  # MediaPipe brings it
import httpx
import numpy as np
from opentalking_mediapipe_mouth import model_file
from opentalking_mediapipe_mouth.landmarker import Landmarker

from opentalking_core.portraits.drawn import draw_portrait

from .bundles import BASE

if TYPE_CHECKING:
    from pathlib import Path

FRAMES, FPS, WIDTH, HEIGHT = 125, 24, 720, 1280


def write_video(path: Path) -> None:
    """Write a drawn person who speaks and moves: H.264, 125 frames of 720x1280 pixels, 24 per second."""
    random = np.random.default_rng(1)
    drawn = [np.asarray(draw_portrait(WIDTH, HEIGHT, mouth_open=step / 5).image) for step in range(6)]
    mouths = [*drawn, *drawn[-2:0:-1]]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            moved = np.roll(mouths[number % len(mouths)], round(20 * np.sin(number / 12)), axis=1)
            grainy = (moved + random.normal(0, 3, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grainy, format="rgb24")))
        container.mux(stream.encode(None))


def post(port: int, video: Path) -> float:
    """Make an avatar of the video, and return the seconds that the request took."""
    form = {"name": "Bench", "base_avatar_id": BASE}
    with video.open("rb") as file:
        started = time.perf_counter()
        url = f"http://127.0.0.1:{port}/avatars/custom"
        answer = httpx.post(url, data=form, files={"video": file}, timeout=600, trust_env=False)
    answer.raise_for_status()
    return time.perf_counter() - started


def opencv_loop(video: Path) -> float:
    """Decode the video, locate the mouth and encode a JPEG for each frame, one after the other; return the seconds."""
    landmarker = _landmarker()
    started = time.perf_counter()
    capture = cv2.VideoCapture(str(video))
    found = 0
    while (read := capture.read())[0]:
        found += bool(landmarker.find_meshes(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)))
        cv2.imencode(".jpg", read[1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    seconds = time.perf_counter() - started
    assert found == FRAMES, f"a mouth in {found} of {FRAMES} frames"
    return seconds


@functools.cache
def _landmarker() -> Landmarker:
    model = model_file.read()
    assert model is not None, "run `opentalking-core models fetch`"
    return Landmarker(model)
