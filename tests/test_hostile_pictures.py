"""Every hostile picture is made an avatar or refused, in bounded time and memory, and the service goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import resource
from typing import TYPE_CHECKING

from PIL import Image

from opentalking_core.errors import InvalidRequest
from opentalking_core.portrait import decode_portrait
from opentalking_core.testing.running import running_service
from opentalking_core.workers import WorkerPool

from .hostile_pictures import hostile_pictures

if TYPE_CHECKING:
    import pytest

    from opentalking_core.testing.fixtures import StoredFiles


def test_hostile_pictures(
    store_url: str, base: str, portrait: bytes, stored_files: StoredFiles, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {}
    accepted = []
    with running_service(store_url, portrait_workers=2, portrait_time_limit=15) as service:

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
            assert not stored.info, "nothing of the upload's metadata is kept"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _peak_of_decoding(image: bytes) -> int:
    """This process' largest resident memory so far, in bytes, with the picture decoded."""
    with contextlib.suppress(InvalidRequest):
        decode_portrait(image, 1080, 1920)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_memory_stays_bounded() -> None:
    async def main() -> None:
        pool = WorkerPool(1, 30)
        try:
            for what, image in hostile_pictures():
                if any(word in what for word in ("megapixels", "bomb", "MiB")):
                    assert await pool.run(_peak_of_decoding, image) < 2 * 1024**3, what
        finally:
            await pool.close()

    asyncio.run(main())
