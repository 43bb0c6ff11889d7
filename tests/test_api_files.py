"""GET /avatars/{id}/files, /files/{path} and /preview-video: content, headers, hostile paths, and who may read."""

from __future__ import annotations

import http.client
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pytest

from opentalking_core.hookspecs import hookimpl
from opentalking_core.testing.running import running_service

from .helpers.http import Answer, ask, let_tags_settle
from .helpers.stores import StampedStore, WatchedStore, serve, wait_until

if TYPE_CHECKING:
    import httpx

    from opentalking_core.testing.fixtures import PutBundle, StoredFiles

    from .conftest import DeleteBundle

MiB = 1024 * 1024
LARGE = random.Random(1).randbytes(5 * MiB + 77)
ODD = (
    "a b.png",
    "100%25.png",
    "what?.png",
    "c#d&e=f+g.png",
    "框/帧 1.png",
    "a/b/c/d/e.bin",
    'it\'s "q".txt',
    "a;b.txt",
)
FILES = {"preview.png": b"\x89PNG", "frames/frame_00000.png": b"\x89PNG 0", "source/video.mp4": LARGE, "empty.txt": b""}
KEY = "a-long-key-that-nobody-guesses"
PATHS = ("files", "files/preview.png", "preview-video", "bundle.zip")
SHOWN = {
    "a.png": "image/png", "a.jpg": "image/jpeg", "a.JPEG": "image/jpeg", "a.webp": "image/webp",
    "a.json": "application/json", "a.mp4": "video/mp4", "a.webm": "video/webm", "a.mov": "video/quicktime",
    "a.mkv": "video/x-matroska", "a.wav": "audio/wav", "a.txt": "text/plain; charset=utf-8",
}  # fmt: skip
SAVED = {"a.zip": "application/zip"} | dict.fromkeys(
    ("a.html", "a.htm", "a.xhtml", "a.svg", "a.xml", "a.js", "a.mjs", "a.css", "a.pdf", "a.swf", "a.npy", "a.pkl",
     "a.pt", "html", "a.png.html", "a.html.", "a.html ", "a.svgz"),
    "application/octet-stream",
)  # fmt: skip


@pytest.fixture
def anna(put_bundle: PutBundle) -> None:
    put_bundle("anna", {"metadata": {"source_video": "source/video.mp4"}}, FILES)
    let_tags_settle()


def raw_get(client: httpx.Client, target: str, method: str = "GET") -> Answer:
    """Send a request whose path is sent exactly as it is written here."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=60)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, answer.read())
    finally:
        connection.close()


def test_files_are_listed_by_path_with_their_tags(service: httpx.Client, anna: None, stored_files: StoredFiles) -> None:
    listed = service.get("/avatars/anna/files").json()
    stored = stored_files("anna")
    assert [file["path"] for file in listed] == sorted(stored)
    for file in listed:
        assert set(file) == {"path", "size", "etag", "modified"}
        answer = ask(service, f"/avatars/anna/files/{file['path']}")
        assert answer.body == stored[file["path"]]
        assert file["size"] == len(answer.body)
        assert f'"{file["etag"]}"' == answer.headers["etag"]
        assert file["modified"].endswith("Z")
        age = datetime.now(UTC) - datetime.fromisoformat(file["modified"])
        assert abs(age.total_seconds()) < 86400


def test_list_of_files_responds_304_until_a_file_changes(
    service: httpx.Client, anna: None, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    tag = ask(service, "/avatars/anna/files").headers["etag"]
    assert ask(service, "/avatars/anna/files", {"If-None-Match": tag}).status == 304
    delete_bundle("anna")
    put_bundle("anna", files={"preview.png": b"another"})
    assert ask(service, "/avatars/anna/files", {"If-None-Match": tag}).status == 200


def test_file_of_any_name_is_read(service: httpx.Client, put_bundle: PutBundle) -> None:
    files = {path: path.encode() for path in ODD}
    put_bundle("安娜", files=files)
    assert {file["path"] for file in service.get("/avatars/安娜/files").json()} == {*files, "manifest.json"}
    for path, content in files.items():
        for encoded in (quote(path), quote(path, safe="")):  # generated clients encode the slashes too
            answer = raw_get(service, f"/avatars/{quote('安娜')}/files/{encoded}")
            assert (answer.status, answer.body) == (200, content), encoded


@pytest.mark.parametrize("path", ["manifest.json", "frames/frame_00000.png", "source/video.mp4", "empty.txt"])
def test_file_answers_head_304_and_ranges(
    service: httpx.Client, anna: None, stored_files: StoredFiles, path: str
) -> None:
    content, url = stored_files("anna")[path], f"/avatars/anna/files/{path}"
    for _ in range(2):  # from the store, and from memory
        whole = ask(service, url)
        assert (whole.status, whole.body) == (200, content)
        assert whole.headers["content-length"] == str(len(content))
    head = ask(service, url, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    hop = ("date", "x-request-id")
    assert {k: v for k, v in head.headers.items() if k not in hop} == {
        k: v for k, v in whole.headers.items() if k not in hop
    }
    known = ask(service, url, {"If-None-Match": whole.headers["etag"]})
    assert (known.status, known.body) == (304, b"")
    if content:
        part = ask(service, url, {"Range": "bytes=1-", "If-Range": whole.headers["etag"]})
        assert (part.status, part.body) == (206, content[1:])
        assert part.headers["content-security-policy"] == "sandbox"
    assert ask(service, url, {"Range": f"bytes={len(content)}-"}).status == 416


def test_ranges_of_a_large_file_add_up(service: httpx.Client, anna: None) -> None:
    url, step = "/avatars/anna/files/source/video.mp4", MiB - 5
    parts = [ask(service, url, {"Range": f"bytes={at}-{at + step - 1}"}) for at in range(0, len(LARGE), step)]
    assert {part.status for part in parts} == {206}
    assert b"".join(part.body for part in parts) == LARGE


@pytest.mark.parametrize("name", [*SHOWN, *SAVED])
def test_file_can_not_run_as_a_page(service: httpx.Client, put_bundle: PutBundle, name: str) -> None:
    put_bundle("anna", files={f"page/{name}": b"<script>alert(1)</script>"})
    answer = raw_get(service, f"/avatars/anna/files/page/{quote(name)}")
    assert answer.status == 200
    assert answer.headers["content-type"] == {**SHOWN, **SAVED}[name]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers.get("content-disposition", "").startswith("attachment") == (name in SAVED)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("model.pt", "attachment; filename=\"model.pt\"; filename*=UTF-8''model.pt"),
        ("模型 1.pt", "attachment; filename=\"___1.pt\"; filename*=UTF-8''%E6%A8%A1%E5%9E%8B%201.pt"),
        ('a"; x="b.pt', "attachment; filename=\"a___x__b.pt\"; filename*=UTF-8''a%22%3B%20x%3D%22b.pt"),
    ],
)
def test_file_is_saved_under_its_own_name(service: httpx.Client, put_bundle: PutBundle, name: str, header: str) -> None:
    put_bundle("anna", files={f"models/{name}": b"x"})
    assert raw_get(service, f"/avatars/anna/files/models/{quote(name)}").headers["content-disposition"] == header


def test_name_with_a_line_end_adds_no_header(service: httpx.Client, folder_store: None, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"a\r\nX-Evil: 1\r\n.bin": b"x"})
    answer = raw_get(service, "/avatars/anna/files/a%0D%0AX-Evil:%201%0D%0A.bin")
    assert (answer.status, answer.body) == (200, b"x")
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        *("..", ".", "../anna/manifest.json", "%2e%2e/anna/manifest.json", "%2E%2E%2Fanna%2Fmanifest.json"),
        *("frames/../manifest.json", "frames%2F..%2Fmanifest.json", "..%5Canna%5Cmanifest.json", "%2e%2e%00/"),
        *("manifest.json%00", "%00", "%00.png", "manifest.json%2500", "%ff%fe", "%", "%zz", "%ud800"),
        *("/manifest.json", "%2Fmanifest.json", "%2Fetc%2Fpasswd", "frames//frame_00000.png", "frames", "frames%2F"),
        *(".hidden", ".opentalking/x", "frames/.hidden", "x" * 1025, "x/" * 600 + "x", "x" * 60_000, "nothing.png"),
        *("Manifest.json", "manifest.json%20", "manifest.json%0A", "frames%252Fframe_00000.png"),
    ],
)
def test_path_that_names_no_file_responds_404(service: httpx.Client, anna: None, path: str) -> None:
    answer = raw_get(service, f"/avatars/anna/files/{path}")
    assert answer.status == 404, answer.body
    assert set(json.loads(answer.body)) == {"detail"}
    assert len(answer.body) < 1000
    assert answer.headers["content-type"] == "application/json"
    assert "content-disposition" not in answer.headers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("avatar_id", ["nobody", "custom", "..", "%2e%2e", "a%2Fb", "a%00", "x" * 300, "two%20words"])
def test_unknown_avatar_responds_404(service: httpx.Client, anna: None, avatar_id: str, path: str) -> None:
    answer = raw_get(service, f"/avatars/{avatar_id}/{path}")
    assert answer.status == 404
    assert set(json.loads(answer.body)) == {"detail"}


def test_what_the_store_does_not_list_responds_404(
    service: httpx.Client, folder_store: None, anna: None, store_url: str, tmp_path: Path
) -> None:
    folder = Path(url2pathname(urlsplit(store_url).path)) / "anna"
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "folder").symlink_to(tmp_path)
    (folder / ".hidden").write_text("hidden")
    (folder / "inner.png").symlink_to(folder / "preview.png")
    listed = [file["path"] for file in service.get("/avatars/anna/files").json()]
    assert listed == sorted([*FILES, "manifest.json", "inner.png"])
    for path in ("link.txt", "folder/secret.txt", ".hidden"):
        assert service.get(f"/avatars/anna/files/{path}").status_code == 404
    assert service.get("/avatars/anna/files/inner.png").content == FILES["preview.png"]


@pytest.mark.parametrize("avatar_id", ["hidden", "broken", "custom", "check"])
def test_files_of_hidden_broken_and_reserved_avatars_are_read(
    service: httpx.Client, put_bundle: PutBundle, avatar_id: str
) -> None:
    put_bundle(avatar_id, b"{" if avatar_id == "broken" else {"metadata": {"hidden": True}}, {"a.png": b"png"})
    assert [file["path"] for file in service.get(f"/avatars/{avatar_id}/files").json()] == ["a.png", "manifest.json"]
    assert service.get(f"/avatars/{avatar_id}/files/a.png").content == b"png"
    manifest = service.get(f"/avatars/{avatar_id}/files/manifest.json").content
    assert (manifest == b"{") == (avatar_id == "broken")
    if avatar_id == "broken":
        assert service.get("/avatars/broken").status_code == 404, "the manifest in memory must not be served here"
    assert service.get(f"/avatars/{avatar_id}/bundle.zip").status_code == 200


def test_files_of_a_deleted_avatar_respond_404(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("mine", {"metadata": {"custom_avatar": True}}, {"a.png": b"png"})
    assert service.get("/avatars/mine/files/a.png").status_code == 200
    assert service.delete("/avatars/mine").status_code == 200
    for path in ("files", "files/a.png", "bundle.zip", "preview-video"):
        assert service.get(f"/avatars/mine/{path}").status_code == 404


def test_file_in_memory_of_a_deleted_avatar_responds_404() -> None:
    store = WatchedStore()  # without a change stamp, so that a file in memory is fresh for a while
    store.put("mine", files={"a.png": b"png"}, metadata={"custom_avatar": True})
    with serve(store, refresh_seconds=3600) as client:
        for _ in range(2):
            assert client.get("/avatars/mine/files/a.png").status_code == 200
        assert client.delete("/avatars/mine").status_code == 200
        assert client.get("/avatars/mine/files/a.png").status_code == 404


@pytest.mark.parametrize("path", [".hidden", "a/../b", "a%00"])
def test_store_is_never_asked_for_a_malformed_path(path: str) -> None:
    store = StampedStore()
    store.put("anna")
    with serve(store) as client:
        assert raw_get(client, f"/avatars/anna/files/{path}").status == 404
    assert [name for name in store.opened if not name.endswith("manifest.json")] == []


# -- the video


def test_preview_video_is_the_source_video(service: httpx.Client, anna: None) -> None:
    url = "/avatars/anna/preview-video"
    whole = ask(service, url)
    assert (whole.status, whole.body) == (200, LARGE)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-length"] == str(len(LARGE))
    part = ask(service, url, {"Range": "bytes=1000000-3000000"})
    assert (part.status, part.body) == (206, LARGE[1_000_000:3_000_001])
    assert ask(service, url, {"If-None-Match": whole.headers["etag"]}).status == 304
    head = ask(service, url, method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(LARGE)))


@pytest.mark.parametrize(
    "source",
    [
        None,
        "",
        "nothing.mp4",
        "../ben/manifest.json",
        "/etc/passwd",
        "source",
        ["a.mp4"],
        7,
        "a\0b",
        "x" * 2000,
        "\ud800",
    ],
)
def test_preview_video_without_a_file_responds_404(
    service: httpx.Client, put_bundle: PutBundle, source: object
) -> None:
    put_bundle("ben", {}, {})
    put_bundle("anna", {"metadata": {"source_video": source}} if source is not None else {}, FILES)
    answer = service.get("/avatars/anna/preview-video")
    assert answer.status_code == 404
    assert set(answer.json()) == {"detail"}


# -- who may read


@pytest.mark.parametrize("path", PATHS)
def test_protect_everything_requires_a_key_for_files(
    store_url: str, anna: None, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", KEY)
    with running_service(store_url, protect="everything") as client:
        for _ in range(2):
            assert client.get(f"/avatars/anna/{path}").status_code == 401
            assert client.get(f"/avatars/anna/{path}", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    with running_service(store_url, protect="writes") as client:
        assert client.get(f"/avatars/anna/{path}").status_code == 200


def test_reading_files_is_the_action_read(store_url: str, anna: None) -> None:
    asked = []

    class Team:
        @hookimpl
        def authorize(self, action: str, avatar_id: str | None) -> bool:
            asked.append((action, avatar_id))
            return True

    with running_service(store_url, plugins={"team": Team()}, protect="everything") as client:
        assert {client.get(f"/avatars/anna/{path}").status_code for path in PATHS} == {200}
    assert asked == [("read", "anna")] * len(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_page_of_another_origin_may_read_files(store_url: str, anna: None, path: str) -> None:
    with running_service(store_url, cors_origins=("https://studio.example",)) as client:
        for _ in range(2):
            answer = client.get(f"/avatars/anna/{path}", headers={"Origin": "https://studio.example"})
            assert answer.headers["Access-Control-Allow-Origin"] == "https://studio.example"
            assert "Origin" in answer.headers["Vary"]
            other = client.get(f"/avatars/anna/{path}", headers={"Origin": "https://evil.example"})
            assert "Access-Control-Allow-Origin" not in other.headers


# -- memory


def test_small_file_is_served_from_memory_and_large_one_streamed() -> None:
    store = StampedStore()
    store.put("anna", files={"a.png": b"png", "video.mp4": LARGE})
    with serve(store, cache_mb=1) as client:
        for _ in range(3):
            assert client.get("/avatars/anna/files/a.png").content == b"png"
            assert client.get("/avatars/anna/files/video.mp4").content == LARGE
    assert store.read.count("anna/a.png") == 1
    assert store.streamed.count("anna/video.mp4") == 3


def test_files_displace_neither_manifests_nor_previews() -> None:
    store = StampedStore()
    frames = {f"frames/{number}.png": bytes(20_000) for number in range(40)}
    store.put("anna", files={"preview.png": bytes(20_000), **frames})
    with serve(store, cache_mb=1) as client:
        assert client.get("/avatars/anna/preview").status_code == 200
        for path in frames:
            assert client.get(f"/avatars/anna/files/{path}").status_code == 200
        assert client.get("/avatars/anna/preview").status_code == 200
    assert store.read.count("anna/preview.png") == 1


# -- clients that leave


@pytest.mark.parametrize("path", ["files/video.mp4", "preview-video", "bundle.zip"])
def test_client_that_disconnects_ends_the_reading(path: str) -> None:
    """A player closes the connection at each jump in a video."""
    store, chunks = StampedStore(), 200
    store.put("anna", files={"video.mp4": bytes(chunks * MiB)}, metadata={"source_video": "video.mp4"})
    with serve(store) as client:
        assert client.get("/avatars/anna").status_code == 200
        with client.stream("GET", f"/avatars/anna/{path}") as answer:
            next(answer.iter_raw(1000))
        wait_until(lambda: store.opening == 0)
        assert 0 < store.chunks_read < chunks // 2
        assert client.get("/avatars/anna").status_code == 200
