"""POST /avatars/custom: the five steps and the errors of the API document, and hostile input."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import struct
import zlib
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from opentalking_core import hookimpl
from opentalking_core.testing.fixtures import FakeMouth
from opentalking_core.testing.running import running_service

from .helpers.images import STORED_AS, encoded

if TYPE_CHECKING:
    import httpx

    from opentalking_core.testing.fixtures import PutBundle, StoredFiles

    from .conftest import PostPortrait

MiB = 1024 * 1024
LIMIT = 10 * MiB
READ_AHEAD = 128 * 1024  # the server may read this many bytes before it decides
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def quadrants(width: int = 60, height: int = 40) -> Image.Image:
    """Draw red and green above blue and yellow. Turned or mirrored, the picture looks different."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours in the middle of the four quadrants, each channel rounded to 0 or 255."""
    width, height = image.size
    pixels = [image.getpixel((x, y)) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(255 if channel > 127 else 0 for channel in pixel) for pixel in pixels]  # type: ignore[union-attr]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, *more: bytes) -> bytes:
    """Write a PNG by hand; `pixels` are its rows, each with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + b"".join(more) + png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def form_body(fields: dict[str, bytes], boundary: str = "frontier") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (b'; filename="p.jpg"\r\nContent-Type: image/jpeg' if name == "image" else b"")
        + b"\r\n\r\n"
        + value
        + b"\r\n"
        for name, value in fields.items()
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}


def assert_refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert len(detail.split()) > 2
    assert len(detail) < 400
    for word in words:
        assert word in detail


def assert_nothing_made(service: httpx.Client) -> None:
    assert [avatar["id"] for avatar in service.get("/avatars").json() if avatar["is_custom"]] == []


# -- the five steps of the API document


def test_create_answers_with_summary(service: httpx.Client, post_portrait: PostPortrait) -> None:
    answer = post_portrait(name="Alice")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    summary = answer.json()
    assert re.fullmatch(r"custom-alice-\d{8}-\d{6}-\d{3}", summary["id"])
    assert summary == {
        "id": summary["id"],
        "name": "Alice",
        "model_type": "wav2lip",
        "width": 48,
        "height": 64,
        "is_custom": True,
    }
    assert tuple(summary) == ("id", "name", "model_type", "width", "height", "is_custom")
    assert summary in service.get("/avatars").json()


def test_new_bundle_holds_one_rgb_png_under_three_names(
    service: httpx.Client, post_portrait: PostPortrait, stored_files: StoredFiles
) -> None:
    avatar_id = post_portrait(encoded(quadrants())).json()["id"]
    files = stored_files(avatar_id)
    assert set(files) == {"manifest.json", "preview.png", "reference.png", "frames/frame_00000.png"}
    assert files["preview.png"] == files["reference.png"] == files["frames/frame_00000.png"]
    frame = decoded(files["frames/frame_00000.png"])
    assert (frame.format, frame.mode, frame.size) == ("PNG", "RGB", (60, 40))
    assert frame.tobytes() == quadrants().tobytes(), "a picture that fits is kept pixel by pixel"
    assert service.get(f"/avatars/{avatar_id}/preview").content == files["preview.png"]
    assert service.get(f"/avatars/{avatar_id}").content == files["manifest.json"]


def test_new_manifest_describes_the_avatar(
    service: httpx.Client, post_portrait: PostPortrait, stored_files: StoredFiles, base: str
) -> None:
    avatar_id = post_portrait(name="Alice").json()["id"]
    manifest = service.get(f"/avatars/{avatar_id}").json()
    metadata = manifest.pop("metadata")
    assert manifest == {
        "id": avatar_id,
        "name": "Alice",
        "model_type": "wav2lip",
        "fps": 30,
        "sample_rate": 16000,
        "width": 48,
        "height": 64,
        "version": "1.0",
    }
    assert metadata.pop("portrait_checks")["passed"] is False  # a picture of 48 pixels is too small
    assert metadata == {
        "wav2lip_postprocess": "easy",
        "custom_avatar": True,
        "base_avatar_id": base,
        "reference_mode": "image",
        "frame_dir": "frames",
        "source_image_path": "reference.png",
        "source_image_hash": hashlib.sha256(stored_files(avatar_id)["reference.png"]).hexdigest(),
        "mouth_polygon_source": "fake_mouth",
        "face_box": [0.2, 0.1, 0.8, 0.9],
        "animation": {
            "mouth_center": [0.5, 0.6],
            "mouth_rx": 0.1,
            "mouth_ry": 0.05,
            "outer_lip": [[0.4, 0.6], [0.5, 0.55], [0.6, 0.6], [0.5, 0.65]],
            "inner_mouth": [[0.45, 0.6], [0.5, 0.58], [0.55, 0.6], [0.5, 0.62]],
        },
    }


def test_detector_gets_the_stored_picture(post_portrait: PostPortrait, fake_mouth: FakeMouth) -> None:
    """The detector gets the upright and fitted picture. Its fractions would not fit another one."""
    turned = Image.Exif()
    turned[0x0112] = 6
    answer = post_portrait(encoded(Image.new("RGB", (4000, 2000)), "JPEG", exif=turned)).json()
    assert (answer["width"], answer["height"]) == (960, 1920)
    assert fake_mouth.shapes == [(1920, 960, 3)]


def test_create_succeeds_without_mouth(
    service: httpx.Client, post_portrait: PostPortrait, fake_mouth: FakeMouth
) -> None:
    fake_mouth.landmarks = None
    answer = post_portrait()
    assert answer.status_code == 200
    metadata = service.get(f"/avatars/{answer.json()['id']}").json()["metadata"]
    assert "animation" not in metadata
    assert "face_box" not in metadata
    assert metadata["mouth_polygon_source"] == "unavailable"
    assert service.get("/health").json()["status"] == "ok", "a picture without a face is no failure of the detector"


class Raising:
    """A detector that fails."""

    @hookimpl
    def detect_mouth(self) -> None:
        raise RuntimeError("no graphics card")


def test_raising_detector_is_named_and_next_one_asked(
    store_url: str, base: str, portrait: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    form = {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("a.jpg", portrait)}
    with running_service(store_url, plugins={"a_raising": Raising(), "b_fake": FakeMouth()}) as service:
        answer = service.post("/avatars/custom", files=form)
        assert answer.status_code == 200
        metadata = service.get(f"/avatars/{answer.json()['id']}").json()["metadata"]
        assert metadata["mouth_polygon_source"] == "b_fake"
        failing, working = service.get("/health").json()["detectors"]
    assert (failing["plugin"], failing["ok"], working["ok"]) == ("a_raising", False, True)
    assert "no graphics card" in failing["problem"]
    (record,) = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert "a_raising" in record.getMessage()
    assert ", in detect_mouth\n" in record.getMessage(), "the log holds the traceback"


def test_deleted_custom_avatar_is_gone(service: httpx.Client, post_portrait: PostPortrait) -> None:
    avatar_id = post_portrait().json()["id"]
    assert service.delete(f"/avatars/{avatar_id}").json() == {"deleted": True}
    assert_nothing_made(service)
    assert post_portrait().status_code == 200


# -- inheritance from the base

STALE = {
    "animation": {"mouth_center": [0, 0]},
    "face_box": [0, 0, 1, 1],
    "mouth_polygon_source": "old",
    "source_image": "old",
    "source_image_hash": "old",
    "source_image_path": "old",
    "source_image_size": [1, 2],
    "source_video": "old",
    "source_fps": 24,
    "source_frame_count": 9,
    "extracted_frame_count": 9,
    "frame_metadata": [{"old": 1}],
    "template_video": "old",
    "video": "old",
    "quicktalk": {"old": 1},
    "preprocessed": True,
    "preprocess_version": "old",
    "hidden": True,
    "reference_mode": "frames",
    "frame_dir": "old",
    "custom_avatar": False,
    "base_avatar_id": "old",
}


@pytest.mark.parametrize("found", [True, False], ids=["mouth found", "no mouth"])
def test_new_manifest_inherits_all_but_stale_fields(
    service: httpx.Client, put_bundle: PutBundle, post_portrait: PostPortrait, fake_mouth: FakeMouth,
    stored_files: StoredFiles, found: bool,
) -> None:  # fmt: skip
    if not found:
        fake_mouth.landmarks = None
    free = {"preferred_wav2lip_postprocess_mode": "easy", "notes": ["a", {"b": None}], "名": 1.0, "big": 2**70}
    put_bundle(
        "rich",
        {"model_type": "wav2lip", "fps": 23.976, "sample_rate": 22050, "version": "2", "metadata": STALE | free,
         "studio": {"light": "soft"}},
        {"preview.png": b"old", "reference.jpg": b"old", "frames/frame_00000.png": b"old",
         "frames/frame_00001.png": b"old", "source/a.mp4": b"old"},
    )  # fmt: skip
    avatar_id = post_portrait(base="rich").json()["id"]
    files = stored_files(avatar_id)
    assert set(files) == {"manifest.json", "preview.png", "reference.png", "frames/frame_00000.png"}
    assert b"old" not in files["manifest.json"]
    manifest = service.get(f"/avatars/{avatar_id}").json()
    metadata = manifest["metadata"]
    assert {key: metadata[key] for key in free} == free
    measured = {"animation", "face_box"} if found else set()
    assert set(metadata) == set(free) | measured | {
        *("custom_avatar", "base_avatar_id", "reference_mode", "frame_dir"),
        *("source_image_hash", "source_image_path", "mouth_polygon_source", "portrait_checks"),
    }
    assert (metadata["reference_mode"], metadata["frame_dir"]) == ("image", "frames")
    assert (manifest["fps"], manifest["sample_rate"], manifest["version"]) == (23.976, 22050, "2")
    assert (manifest["width"], manifest["height"]) == (48, 64)
    assert manifest["studio"] == {"light": "soft"}
    assert avatar_id in [avatar["id"] for avatar in service.get("/avatars").json()], (
        "the avatar is listed although its base is hidden"
    )


def test_custom_avatar_can_be_a_base(service: httpx.Client, post_portrait: PostPortrait) -> None:
    first = post_portrait(name="Alice").json()["id"]
    answer = post_portrait(encoded(quadrants()), name="Bob", base=first)
    assert answer.status_code == 200
    manifest = service.get(f"/avatars/{answer.json()['id']}").json()
    assert (manifest["id"], manifest["name"]) == (answer.json()["id"], "Bob")
    assert manifest["metadata"]["base_avatar_id"] == first
    assert manifest["metadata"]["wav2lip_postprocess"] == "easy"
    assert (manifest["width"], manifest["height"]) == (60, 40)


def test_create_leaves_base_unchanged(post_portrait: PostPortrait, stored_files: StoredFiles, base: str) -> None:
    before = stored_files(base)
    assert post_portrait().status_code == 200
    assert stored_files(base) == before


@pytest.mark.parametrize("model_type", ["mock", "musetalk", "quicktalk", "flashtalk", "flashhead", "unknown"])
def test_create_rejects_base_of_other_model_types(
    service: httpx.Client, put_bundle: PutBundle, post_portrait: PostPortrait, model_type: str
) -> None:
    put_bundle("other", {"model_type": model_type})
    assert_refused(post_portrait(base="other"), 400, "wav2lip", model_type)
    assert_nothing_made(service)


def test_create_with_unknown_base_is_not_found(service: httpx.Client, post_portrait: PostPortrait) -> None:
    for unknown in ("nobody", "..", "../demo-wav2lip", "demo-wav2lip\0", "x" * 5000, "%2e%2e", "demo-wav2lip/"):
        assert_refused(post_portrait(base=unknown), 404)
    assert_nothing_made(service)


# -- ids and names


def slug_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    match = re.fullmatch(r"custom-(.+)-\d{8}-\d{6}-\d{3}", answer.json()["id"])
    assert match
    return match[1]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Alice", "alice"), ("Alice B. Smith", "alice-b-smith"), ("  Alice  ", "alice"), ("李雷", "李雷"),
        ("Élodie", "élodie"), ("Юлия", "юлия"), ("आलिया", "आलिया"), ("علي", "علي"),
        ("🙂🙂", "avatar"), ("...", "avatar"),
        ("../../etc/passwd", "etc-passwd"), ("a_b", "a-b"), ("-", "avatar"), ("CON", "con"), ("1", "1"),
        ("x" * 200, "x" * 40),
        ("李" * 200, "李" * 40), ("e\u0301" * 100, "é" * 40), ("<script>", "script"), ("%2e%2e", "2e-2e"),
        ("\u202eecila", "ecila"),
    ],
)  # fmt: skip
def test_name_in_any_script_gives_a_usable_id(
    service: httpx.Client, post_portrait: PostPortrait, name: str, slug: str
) -> None:
    answer = post_portrait(name=name)
    assert slug_of(answer) == slug
    assert answer.json()["name"] == name.strip()
    avatar_id = answer.json()["id"]
    assert service.get(f"/avatars/{avatar_id}").json()["name"] == name.strip()
    assert service.get(f"/avatars/{avatar_id}/preview").status_code == 200
    assert avatar_id in [avatar["id"] for avatar in service.get("/avatars").json()]
    assert service.delete(f"/avatars/{avatar_id}").status_code == 200


# -- the form


@pytest.mark.parametrize("field", ["name", "base_avatar_id", "image"])
def test_create_rejects_missing_field_by_name(service: httpx.Client, base: str, portrait: bytes, field: str) -> None:
    form = {"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait}
    del form[field]
    assert_refused(service.post("/avatars/custom", content=form_body(form), headers=FORM), 400, field)
    assert_nothing_made(service)


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u3000"])
def test_create_rejects_blank_field_by_name(service: httpx.Client, post_portrait: PostPortrait, blank: str) -> None:
    assert_refused(post_portrait(name=blank), 400, "name")
    assert_refused(post_portrait(base=blank), 400, "base_avatar_id")
    assert_refused(post_portrait(b""), 400, "image", "empty")
    assert_nothing_made(service)


@pytest.mark.parametrize("field", ["name", "base_avatar_id", "image"])
def test_create_rejects_repeated_field_by_name(service: httpx.Client, base: str, portrait: bytes, field: str) -> None:
    form = {"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait}
    body = form_body({field: form[field]}).removesuffix(b"--frontier--\r\n") + form_body(form)
    assert_refused(service.post("/avatars/custom", content=body, headers=FORM), 400, field)
    assert_nothing_made(service)


def test_create_rejects_long_names_and_control_characters(service: httpx.Client, post_portrait: PostPortrait) -> None:
    for name in ("A\0B", "A\x1b[31mB", "x" * 201):
        assert_refused(post_portrait(name=name), 400, "name")
    assert_refused(post_portrait(name="x" * 100_000), 413, "name")
    assert_nothing_made(service)


def test_create_rejects_name_that_is_not_utf8(service: httpx.Client, base: str, portrait: bytes) -> None:
    body = form_body({"name": b"\xff\xfeA", "base_avatar_id": base.encode(), "image": portrait})
    assert_refused(service.post("/avatars/custom", content=body, headers=FORM), 400, "name")


def test_create_ignores_undocumented_fields(service: httpx.Client, post_portrait: PostPortrait) -> None:
    answer = post_portrait(model="wav2lip", person_mode="full", remove_background="false", extra="x" * 100_000)
    assert answer.status_code == 200
    manifest = service.get(f"/avatars/{answer.json()['id']}").text
    assert "person_mode" not in manifest
    assert "remove_background" not in manifest


@pytest.mark.parametrize("value", ["true", "True", "1", "yes", "on"])
def test_create_rejects_background_removal(service: httpx.Client, post_portrait: PostPortrait, value: str) -> None:
    assert_refused(post_portrait(remove_background=value), 400, "remove_background")
    assert_nothing_made(service)


@pytest.mark.parametrize("value", ["false", "False", "0", "no", "off", ""])
def test_create_accepts_background_removal_that_is_off(post_portrait: PostPortrait, value: str) -> None:
    assert post_portrait(remove_background=value).status_code == 200


@pytest.mark.parametrize("first", [True, False], ids=["video first", "video last"])
def test_create_rejects_image_together_with_video(
    service: httpx.Client, base: str, portrait: bytes, first: bool
) -> None:
    form = {"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait}
    form = {"video": b"mp4", **form} if first else {**form, "video": b"mp4"}
    assert_refused(service.post("/avatars/custom", content=form_body(form), headers=FORM), 400, "send one of them")
    assert_nothing_made(service)


def test_create_rejects_malformed_forms(service: httpx.Client, base: str, portrait: bytes) -> None:
    good = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait})
    bodies: list[tuple[bytes, dict[str, str]]] = [
        (b"", {}),
        (b"", FORM),
        (good, {}),
        (good, {"Content-Type": "multipart/form-data"}),
        (good, {"Content-Type": "multipart/form-data; boundary="}),
        (good, {"Content-Type": "multipart/form-data; boundary=another"}),
        (good, {"Content-Type": "multipart/form-data; boundary=" + "x" * 500}),
        (good, {"Content-Type": "multipart/mixed; boundary=frontier"}),
        (good, {"Content-Type": "application/octet-stream"}),
        (good, {"Content-Type": ";;;"}),
        (good[: len(good) // 2], FORM),
        (good[:-4], FORM),
        (good[:60], FORM),
        (good.replace(b"Content-Disposition", b"X-Disposition"), FORM),
        (good.replace(b'; name="image"', b""), FORM),
        (good.replace(b"\r\n\r\n", b"\r\n", 1), FORM),
        (b"--frontier\r\n" + b"X: y\r\n" * 50_000, FORM),
        (b"--frontier\r\n" * 50_000, FORM),
        (form_body({f"field{n}": b"" for n in range(3000)}), FORM),
        (b'{"name": "Alice"}', {"Content-Type": "application/json"}),
        (b"name=Alice&base_avatar_id=x", {"Content-Type": "application/x-www-form-urlencoded"}),
    ]
    for body, headers in bodies:
        answer = service.post("/avatars/custom", content=body, headers=headers)
        assert 400 <= answer.status_code < 500, (headers, body[:80], answer.text)
        assert isinstance(answer.json()["detail"], str)
    assert_nothing_made(service)
    assert service.post("/avatars/custom", content=good, headers=FORM).status_code == 200


@pytest.mark.parametrize(
    "content_type", ['Multipart/Form-Data; Boundary="frontier"', "multipart/form-data;boundary=frontier; charset=utf-8"]
)
def test_create_accepts_variants_of_content_type(
    service: httpx.Client, base: str, portrait: bytes, content_type: str
) -> None:
    body = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait})
    assert service.post("/avatars/custom", content=body, headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize("filename", ["p.jpg", "p.txt", "../../p.jpg", "портрет.jpg", 'a"b.png', "x" * 3000, None])
def test_create_ignores_filename(post_portrait: PostPortrait, filename: str | None) -> None:
    assert post_portrait(filename=filename).status_code == 200


def test_create_accepts_chunked_form(service: httpx.Client, base: str, portrait: bytes) -> None:
    body = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait})
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    assert service.post("/avatars/custom", content=pieces, headers=FORM).status_code == 200


# -- sizes


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_create_accepts_10_mib_and_rejects_one_byte_more(
    service: httpx.Client, post_portrait: PostPortrait, file_format: str
) -> None:
    image = encoded(quadrants(), file_format)
    image += bytes(LIMIT - len(image))
    assert post_portrait(image, name="Exactly").status_code == 200
    assert_refused(post_portrait(image + b"\0", name="More"), 413, "10 MB")
    assert [avatar["name"] for avatar in service.get("/avatars").json() if avatar["is_custom"]] == ["Exactly"]


@pytest.mark.parametrize("size", [12 * MiB, 40 * MiB])
def test_client_that_sends_all_of_a_large_body_can_read_the_answer(
    service: httpx.Client, post_portrait: PostPortrait, size: int
) -> None:
    assert_refused(post_portrait(bytes(size)), 413)
    assert service.get("/avatars").status_code == 200


def unfinished_upload(service: httpx.Client, headers: str, body: bytes) -> tuple[int, str]:
    """Send a part of a body; return the answer that comes while the rest is unsent."""
    address = (service.base_url.host, service.base_url.port)
    with socket.create_connection(address, timeout=30) as connection:
        head = f"POST /avatars/custom HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['Content-Type']}\r\n{headers}\r\n\r\n"
        connection.sendall(head.encode() + body)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            length = 0
            while (line := answer.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, json.loads(answer.read(length))["detail"]


def test_create_rejects_large_content_length_before_the_body(service: httpx.Client) -> None:
    for length in (202 * MiB, 1024**3, 10**15):
        status, detail = unfinished_upload(service, f"Content-Length: {length}", b"--frontier")
        assert (status, "200 MB" in detail) == (413, True)


def test_create_rejects_large_image_before_its_content(service: httpx.Client, base: str) -> None:
    start = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": b"x"})[:-17] + bytes(READ_AHEAD)
    status, detail = unfinished_upload(service, f"Content-Length: {12 * MiB}", start)
    assert (status, "10 MB" in detail) == (413, True)


def test_create_rejects_image_one_byte_too_large_before_the_rest(service: httpx.Client, base: str) -> None:
    start = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": bytes(LIMIT + 1)})[:-17]
    start += bytes(READ_AHEAD)
    status, detail = unfinished_upload(service, f"Content-Length: {LIMIT + MiB - 1000}", start)
    assert (status, "10 MB" in detail) == (413, True)


def test_create_rejects_chunked_body_once_too_large(service: httpx.Client, base: str) -> None:
    start = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": bytes(LIMIT + 1)})[:-17]
    start += bytes(READ_AHEAD)
    chunk = f"{len(start):x}\r\n".encode() + start + b"\r\n"
    status, detail = unfinished_upload(service, "Transfer-Encoding: chunked", chunk)
    assert (status, "10 MB" in detail) == (413, True)


def test_create_limits_ignored_fields(service: httpx.Client, base: str) -> None:
    start = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "junk": bytes(MiB + READ_AHEAD)})[:-17]
    chunk = f"{len(start):x}\r\n".encode() + start + b"\r\n"
    assert unfinished_upload(service, "Transfer-Encoding: chunked", chunk)[0] == 413


def test_disconnected_client_leaves_nothing_behind(
    service: httpx.Client, base: str, portrait: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    body = form_body({"name": b"Alice", "base_avatar_id": base.encode(), "image": portrait})
    address = (service.base_url.host, service.base_url.port)
    for headers, sent in (
        (f"Content-Length: {len(body) + 1000}", body[:-20]),
        (f"Content-Length: {len(body)}", body[:200]),
        (f"Content-Length: {len(body)}", b""),
        ("Transfer-Encoding: chunked", b"64\r\n" + body[:100] + b"\r\n"),
    ):
        with socket.create_connection(address, timeout=30) as connection:
            head = f"POST /avatars/custom HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['Content-Type']}\r\n{headers}"
            connection.sendall(head.encode() + b"\r\n\r\n" + sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):  # any answer will do
                pass
    assert_nothing_made(service)
    assert service.post("/avatars/custom", content=body, headers=FORM).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


# -- rejected pictures


def refused_pictures(portrait: bytes) -> dict[str, bytes]:
    whole_png, webp = encoded(quadrants()), encoded(quadrants(), "WEBP", lossless=True)
    bomb_row = b"\0" + bytes(1000)
    jpeg_sof = portrait.index(b"\xff\xc0") + 5
    return {
        "text": b"This is not a picture.\n" * 50,
        "one byte": b"\xff",
        "HTML": b"<html><img src=x></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>',
        "PDF": b"%PDF-1.4\n" + bytes(500),
        "zeros": bytes(10_000),
        "GIF": encoded(quadrants(), "GIF"),
        "BMP": encoded(quadrants(), "BMP"),
        "TIFF": encoded(quadrants(), "TIFF"),
        "ICO": encoded(quadrants(), "ICO"),
        "PPM": encoded(quadrants(), "PPM"),
        "JPEG 2000": encoded(quadrants(), "JPEG2000"),
        "truncated JPEG": portrait[: len(portrait) // 2],
        "JPEG without its pixels": portrait[: portrait.index(b"\xff\xda")],
        "JPEG's first bytes": portrait[:20],
        "truncated PNG": whole_png[: len(whole_png) - 30],
        "PNG's header": whole_png[:33],
        "PNG with wrong checksums": whole_png[:40] + bytes([whole_png[40] ^ 255]) + whole_png[41:],
        "truncated WebP": webp[: len(webp) // 2],
        "60000x60000 PNG bomb": png(60_000, 60_000, 8, 2, bomb_row * 1000),
        "60000x60000 PNG bomb of one bit": png(60_000, 60_000, 1, 0, bomb_row * 1000),
        "65500x65500 JPEG bomb": portrait[:jpeg_sof] + struct.pack(">HH", 65500, 65500) + portrait[jpeg_sof + 4 :],
        "PNG of no width": png(0, 10, 8, 2, bomb_row),
        "PNG of 2 billion rows": png(1, 2**31 - 1, 8, 0, b"\0\0" * 100),
    }


def test_create_rejects_unusable_pictures(
    service: httpx.Client, post_portrait: PostPortrait, portrait: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {}
    for what, image in refused_pictures(portrait).items():
        answer = post_portrait(image)
        if answer.status_code != 400 or "image" not in answer.json()["detail"] or len(answer.json()["detail"]) > 400:
            wrong[what] = answer.text
    assert not wrong
    assert_nothing_made(service)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert post_portrait().status_code == 200


# -- accepted pictures


def grey16(value: int) -> bytes:
    return png(8, 8, 16, 0, (b"\0" + struct.pack(">H", value) * 8) * 8)


def rgb16(*value: int) -> bytes:
    return png(8, 8, 16, 2, (b"\0" + struct.pack(">HHH", *value) * 8) * 8)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 4, 8))
    return encoded(image, transparency=0)


HALF_RED = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
PICTURES: dict[str, tuple[bytes, tuple[int, int, int], tuple[int, int, int]]] = {
    # kind: (file, colour at the left, colour at the right)
    "JPEG": (encoded(Image.new("RGB", (8, 8), RED), "JPEG", quality=100), RED, RED),
    "progressive JPEG": (encoded(Image.new("RGB", (8, 8), RED), "JPEG", progressive=True, quality=100), RED, RED),
    "grey JPEG": (encoded(Image.new("L", (8, 8), 100), "JPEG"), (100,) * 3, (100,) * 3),
    "CMYK JPEG": (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), RED, RED),
    "PNG": (encoded(Image.new("RGB", (8, 8), (1, 2, 3))), (1, 2, 3), (1, 2, 3)),
    "grey": (encoded(Image.new("L", (8, 8), 100)), (100,) * 3, (100,) * 3),
    "one bit": (encoded(Image.new("1", (8, 8), 1)), (255,) * 3, (255,) * 3),
    "palette": (encoded(Image.new("RGB", (8, 8), RED).quantize(4)), RED, RED),
    "palette with transparency": (palette_with_transparency(), (255, 255, 255), BLUE),
    "16-bit grey, dark": (grey16(0x1000), (0x10,) * 3, (0x10,) * 3),
    "16-bit grey, middle": (grey16(0x8000), (0x80,) * 3, (0x80,) * 3),
    "16-bit grey, white": (grey16(0xFFFF), (255,) * 3, (255,) * 3),
    "16-bit RGB": (rgb16(0xFFFF, 0x8000, 0), (255, 0x80, 0), (255, 0x80, 0)),
    "transparent RGBA": (encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (255, 255, 255), (255, 255, 255)),
    "half transparent RGBA": (encoded(HALF_RED), (255, 127, 127), (255, 127, 127)),
    "opaque RGBA": (encoded(Image.new("RGBA", (8, 8), (*GREEN, 255))), GREEN, GREEN),
    "grey with alpha": (encoded(Image.new("LA", (8, 8), (0, 0))), (255, 255, 255), (255, 255, 255)),
    "RGB with a transparent colour": (
        encoded(Image.new("RGB", (8, 8), BLUE), transparency=BLUE), (255, 255, 255), (255, 255, 255)
    ),
    "grey with a transparent shade": (
        encoded(Image.new("L", (8, 8), 7), transparency=7), (255, 255, 255), (255, 255, 255)
    ),
    "WebP": (encoded(Image.new("RGB", (8, 8), BLUE), "WEBP", lossless=True), BLUE, BLUE),
    "WebP with alpha": (
        encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255), (255, 255, 255)
    ),
    "animated WebP": (
        encoded(
            Image.new("RGB", (8, 8), RED), "WEBP",
            save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)], lossless=True,
        ), RED, RED,
    ),
    "animated PNG": (
        encoded(Image.new("RGB", (8, 8), RED), save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)]), RED, RED
    ),
    "one pixel": (encoded(Image.new("RGB", (1, 1), RED)), RED, RED),
}  # fmt: skip


@pytest.mark.parametrize(("image", "left", "right"), PICTURES.values(), ids=PICTURES.keys())
def test_picture_of_any_kind_becomes_rgb(
    service: httpx.Client,
    post_portrait: PostPortrait,
    image: bytes,
    left: tuple[int, int, int],
    right: tuple[int, int, int],
) -> None:
    answer = post_portrait(image)
    assert answer.status_code == 200, answer.text
    stored = decoded(service.get(f"/avatars/{answer.json()['id']}/preview").content)
    assert (stored.format, stored.mode) == ("PNG", "RGB")
    assert stored.size == (answer.json()["width"], answer.json()["height"]) == decoded(image).size
    for x, colour in ((0, left), (stored.width - 1, right)):
        assert stored.getpixel((x, stored.height // 2)) == pytest.approx(colour, abs=2)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_stored_picture_is_upright_and_without_exif(
    service: httpx.Client, post_portrait: PostPortrait, file_format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0)}  # where it was taken
    how = STORED_AS[orientation]
    image = quadrants() if how is None else quadrants().transpose(how)
    avatar = post_portrait(encoded(image, file_format, exif=exif)).json()
    assert (avatar["width"], avatar["height"]) == (60, 40)
    png_file = service.get(f"/avatars/{avatar['id']}/preview").content
    assert b"SecretCamera" not in png_file
    stored = decoded(png_file)
    assert corners(stored) == [RED, GREEN, BLUE, YELLOW]
    assert not stored.getexif()
    assert set(stored.info) <= {"dpi"}, "the stored picture has EXIF, comments or a colour profile"


def test_create_accepts_damaged_exif(post_portrait: PostPortrait) -> None:
    for exif in (b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 500, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 20):
        assert post_portrait(encoded(quadrants(), "JPEG", exif=exif)).status_code == 200


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((1080, 1920), (1080, 1920)), ((1081, 1921), (1080, 1919)), ((3000, 1000), (1080, 360)),
        ((2000, 4000), (960, 1920)), ((100, 2000), (96, 1920)), ((500, 400), (500, 400)), ((3000, 2), (1080, 1)),
        ((5000, 1), (1080, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_picture_is_fitted_into_maximum_and_never_enlarged(
    service: httpx.Client, post_portrait: PostPortrait, size: tuple[int, int], fitted: tuple[int, int], file_format: str
) -> None:
    avatar = post_portrait(encoded(quadrants(*size), file_format)).json()
    assert (avatar["width"], avatar["height"]) == pytest.approx(fitted, abs=1)
    assert avatar["width"] <= 1080
    assert avatar["height"] <= 1920
    stored = decoded(service.get(f"/avatars/{avatar['id']}/preview").content)
    assert stored.size == (avatar["width"], avatar["height"])
    if min(fitted) > 10:
        assert corners(stored) == [RED, GREEN, BLUE, YELLOW]


def test_maximum_size_is_configurable(store_url: str, base: str) -> None:
    form = {"name": (None, "A"), "base_avatar_id": (None, base), "image": ("a.png", encoded(quadrants(600, 400)))}
    with running_service(store_url, custom_avatar_max_width=300, custom_avatar_max_height=100) as service:
        avatar = service.post("/avatars/custom", files=form).json()
    assert (avatar["width"], avatar["height"]) == (150, 100)


def test_odd_size_is_kept(post_portrait: PostPortrait) -> None:
    avatar = post_portrait(encoded(quadrants(61, 43))).json()
    assert (avatar["width"], avatar["height"]) == (61, 43)
