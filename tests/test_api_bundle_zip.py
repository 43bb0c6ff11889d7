"""GET /avatars/{id}/bundle.zip: the bundle as it is stored, in one version, or an answer that is visibly broken off."""

from __future__ import annotations

import io
import random
import threading
import zipfile
from typing import TYPE_CHECKING

import httpx
import pytest

from opentalking_core import bundle_files
from opentalking_core.errors import StoreUnavailable

from .helpers.http import ask, let_tags_settle
from .helpers.stores import WatchedStore, serve, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentalking_core.bundles.store import FileInfo
    from opentalking_core.testing.fixtures import PutBundle, StoredFiles

    from .conftest import DeleteBundle, PostPortrait

MiB = 1024 * 1024
LARGE = random.Random(1).randbytes(5 * MiB + 77)
FILES = {"preview.png": b"png", "source/影片.mp4": LARGE, "empty.txt": b""} | {
    f"frames/帧 {number:05}.png": random.Random(number).randbytes(30_000) for number in range(60)
}
URL = "/avatars/anna/bundle.zip"


def unpacked(data: bytes, avatar_id: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert found.testzip() is None
        names = found.namelist()
        assert len(set(names)) == len(names)
        assert all(name.startswith(f"{avatar_id}/") for name in names)
        return {name.removeprefix(f"{avatar_id}/"): found.read(name) for name in names}


@pytest.mark.parametrize("avatar_id", ["anna", "安娜"])
def test_archive_holds_the_bundle(
    service: httpx.Client, put_bundle: PutBundle, stored_files: StoredFiles, avatar_id: str
) -> None:
    put_bundle(avatar_id, files=FILES)
    answer = service.get(f"/avatars/{avatar_id}/bundle.zip")
    assert answer.status_code == 200
    assert unpacked(answer.content, avatar_id) == stored_files(avatar_id)
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Accept-Ranges"] == "none"
    saved_as = {"anna": "filename=\"anna.zip\"; filename*=UTF-8''anna.zip"}
    saved_as["安娜"] = "filename=\"__.zip\"; filename*=UTF-8''%E5%AE%89%E5%A8%9C.zip"
    assert answer.headers["Content-Disposition"] == f"attachment; {saved_as[avatar_id]}"


def test_archive_of_a_new_avatar_is_complete(service: httpx.Client, post_portrait: PostPortrait) -> None:
    """Right after the creation, a folder gives each file another tag at each look."""
    avatar_id = post_portrait().json()["id"]
    files = unpacked(service.get(f"/avatars/{avatar_id}/bundle.zip").content, avatar_id)
    assert {"manifest.json", "preview.png", "reference.png"} <= set(files)


def test_archive_is_the_same_until_the_bundle_changes(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    put_bundle("anna", files=FILES)
    first, second = ask(service, URL), ask(service, URL)
    assert first.body == second.body
    tag = first.headers["etag"]
    assert second.headers["etag"] == tag
    future = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert ask(service, URL, future).status == 200, "a file can be removed without a later time elsewhere"
    known = ask(service, URL, {"If-None-Match": tag})
    assert (known.status, known.body) == (304, b"")
    delete_bundle("anna")
    put_bundle("anna", files={**FILES, "preview.png": b"PNG"})
    changed = ask(service, URL, {"If-None-Match": tag})
    assert changed.status == 200
    assert changed.headers["etag"] != tag
    assert unpacked(changed.body, "anna")["preview.png"] == b"PNG"


def test_head_of_an_archive_announces_its_length(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files=FILES)
    let_tags_settle()
    head, whole = ask(service, URL, method="HEAD"), ask(service, URL)
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "etag", "content-type", "content-disposition"):
        assert head.headers[name] == whole.headers[name]


def test_range_of_an_archive_is_ignored(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files=FILES)
    answer = ask(service, URL, {"Range": "bytes=0-9"})
    assert answer.status == 200
    assert len(answer.body) == int(answer.headers["content-length"])


@pytest.mark.parametrize("change", ["deleted", "replaced", "store down"])
def test_bundle_that_changes_meanwhile_breaks_the_answer_off(change: str, caplog: pytest.LogCaptureFixture) -> None:
    store, last = WatchedStore(), "anna/frames/帧 00059.png"
    store.put("anna", files=FILES)
    broken: list[Exception] = []

    def get() -> None:
        try:
            client.get(URL)
        except httpx.RemoteProtocolError as error:
            broken.append(error)

    with serve(store) as client:
        with store.holding(f"open {last}") as hold:
            getting = threading.Thread(target=get)
            getting.start()
            wait_until(lambda: hold.waiting)
            if change == "store down":
                store.broken[f"open {last}"] = StoreUnavailable("the store is down")
            else:
                store.take("anna")
            if change == "replaced":
                store.put("anna", files=FILES)
        getting.join()
        store.broken.clear()
        assert "without sending complete message body" in str(broken[0])
        assert client.get("/avatars").status_code == 200
    (said,) = [record.getMessage() for record in caplog.records if "broken off" in record.getMessage()]
    assert said.startswith(f"GET {URL} was broken off: ")
    assert "Traceback" not in caplog.text


def test_bundle_that_never_settles_responds_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_files, "_SECONDS_BETWEEN_LISTS", 0.0)

    class Restless(WatchedStore):
        async def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
            await self.inner.delete(avatar_id)
            await self.inner.create(avatar_id, {"manifest.json": b"{}"})
            async for info in super().files(avatar_id):
                yield info

    store = Restless()
    store.put("anna")
    with serve(store) as client:
        answer = client.get(URL)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert "is being changed" in answer.json()["detail"]


def test_client_that_disconnects_during_an_archive_does_no_harm(
    service: httpx.Client, put_bundle: PutBundle, stored_files: StoredFiles
) -> None:
    put_bundle("anna", files=FILES)
    for _ in range(3):
        with service.stream("GET", URL) as answer:
            next(answer.iter_raw(1000))
    assert unpacked(service.get(URL).content, "anna") == stored_files("anna")
