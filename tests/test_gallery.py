"""The gallery, over HTTP and in a real browser: Debian's Chromium driven by Playwright."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from opentalking_core.testing.running import running_service

from .helpers.browser import running_chromium
from .helpers.videos import make_video, talking_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx
    from playwright.sync_api import Browser, Page

    from opentalking_core import MouthLandmarks
    from opentalking_core.testing.fixtures import FakeMouth, PutBundle

HOSTILE = "<img src=x onerror=alert(1)><b>Bob</b>"
KEY = "a-key-that-nobody-would-guess"

# ---- over HTTP


def linked_files(service: httpx.Client) -> list[str]:
    """Return the addresses of all files of the page, found as a browser finds them."""
    found = re.findall(r'(?:href|src)="(gallery/[^"]+)"', service.get("/").text)
    for script in found:
        if script.endswith(".js"):
            imports = re.findall(r'from "\./([^"]+)"', service.get(script).text)
            found += [f"gallery/{name}" for name in imports if f"gallery/{name}" not in found]
    return list(dict.fromkeys(found))


def test_page_and_files_have_content_types_and_a_strict_policy(service: httpx.Client) -> None:
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    files = linked_files(service)
    assert {path.rpartition(".")[2] for path in files} == set(types)
    for path in ("", *files):
        answer = service.get("/" + path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(types[path.rpartition(".")[2]] if path else "text/html")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["img-src"] == "'self' blob:"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_page_has_no_external_and_no_inline_resources(service: httpx.Client) -> None:
    for path in ("", *linked_files(service)):
        addresses = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"']*", service.get("/" + path).text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a namespace, not an address
    page = service.get("/").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_page_responds_304_to_its_tag(service: httpx.Client) -> None:
    for path in ("/", "/gallery/gallery.js"):
        first = service.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = service.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert service.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
        head = service.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize("path", ["/gallery/nothing.js", "/gallery/index.html", "/gallery/..%2Fgallery.py", "/gallery"])
def test_other_paths_below_gallery_respond_404(service: httpx.Client, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 404
    assert isinstance(answer.json()["detail"], str)


def test_gallery_can_be_switched_off(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_GALLERY", "false")
    with running_service(store_url) as service:
        for path in ("/", "/gallery/gallery.js"):
            answer = service.get(path)
            assert answer.status_code == 404
            assert answer.json() == {"detail": f"there is nothing at {path}"}
        assert service.get("/avatars").status_code == 200


def test_page_needs_no_key_if_everything_else_does(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", KEY)
    with running_service(store_url, protect="everything") as service:
        assert service.get("/avatars").status_code == 401
        assert service.get("/").status_code == 200
        assert all(service.get("/" + path).status_code == 200 for path in linked_files(service))


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def put_bundle(put_bundle: PutBundle) -> Iterator[PutBundle]:
    """Put bundles from another thread, because Playwright runs an event loop in this thread."""
    with ThreadPoolExecutor(1) as thread:
        yield lambda *args, **more: thread.submit(put_bundle, *args, **more).result()


@pytest.fixture
def open_page(browser: Browser, service: httpx.Client) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the gallery. An error on the page's console fails the test."""
    complaints: list[str] = []
    contexts = []

    def note(kind: str, text: str) -> None:
        # What a browser itself says about answers from 400 on, and about a cut network, is no mistake of the page.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            complaints.append(text)

    def open_page(path: str = "/", base: httpx.Client = service, width: int = 1100, height: int = 760) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", lambda message: note(message.type, message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(f"{str(base.base_url).rstrip('/')}{path}")
        page.wait_for_function("() => document.querySelector('dialog[open]') || count.textContent !== 'Loading…'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def photo(portrait: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "my photo.jpg"
    path.write_bytes(portrait)
    return path


def picture(width: int = 300, height: int = 400) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def wait_text(page: Page, selector: str, text: str) -> None:
    """Wait until a visible element contains the text."""
    page.locator(selector).filter(has_text=text).wait_for()


def loaded(page: Page, selector: str) -> None:
    """Wait until a picture is decoded."""
    page.wait_for_function("(selector) => document.querySelector(selector)?.naturalWidth > 0", arg=selector)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))


def fill_in(page: Page, photo: Path, name: str = "Alice") -> None:
    page.get_by_role("button", name="New avatar").click()
    page.set_input_files("#photo", photo)
    page.get_by_label("Name", exact=True).fill(name)


def test_avatar_is_created_shown_with_its_mouth_and_deleted(
    open_page: Callable[..., Page], base: str, photo: Path, service: httpx.Client
) -> None:
    photo.write_bytes(picture(120, 160))
    page = open_page()
    wait_text(page, "#count", "1 avatar")
    fill_in(page, photo)
    loaded(page, "#photo-preview")
    wait_text(page, "#check-failed", "The face is 72 pixels wide, less than 84")
    page.get_by_role("button", name="Create avatar").click()

    wait_text(page, "#detail-name", "Alice")
    wait_text(page, "#detail-mouth", "The mouth was found by fake_mouth.")
    loaded(page, "#detail-image")
    (avatar_id,) = (avatar["id"] for avatar in service.get("/avatars").json() if avatar["is_custom"])
    manifest = service.get(f"/avatars/{avatar_id}").json()
    for shape, key in {".outer-lip": "outer_lip", ".inner-mouth": "inner_mouth"}.items():
        points = page.locator(f"#detail-outlines {shape}").get_attribute("points") or ""
        assert [[float(n) for n in point.split(",")] for point in points.split()] == manifest["metadata"]["animation"][
            key
        ]
    image, lips, face = (
        page.locator(selector).bounding_box() for selector in ("#detail-image", ".outer-lip", ".face")
    )  # in pixels of the screen
    assert None not in (image, lips, face)
    for x, y, width, height, box in ((0.4, 0.55, 0.2, 0.1, lips), (0.2, 0.1, 0.6, 0.8, face)):
        assert box["x"] == pytest.approx(image["x"] + x * image["width"], abs=4)
        assert box["y"] == pytest.approx(image["y"] + y * image["height"], abs=4)
        assert box["width"] == pytest.approx(width * image["width"], abs=8)
        assert box["height"] == pytest.approx(height * image["height"], abs=8)
    assert json.loads(page.locator("#manifest").inner_text()) == manifest
    page.get_by_label("Show outlines").uncheck()
    assert page.locator(".outer-lip").is_hidden()

    page.get_by_role("button", name="Delete avatar").click()
    page.get_by_role("button", name="Keep it").click()
    assert service.get(f"/avatars/{avatar_id}").status_code == 200
    page.get_by_role("button", name="Delete avatar").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    wait_text(page, "#notice", "“Alice” is deleted.")
    wait_text(page, "#count", "1 avatar")
    assert service.get(f"/avatars/{avatar_id}").status_code == 404


def test_avatar_without_mouth_says_so(
    open_page: Callable[..., Page], base: str, photo: Path, fake_mouth: FakeMouth
) -> None:
    fake_mouth.landmarks = None
    page = open_page()
    fill_in(page, photo)
    wait_text(page, "#check-failed", "No face was found")
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#detail-mouth", "No mouth was found, so the manifest has none.")
    assert page.locator("#detail-outlines polygon").count() == 0


def test_portrait_checks_of_a_photo_show_before_creation(
    open_page: Callable[..., Page], base: str, tmp_path: Path, fake_mouth: FakeMouth
) -> None:
    assert fake_mouth.landmarks is not None
    fake_mouth.landmarks = dataclasses.replace(fake_mouth.landmarks, faces=3)
    page = open_page()
    page.route("**/avatars/check", lambda route: route.fulfill(status=405, json={"detail": "not here"}), times=1)
    large = tmp_path / "large.png"
    large.write_bytes(picture(600, 800))
    page.get_by_role("button", name="New avatar").click()
    page.set_input_files("#photo", large)
    page.wait_for_function("() => document.getElementById('check').ariaBusy === 'false'")
    assert page.locator("#check").is_hidden()  # a service that doesn't check
    page.set_input_files("#photo", large)
    wait_text(page, "#check-failed", "There are 3 faces in the picture")
    page.get_by_text("All checks").click()
    wait_text(page, "#check-all", "The face is 360 pixels wide.")


def test_hostile_names_are_shown_as_text(
    open_page: Callable[..., Page], put_bundle: PutBundle, base: str, photo: Path
) -> None:
    put_bundle("hostile", {"name": HOSTILE, "metadata": {"animation": {"outer_lip": [["<b>", 1], 2]}, "x": HOSTILE}})
    page = open_page("/#/hostile")
    wait_text(page, "#detail-name", HOSTILE)
    wait_text(page, "#manifest", HOSTILE)
    page.keyboard.press("Escape")
    wait_text(page, ".card-name", HOSTILE)
    fill_in(page, photo, name=HOSTILE)
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#detail-name", HOSTILE)
    page.get_by_role("button", name="Delete avatar").click()
    wait_text(page, "#confirm-title", HOSTILE)
    assert page.locator('img[src="x"], b').count() == 0


def test_errors_show_as_sentences(
    open_page: Callable[..., Page], put_bundle: PutBundle, base: str, photo: Path, tmp_path: Path
) -> None:
    page = open_page()
    page.get_by_role("button", name="New avatar").click()
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    page.set_input_files("#photo", text)
    wait_text(page, "#create-error", "“notes.txt” is neither a JPEG, PNG or WebP picture nor an MP4")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#photo", broken)
    wait_text(page, "#create-error", "“broken.png” can’t be read as a picture.")
    page.get_by_label("Name", exact=True).fill("Alice")
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#create-error", "Choose a photo or a video first.")

    page.set_input_files("#photo", photo)
    page.evaluate("document.querySelector('#base option').value = 'gone'")  # deleted by somebody else meanwhile
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#create-error", "The base can't be used: there is no avatar 'gone'.")
    page.context.set_offline(True)
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#create-error", "The server can’t be reached.")
    page.context.set_offline(False)

    page.goto(page.url + "#/nobody")
    wait_text(page, "#detail-error", "There is no avatar 'nobody'.")


def test_video_becomes_an_avatar_with_frames_to_look_at(
    open_page: Callable[..., Page], base: str, fake_mouth: FakeMouth, tmp_path: Path
) -> None:
    video = make_video(tmp_path / "talking.webm", talking_frames(30, 96, 128), codec="libvpx")
    found = fake_mouth.landmarks
    fake_mouth.__class__ = type(
        "Late", (type(fake_mouth),), {"landmarks": property(lambda mouth: found if len(mouth.shapes) > 10 else None)}
    )
    page = open_page()
    page.get_by_role("button", name="New avatar").click()
    page.set_input_files("#photo", video)
    page.wait_for_function("() => document.querySelector('#video-preview').readyState >= 2")
    assert not page.locator("#check").is_visible(), "a check would send the video twice"
    page.get_by_label("Name", exact=True).fill("Alice")
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#detail-mouth", "The avatar is ready. The mouth was found by fake_mouth, in 20 of 30 frames.")
    wait_text(page, "#frame-number", "Frame 1 of 30")
    assert "30, 1.2 seconds" in page.locator("#detail-facts").inner_text()
    assert page.locator("#strip button").count() == 12
    page.get_by_role("button", name="Frame 3", exact=True).click()
    wait_text(page, "#detail-mouth", "No mouth was found in this frame.")
    assert page.locator("#detail-outlines polygon").count() == 0
    assert page.locator("#detail-image").get_attribute("src").endswith("/files/frames/frame_00002.jpg")
    page.locator("#frame").focus()
    page.keyboard.press("End")
    wait_text(page, "#frame-number", "Frame 30 of 30")
    wait_text(page, "#detail-mouth", "The mouth was found in this frame.")
    assert page.locator("#detail-outlines .outer-lip").count() == 1


def test_progress_of_a_video_is_shown_and_failure_is_told(
    open_page: Callable[..., Page], base: str, fake_mouth: FakeMouth, tmp_path: Path
) -> None:
    go_on = threading.Event()
    found = fake_mouth.landmarks

    def wait_at_the_eighth(mouth: FakeMouth) -> MouthLandmarks | None:
        if len(mouth.shapes) == 8:
            go_on.wait(20)
        return found

    fake_mouth.__class__ = type("Slow", (type(fake_mouth),), {"landmarks": property(wait_at_the_eighth)})
    video = make_video(tmp_path / "talking.mp4", talking_frames(10, 96, 128))
    page = open_page()
    page.get_by_role("button", name="New avatar").click()
    page.set_input_files("#photo", video)
    page.get_by_label("Name", exact=True).fill("Alice")
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#progress-text", "of 10 frames")
    go_on.set()
    wait_text(page, "#detail-mouth", "The avatar is ready.")
    page.keyboard.press("Escape")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:300])
    page.get_by_role("button", name="New avatar").click()
    page.set_input_files("#photo", broken)
    page.get_by_label("Name", exact=True).fill("Bob")
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#create-error", "The video")


def test_list_follows_changes_of_others(open_page: Callable[..., Page], put_bundle: PutBundle, base: str) -> None:
    page = open_page()
    wait_text(page, "#count", "1 avatar")
    put_bundle("anna", {"name": "Anna"})
    wait_text(page, "#count", "2 avatars")
    assert page.get_by_role("link", name="Anna").count() == 1


def test_failed_list_can_be_loaded_again(open_page: Callable[..., Page], base: str) -> None:
    page = open_page()
    detail = {"detail": "the avatars can't be reached: the disk is gone"}
    page.route("**/avatars", lambda route: route.fulfill(status=503, json=detail), times=1)
    page.reload()
    wait_text(page, "#message", "The avatars can't be reached: the disk is gone.")
    page.get_by_role("button", name="Try again").click()
    wait_text(page, "#count", "1 avatar")


def test_empty_gallery_says_what_to_do(open_page: Callable[..., Page], put_bundle: PutBundle) -> None:
    page = open_page()
    wait_text(page, "#message", "No avatars yet")
    wait_text(page, "#message", "opentalking-core demo")
    page.get_by_role("button", name="New avatar").click()
    wait_text(page, "#no-base", "There is no wav2lip avatar yet")
    assert page.locator("#create-form").is_hidden()
    page.keyboard.press("Escape")
    put_bundle("first")
    page.get_by_role("button", name="Look again").click()
    wait_text(page, "#count", "1 avatar")
    assert page.locator("#message").is_hidden()


def test_search_and_filters_work_in_a_large_catalog(open_page: Callable[..., Page]) -> None:
    summaries = [
        {
            "id": f"avatar-{n}",
            "name": None if n == 7 else f"Person {n}",
            "model_type": "musetalk" if n % 3 else "wav2lip",
            "width": 512,
            "height": 512,
            "is_custom": n % 10 == 0,
        }
        for n in range(1500)
    ]
    page = open_page()
    page.route("**/avatars", lambda route: route.fulfill(json=summaries))
    page.route("**/preview*", lambda route: route.fulfill(body=picture(30, 40), content_type="image/png"))
    page.reload()
    wait_text(page, "#count", "1,500 avatars")
    assert 0 < page.locator(".card").count() < 400  # the others come as one scrolls
    before = page.locator(".card").count()
    page.locator("#more").scroll_into_view_if_needed()
    page.wait_for_function("(before) => document.querySelectorAll('.card').length > before", arg=before)
    page.get_by_label("Search by name or id").fill("PERSON 12")
    wait_text(page, "#count", "111 of 1,500 avatars")
    page.get_by_label("Custom only").check()
    wait_text(page, "#count", "11 of 1,500 avatars")
    page.get_by_label("Model type").select_option("wav2lip")
    wait_text(page, "#count", "5 of 1,500 avatars")
    assert page.locator(".card-name").all_inner_texts() == [
        "Person 120",
        "Person 1200",
        "Person 1230",
        "Person 1260",
        "Person 1290",
    ]
    page.get_by_label("Search by name or id").fill("nobody")
    wait_text(page, "#message", "Nothing matches")
    page.get_by_role("button", name="Clear filters").click()
    wait_text(page, "#count", "1,500 avatars")
    assert focused(page) == "search"
    page.get_by_label("Search by name or id").fill("avatar-7")
    assert "avatar-7" in page.locator(".card-name").all_inner_texts()  # one that has no name


def test_gallery_works_with_the_keyboard_alone(
    open_page: Callable[..., Page], put_bundle: PutBundle, base: str, service: httpx.Client
) -> None:
    put_bundle("mine", {"name": "Mine", "metadata": {"custom_avatar": True}}, {"preview.png": picture()})
    page = open_page()
    wait_text(page, "#count", "2 avatars")
    visited = []
    while "Mine" not in (visited or [""])[-1]:
        page.keyboard.press("Tab")
        visited.append(focused(page))
        assert len(visited) < 12
    assert visited[1:5] == ["new-avatar", "search", "model-type", "custom-only"]
    page.keyboard.press("Enter")
    wait_text(page, "#detail-name", "Mine")
    assert focused(page) == "detail-name"
    page.locator("#detail-body").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.hash")
    assert "Mine" in focused(page)
    page.keyboard.press("Enter")
    page.locator("#detail-body").wait_for()
    for _ in range(8):
        page.keyboard.press("Tab")
        if focused(page) == "delete":
            break
    page.keyboard.press("Enter")
    page.locator("#confirm").wait_for()
    assert focused(page) == "confirm-no"  # an Enter too many deletes nothing
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_text(page, "#count", "1 avatar")
    assert focused(page) == "avatars"
    assert service.get("/avatars/mine").status_code == 404


def test_only_custom_avatars_have_a_delete_button(open_page: Callable[..., Page], base: str) -> None:
    page = open_page(f"/#/{base}")
    page.locator("#manifest").wait_for()
    assert page.locator("#delete").is_hidden()
    wait_text(page, "#detail-mouth", "The manifest has no outline of the mouth.")
    assert page.locator("#detail-placeholder").inner_text() == "D"  # it has no preview
    page.go_back()  # about:blank; and forward again
    page.go_forward()
    wait_text(page, "#detail-name", "Demo")


def test_dropped_photo_opens_the_form(open_page: Callable[..., Page], base: str) -> None:
    page = open_page()
    wait_text(page, "#count", "1 avatar")
    transfer = page.evaluate_handle(
        """async () => {
          const canvas = new OffscreenCanvas(40, 50);
          canvas.getContext("2d").fillRect(0, 0, 9, 9);
          const transfer = new DataTransfer();
          transfer.items.add(new File([await canvas.convertToBlob()], "dropped.png", { type: "image/png" }));
          return transfer;
        }"""
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    page.locator("#drop-hint").wait_for()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    wait_text(page, "#photo-name", "dropped.png")
    loaded(page, "#photo-preview")
    assert page.locator("#drop-hint").is_hidden()
    assert focused(page) == "name"


def test_upload_shows_progress_and_can_be_cancelled(
    open_page: Callable[..., Page], base: str, tmp_path: Path, service: httpx.Client
) -> None:
    large = tmp_path / "large.png"
    Image.effect_noise((700, 700), 90).save(large)
    page = open_page()
    page.route("**/avatars/check", lambda route: route.fulfill(status=404, json={"detail": "not here"}))
    fill_in(page, large)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    network.send("Network.emulateNetworkConditions", slow)
    page.get_by_role("button", name="Create avatar").click()
    wait_text(page, "#progress-text", "Uploading…")
    page.wait_for_function("() => document.getElementById('progress-bar').value > 0")
    assert page.get_by_label("Name", exact=True).is_disabled()
    assert focused(page) == "create-cancel"
    page.keyboard.press("Enter")
    page.locator("#create").wait_for(state="hidden")
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == [base]
    page.get_by_role("button", name="New avatar").click()
    assert page.get_by_role("button", name="Create avatar").is_visible()


def test_gallery_on_a_phone_is_no_wider_than_the_screen(
    open_page: Callable[..., Page], put_bundle: PutBundle, base: str, photo: Path
) -> None:
    put_bundle("x" * 60, {"name": "W" * 90}, {"preview.png": picture(900, 500)})
    put_bundle("another", {"name": "另一个头像" * 9, "metadata": {"y": "z" * 200}}, {"preview.png": picture()})
    page = open_page(width=360, height=640)
    wait_text(page, "#count", "3 avatars")

    def widest() -> int:
        return int(
            page.evaluate(
                """Math.max(document.documentElement.scrollWidth,
                     ...[...document.querySelectorAll("dialog[open]")].map((one) => one.scrollWidth))"""
            )
        )

    assert widest() == 360
    columns = {box["x"] for card in page.locator(".card").all() if (box := card.bounding_box())}
    assert len(columns) == 2
    page.locator(".card a").first.click()
    page.locator("#manifest").wait_for()
    assert widest() == 360
    page.keyboard.press("Escape")
    fill_in(page, photo, name="N" * 200)
    wait_text(page, "#check-title", "The")
    assert widest() == 360
    page.get_by_role("button", name="Create avatar").click()
    page.locator("#detail-body").wait_for()
    assert widest() == 360


def test_gallery_asks_for_a_key_if_one_is_needed(
    open_page: Callable[..., Page], put_bundle: PutBundle, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bundle("mine", {"name": "Mine", "metadata": {"custom_avatar": True}}, {"preview.png": picture()})
    monkeypatch.setenv("OPENTALKING_API_KEYS", KEY)
    with running_service(store_url, protect="everything") as protected:
        page = open_page(base=protected)
        wait_text(page, "#key-reason", "send a key")
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Use key").click()
        wait_text(page, "#key-reason", "not known here")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.get_by_role("button", name="Use key").click()
        wait_text(page, "#count", "1 avatar")
        loaded(page, ".card img")
        page.locator(".card a").click()
        loaded(page, "#detail-image")
        assert page.evaluate("[Object.values(sessionStorage), localStorage.length]") == [[KEY], 0]
        assert KEY not in page.content() + page.url
        page.keyboard.press("Escape")
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget it").click()
        wait_text(page, "#key-reason", "send a key")
        page.get_by_role("button", name="Cancel").click()
