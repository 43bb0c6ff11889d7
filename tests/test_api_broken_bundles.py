"""A broken or odd bundle never hides other bundles, and never causes a 500."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from opentalking_core.testing.fixtures import example_manifest

from .helpers.stores import wait_until

if TYPE_CHECKING:
    import httpx

    from opentalking_core.testing.fixtures import PutBundle


def changed(**changes: object) -> bytes:
    return json.dumps(example_manifest("odd", **changes)).encode()


def without(field: str) -> bytes:
    manifest = example_manifest("odd")
    del manifest[field]
    return json.dumps(manifest).encode()


def with_raw(field: str, raw: str) -> bytes:
    """Return a valid manifest in which one field has this text as its value."""
    return changed(**{field: "@@"}).replace(b'"@@"', raw.encode())


BROKEN = {
    "empty": b"",
    "white space": b" \n",
    "not JSON": b"{id: odd}",
    "cut off": changed()[:-10],
    "two objects": changed() * 2,
    "a list": b"[]",
    "a list of one": b"[" + changed() + b"]",
    "a string": b'"odd"',
    "null": b"null",
    "a number": b"3",
    "an empty object": b"{}",
    "not UTF-8": b"\xff\xfe\x00" + changed(),
    "NUL bytes": bytes(1000),
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "no id": without("id"),
    "no model_type": without("model_type"),
    "no fps": without("fps"),
    "no sample_rate": without("sample_rate"),
    "no width": without("width"),
    "no height": without("height"),
    "id a number": changed(id=3),
    "id empty": changed(id=""),
    "id null": changed(id=None),
    "name a list": changed(name=["x"]),
    "model_type null": changed(model_type=None),
    "model_type empty": changed(model_type=""),
    "model_type an object": changed(model_type={}),
    "fps a string": changed(fps="25"),
    "fps 0": changed(fps=0),
    "fps true": changed(fps=True),
    "fps NaN": with_raw("fps", "NaN"),
    "fps infinite": with_raw("fps", "1e400"),
    "sample_rate negative": changed(sample_rate=-16000),
    "sample_rate Infinity": with_raw("sample_rate", "Infinity"),
    "width half a pixel": changed(width=512.5),
    "width 0": changed(width=0),
    "width null": changed(width=None),
    "height a list": changed(height=[512]),
    "height huge": with_raw("height", "9" * 5000),
    "width -Infinity": with_raw("width", "-Infinity"),
    "metadata a list": changed(metadata=[1]),
    "metadata a string": changed(metadata="hidden"),
    "NaN in the metadata": with_raw("metadata", '{"a": [NaN]}'),
    "NaN in an unknown key": with_raw("unknown", "NaN"),
    "deep lists": with_raw("metadata", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "deep objects": with_raw("metadata", '{"a":' * 100_000 + "1" + "}" * 100_000),
    "never closed": b"[" * 1_000_000,
    "9 MiB": changed(unknown="x" * 9 * 1024 * 1024),
}

ODD = {
    "a byte order mark": b"\xef\xbb\xbf" + changed(),
    "another id": changed(id="somebody-else"),
    "an id that is a path": changed(id="../../etc/passwd"),
    "the same key twice": changed().replace(b'"name": "Demo"', b'"name": "Other", "name": "Demo"'),
    "a number of 5,000 digits": with_raw("metadata", '{"x": ' + "9" * 5000 + "}"),
    "NaN as text beside such a number": with_raw("metadata", '{"x": ' + "9" * 5000 + ', "y": "NaN"}'),
    "a number beyond floats": with_raw("metadata", '{"x": 1e400}'),
    "NaN as a text": changed(metadata={"a": "NaN", "b": "-Infinity"}),
    "half a surrogate pair in the metadata": with_raw("metadata", '{"x": "\\ud800"}'),
    "1 MiB of metadata": changed(metadata={"x": "y" * 1024 * 1024}),
    "NUL in a text": changed(metadata={"x": "\0"}),
}


@pytest.mark.parametrize("manifest", BROKEN.values(), ids=BROKEN.keys())
def test_broken_manifest_is_not_listed_and_logged_once(
    service: httpx.Client, put_bundle: PutBundle, manifest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put_bundle("a-good-one")
    put_bundle("odd", manifest, {"preview.png": b"png"})
    put_bundle("z-good-one")
    for _ in range(3):
        answer = service.get("/avatars")
        assert answer.status_code == 200
        assert [avatar["id"] for avatar in answer.json()] == ["a-good-one", "z-good-one"]
    logged = [record for record in caplog.records if "odd" in record.getMessage()]
    assert len(logged) == 1
    assert len(logged[0].getMessage()) < 1000, "a log line, not the manifest"
    for answer in (service.get("/avatars/odd"), service.delete("/avatars/odd")):
        assert answer.status_code == 404
        assert len(answer.json()["detail"]) < 1000
    assert service.get("/avatars/odd/preview").content == b"png", "the picture can still be shown"
    assert service.get("/health").status_code == 200


@pytest.mark.parametrize("manifest", ODD.values(), ids=ODD.keys())
def test_odd_manifest_hides_no_other_avatar(service: httpx.Client, put_bundle: PutBundle, manifest: bytes) -> None:
    """The odd avatar may be listed or not. The other avatars are listed, and no response is a 500."""
    put_bundle("a-good-one")
    put_bundle("odd", manifest)
    put_bundle("z-good-one")
    answer = service.get("/avatars")
    assert answer.status_code == 200
    listed = [avatar["id"] for avatar in answer.json()]
    assert [avatar_id for avatar_id in listed if avatar_id != "odd"] == ["a-good-one", "z-good-one"]
    answer = service.get("/avatars/odd")
    assert answer.status_code == (200 if "odd" in listed else 404)
    if answer.status_code == 200:
        assert answer.content.removeprefix(b"\xef\xbb\xbf") == manifest.removeprefix(b"\xef\xbb\xbf")


@pytest.mark.parametrize("name", ["a byte order mark", "another id", "NaN as a text", "1 MiB of metadata"])
def test_usable_manifest_is_listed_under_its_folder_name(
    service: httpx.Client, put_bundle: PutBundle, name: str
) -> None:
    put_bundle("odd", ODD[name])
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["odd"]


def test_odd_base_is_rejected_or_works(service: httpx.Client, put_bundle: PutBundle, portrait: bytes) -> None:
    made, wrong = [], {}
    for n, (what, manifest) in enumerate({**BROKEN, **ODD}.items()):
        put_bundle(f"odd-{n}", manifest.replace(b'"mock"', b'"wav2lip"'))
        form = {"name": (None, "Alice"), "base_avatar_id": (None, f"odd-{n}"), "image": ("a.jpg", portrait)}
        answer = service.post("/avatars/custom", files=form)
        if answer.status_code == 200:
            made.append(answer.json()["id"])
        elif answer.status_code not in (400, 404):
            wrong[what] = answer.text
    assert not wrong
    listed = [avatar["id"] for avatar in service.get("/avatars").json()]
    assert [avatar_id for avatar_id in listed if not avatar_id.startswith("odd")] == made


def test_mended_manifest_is_listed(service: httpx.Client, put_bundle: PutBundle, folder: Path) -> None:
    put_bundle("odd", b"{")
    assert service.get("/avatars").json() == []
    (folder / "odd" / "manifest.json").write_bytes(changed(name="Mended"))
    # An edit leaves the folder's change stamp as it was, so the list shows the edit after the next periodic scan.
    wait_until(lambda: [avatar["name"] for avatar in service.get("/avatars").json()] == ["Mended"])


# -- what people leave in a folder


@pytest.fixture
def folder(folder_store: None, store_url: str) -> Path:
    """Return the folder behind the store."""
    folder = Path(url2pathname(urlsplit(store_url).path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_odd_folder_entries_hide_no_avatar(service: httpx.Client, put_bundle: PutBundle, folder: Path) -> None:
    put_bundle("good")
    (folder / "manifest-is-a-folder" / "manifest.json").mkdir(parents=True)
    (folder / "no-manifest").mkdir()
    (folder / "a-file").write_text("x")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "manifest.json").write_bytes(changed())
    (folder / "two words").mkdir()
    (folder / "two words" / "manifest.json").write_bytes(changed())
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "preview-is-a-folder" / "preview.png").mkdir(parents=True)
    (folder / "preview-is-a-folder" / "manifest.json").write_bytes(changed())
    os.mkfifo(folder / "pipe")
    (folder / "manifest-is-a-pipe").mkdir()
    os.mkfifo(folder / "manifest-is-a-pipe" / "manifest.json")
    answer = service.get("/avatars")
    assert answer.status_code == 200
    assert [avatar["id"] for avatar in answer.json()] == ["good", "preview-is-a-folder"]
    for name in ("manifest-is-a-folder", "no-manifest", "a-file", ".hidden", "two words", "dangling", "loop", "pipe"):
        assert service.get(f"/avatars/{name}").status_code == 404, name
    assert service.get("/avatars/manifest-is-a-pipe").status_code == 404
    assert service.get("/avatars/preview-is-a-folder/preview").status_code == 404


def test_unreadable_bundle_hides_no_other_avatar(service: httpx.Client, put_bundle: PutBundle, folder: Path) -> None:
    put_bundle("good")
    put_bundle("locked")
    (manifest := folder / "locked" / "manifest.json").chmod(0)
    if os.access(manifest, os.R_OK):
        pytest.skip("this user may read every file")
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["good"]
    assert service.get("/avatars/locked").status_code == 503


def test_link_out_of_the_folder_is_not_followed(
    service: httpx.Client, put_bundle: PutBundle, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    put_bundle("anna")
    (folder / "anna" / "preview.png").symlink_to(outside / "secret")
    assert service.get("/avatars/anna/preview").status_code == 404
