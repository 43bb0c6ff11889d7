"""Every hostile picture becomes an avatar or is refused, in bounded time and memory, and the service keeps working."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

from PIL import Image

from opentalking_core.testing.running import running_service

from .helpers.pictures import hostile_pictures

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from opentalking_core.testing.fixtures import StoredFiles

#: A detector that writes down the peak memory of its worker process, in KiB. That process decodes all pictures.
DETECTOR = """
import os, pathlib, resource
from opentalking_core import hookimpl

@hookimpl
def detect_mouth(image):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pathlib.Path({folder!r}, str(os.getpid())).write_text(str(peak))
"""


def test_upload_of_hostile_pictures_never_harms_the_service(
    store_url: str,
    base: str,
    portrait: bytes,
    stored_files: StoredFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (peaks := tmp_path / "peaks").mkdir()
    detector = tmp_path / "detector.py"
    detector.write_text(textwrap.dedent(DETECTOR).format(folder=str(peaks)))
    wrong = {}
    accepted = []
    with running_service(store_url, plugin_files=[detector], portrait_workers=1, portrait_time_limit=20) as service:

        def upload(image: bytes) -> dict[str, object]:
            form = {"name": (None, "A"), "base_avatar_id": (None, base), "image": ("a.jpg", image)}
            answer = service.post("/avatars/custom", files=form)
            return {"status": answer.status_code, **answer.json()}

        for what, image in hostile_pictures():
            answer = upload(image)
            if answer["status"] == 200:
                accepted.append(answer)
            elif answer["status"] != 400 or "\n" in str(answer["detail"]):
                wrong[what] = answer
        assert upload(portrait)["status"] == 200
    assert not wrong
    assert accepted
    for answer in accepted[:: len(accepted) // 10]:
        with Image.open(io.BytesIO(stored_files(str(answer["id"]))["preview.png"])) as stored:
            stored.load()
            assert (stored.format, stored.mode, stored.size) == ("PNG", "RGB", (answer["width"], answer["height"]))
            assert not stored.info, "the upload's metadata was kept"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    (peak,) = peaks.iterdir()  # a single file: no worker had to be replaced
    assert int(peak.read_text()) < 2 * 1024**2
