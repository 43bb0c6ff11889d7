"""GET /avatars/{avatar_id}/preview?width=...: smaller copies of previews."""

from __future__ import annotations

import io
import json
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from opentalking_core.testing.running import running_service

from .helpers.http import ask, let_tags_settle, wait_for
from .helpers.images import encoded
from .helpers.pictures import PNG, bomb, chunk, ihdr, png
from .helpers.stores import WatchedStore, serve, wait_until

if TYPE_CHECKING:
    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import DeleteBundle
    from .helpers.http import Answer

PREVIEW = "/avatars/anna/preview"
WEBP = {"Accept": "image/webp"}


def gradient(width: int, height: int, image_format: str = "PNG") -> bytes:
    """Return a picture that goes from dark red on the left to light green on the right."""
    image = Image.linear_gradient("L").rotate(90).resize((width, height))
    return encoded(
        Image.merge("RGB", (image.point(lambda v: 128 - v // 2), image, image.point(lambda v: 0))), image_format
    )


def noise(width: int, height: int, seed: int = 0) -> bytes:
    return encoded(Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3)))


def opened(answer: Answer) -> Image.Image:
    assert answer.status == 200, answer.body[:200]
    image = Image.open(io.BytesIO(answer.body))
    assert answer.headers["content-type"] == f"image/{(image.format or '').lower()}"
    return image


def assert_refused(answer: Answer, status: int, *words: str) -> None:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    (detail,) = json.loads(answer.body).values()
    assert all(word in detail for word in words), detail
    assert "Traceback" not in detail


def test_thumbnail_has_requested_width_and_proportions(service: httpx.Client, put_bundle: PutBundle) -> None:
    for avatar_id, width, height in (("upright", 300, 400), ("wide", 800, 200), ("flat", 3000, 2), ("thin", 20, 500)):
        put_bundle(avatar_id, files={"preview.png": gradient(width, height)})
        for wanted in (16, 17, 19, 199, 299, 1500):
            if wanted < width:
                size = opened(ask(service, f"/avatars/{avatar_id}/preview?width={wanted}")).size
                assert size == (wanted, max(1, round(height * wanted / width)))


def test_thumbnail_shows_same_picture(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": gradient(640, 480)})
    for headers in ({}, WEBP):
        thumbnail = opened(ask(service, f"{PREVIEW}?width=64", headers)).convert("RGB")
        expected = Image.open(io.BytesIO(gradient(640, 480))).resize((64, 48), Image.Resampling.BOX)
        for x in range(0, 64, 7):
            for ours, theirs in zip(thumbnail.getpixel((x, 20)), expected.getpixel((x, 20)), strict=True):  # type: ignore[arg-type]
                assert abs(ours - theirs) < 24, (x, headers)


def test_thumbnail_is_smaller_than_preview(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": noise(600, 600)})
    sizes = [len(ask(service, f"{PREVIEW}{query}", WEBP).body) for query in ("", "?width=300", "?width=100")]
    assert sizes[0] > 4 * sizes[1] > 8 * sizes[2]


def test_thumbnail_wider_than_preview_is_raw_preview(service: httpx.Client, put_bundle: PutBundle) -> None:
    preview = gradient(100, 50) + b"more bytes in the file"
    put_bundle("anna", files={"preview.png": preview})
    let_tags_settle()
    raw = ask(service, PREVIEW)
    for width in (100, 101, 2048):
        answer = ask(service, f"{PREVIEW}?width={width}")
        assert (answer.status, answer.body) == (200, preview)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["etag"] == raw.headers["etag"]
        webp = opened(ask(service, f"{PREVIEW}?width={width}", WEBP))
        assert (webp.format, webp.size) == ("WEBP", (100, 50))
    assert opened(ask(service, f"{PREVIEW}?width=99")).size == (99, 50)


def test_preview_without_width_is_raw(service: httpx.Client, put_bundle: PutBundle) -> None:
    preview = gradient(200, 100)
    put_bundle("anna", files={"preview.png": preview})
    for query in ("", "?height=16", "?Width=16", "?widths=16", "?w=16"):
        answer = ask(service, PREVIEW + query, WEBP)
        assert (answer.body, answer.headers["content-type"]) == (preview, "image/png")


def test_thumbnail_is_webp_if_accept_names_webp(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": gradient(200, 100)})
    webp = (
        *("image/webp", "IMAGE/WebP", "image/png, image/webp;q=0.1", "text/html,image/avif,image/webp,*/*;q=0.8"),
        *("image/webp;q=1.0", "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"),
    )
    others = (
        *(
            "*/*",
            "image/*",
            "image/png",
            "",
            "image/webp;q=0",
            "image/webp;q=0.0, */*",
            "image/png,image/webp; q=0.000",
        ),
        *("image/webpx", "ximage/webp", "video/webp", "image/png;note=image/webp", "text/html", ";;,=", "image"),
    )
    for accepted in (*webp, *others):
        answer = ask(service, f"{PREVIEW}?width=64", {"Accept": accepted})
        assert opened(answer).format == ("WEBP" if accepted in webp else "PNG"), accepted
        assert answer.headers["vary"] == "Accept"
    assert opened(ask(service, f"{PREVIEW}?width=64")).format == "PNG"


def test_thumbnail_rejects_width_out_of_bounds(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": gradient(2100, 20)})
    for width in (16, 2048):
        assert opened(ask(service, f"{PREVIEW}?width={width}")).width == width
    for text in ("15", "2049", "0", "-1", "-320", "999999999999", "9" * 3000):
        assert_refused(ask(service, f"{PREVIEW}?width={text}"), 400, "width")
    assert_refused(ask(service, f"{PREVIEW}?width=15"), 400, "15", "16", "2048")
    for text in (
        "",
        "%20",
        "abc",
        "320px",
        "3.5",
        "1e2",
        "0x40",
        "NaN",
        "%00",
        "%FF",
        "64,64",
        "None",
        "true",
        "*",
        "3_2",
        "%2B32",
    ):
        assert_refused(ask(service, f"{PREVIEW}?width={text}"), 400, "width")
    assert_refused(ask(service, f"{PREVIEW}?width"), 400, "width")


def test_thumbnail_checks_width_before_avatar(service: httpx.Client) -> None:
    assert_refused(ask(service, "/avatars/nobody/preview?width=15"), 400, "width")
    assert_refused(ask(service, "/avatars/nobody/preview?width=16"), 404, "nobody")


def test_head_of_thumbnail_has_headers_of_get(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": gradient(200, 100)})
    let_tags_settle()
    get, head = (ask(service, f"{PREVIEW}?width=64", method=method) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))
    assert head.headers["etag"] == get.headers["etag"]
    assert ask(service, f"{PREVIEW}?width=15", method="HEAD").status == 400


# -- kinds of previews


def drawn(mode: str) -> Image.Image:
    image = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 59, 79), fill=(200, 0, 0, 255))
    if mode == "RGBA":
        return image
    if mode == "LA":
        return image.convert("LA")
    if mode == "P with transparency":
        return image.quantize(8)
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    if mode == "I;16":
        return Image.frombytes("I;16", (120, 80), (b"\xf0\x30" * 60 + b"\xff\xff" * 60) * 80)
    return flat.quantize(4) if mode == "P" else flat.convert(mode)


def test_thumbnail_accepts_every_png_mode(service: httpx.Client, put_bundle: PutBundle) -> None:
    """The left half is dark. The right half is white, or transparent in the preview and in the thumbnail."""
    for n, mode in enumerate(("RGBA", "LA", "P", "P with transparency", "L", "1", "I;16", "RGB")):
        put_bundle(f"anna-{n}", files={"preview.png": encoded(drawn(mode))})
        for headers in ({}, WEBP):
            thumbnail = opened(ask(service, f"/avatars/anna-{n}/preview?width=60", headers))
            assert thumbnail.size == (60, 40)
            is_transparent = mode in ("RGBA", "LA", "P with transparency")
            assert (thumbnail.mode == "RGBA") == is_transparent
            if is_transparent:
                assert thumbnail.getpixel((50, 20))[3] == 0  # type: ignore[index]
                thumbnail = Image.alpha_composite(Image.new("RGBA", (60, 40), "white"), thumbnail)
            grey = thumbnail.convert("L")
            dark, light = grey.getpixel((10, 20)), grey.getpixel((50, 20))
            assert isinstance(dark, int)
            assert isinstance(light, int)
            assert dark < 110 < 245 < light, mode


def test_thumbnail_accepts_jpeg_and_webp_under_png_name(service: httpx.Client, put_bundle: PutBundle) -> None:
    for image_format in ("JPEG", "WEBP"):
        put_bundle(image_format, files={"preview.png": gradient(120, 80, image_format)})
        assert opened(ask(service, f"/avatars/{image_format}/preview?width=60")).size == (60, 40)


def test_thumbnail_of_rotated_photo_is_upright(service: httpx.Client, put_bundle: PutBundle) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    put_bundle("anna", files={"preview.png": encoded(Image.new("RGB", (120, 80)), "JPEG", exif=exif)})
    assert opened(ask(service, f"{PREVIEW}?width=40")).size == (40, 60)


def test_thumbnail_of_broken_preview_is_not_found(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("bert", files={"preview.png": gradient(100, 100)})
    for n, preview in enumerate((b"", b"no picture", noise(100, 100)[:500], b"GIF89a", b"<svg/>")):
        put_bundle(f"anna-{n}", files={"preview.png": preview})
        for _ in range(2):
            assert_refused(ask(service, f"/avatars/anna-{n}/preview?width=64"), 404, f"anna-{n}", "image")
            assert ask(service, f"/avatars/anna-{n}/preview").body == preview
    assert opened(ask(service, "/avatars/bert/preview?width=64")).width == 64


def test_thumbnail_of_hostile_preview_leaves_others_served(store_url: str, put_bundle: PutBundle) -> None:
    """Run worker processes, as `serve` does. More hostile pictures are in tests/test_hostile_pictures.py."""
    previews = {
        "bomb": PNG + ihdr(8, 8) + chunk(b"IDAT", bomb(1024)) + chunk(b"IEND", b""),
        "text-bomb": png(chunk(b"zTXt", b"Comment\0\0" + bomb(256))),
        "liar": PNG + ihdr(65500, 65500) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""),
        "bert": gradient(100, 100),
    }
    for avatar_id, preview in previews.items():
        put_bundle(avatar_id, files={"preview.png": preview})
    with running_service(store_url, portrait_workers=1) as service:
        assert_refused(ask(service, "/avatars/liar/preview?width=64"), 404, "liar", "megapixels")
        for avatar_id in ("bomb", "text-bomb"):
            answer = ask(service, f"/avatars/{avatar_id}/preview?width=64")
            assert answer.status in (200, 404)  # decoders may accept both: they say that they are 8 pixels wide
            assert answer.status == 404 or answer.body == previews[avatar_id]
        assert opened(ask(service, "/avatars/bert/preview?width=64")).width == 64


def test_thumbnail_without_preview_is_not_found(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna")
    assert_refused(ask(service, f"{PREVIEW}?width=64"), 404, "anna", "preview.png")


# -- cached thumbnails


def test_thumbnail_etag_differs_by_width_and_format(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": gradient(200, 100)})
    let_tags_settle()
    raw = ask(service, PREVIEW).headers["etag"]
    tags = {
        ask(service, f"{PREVIEW}?width={width}", headers).headers["etag"]
        for width in (16, 17, 160)
        for headers in ({}, WEBP)
    }
    assert len(tags | {raw}) == 7
    webp = ask(service, f"{PREVIEW}?width=16", WEBP).headers["etag"]
    assert ask(service, f"{PREVIEW}?width=16", {**WEBP, "If-None-Match": webp}).status == 304
    assert ask(service, f"{PREVIEW}?width=16", {"If-None-Match": webp}).status == 200
    unchanged = ask(service, f"{PREVIEW}?width=16", {**WEBP, "If-None-Match": webp})
    assert unchanged.headers["vary"] == "Accept"


def test_thumbnail_changes_with_preview(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    put_bundle("anna", files={"preview.png": encoded(Image.new("RGB", (200, 100), "navy"))})
    put_bundle("bert", files={"preview.png": gradient(200, 100)})
    before = [ask(service, f"{PREVIEW}?width=64", headers) for headers in ({}, WEBP)]
    delete_bundle("anna")
    put_bundle("anna", files={"preview.png": encoded(Image.new("RGB", (200, 50), "yellow"))})
    for first, headers in zip(before, ({}, WEBP), strict=True):
        known = {**headers, "If-None-Match": first.headers["etag"]}
        changed = wait_for(
            lambda: answer if (answer := ask(service, f"{PREVIEW}?width=64", known)).status == 200 else None  # noqa: B023
        )
        assert opened(changed).size == (64, 16)
        red, _, blue = opened(changed).convert("RGB").getpixel((30, 8))  # type: ignore[misc]
        assert red > 240 > 20 > blue
    delete_bundle("anna")
    put_bundle("anna", files={"preview.png": gradient(20, 10)})  # not wider than 64
    wait_for(lambda: ask(service, f"{PREVIEW}?width=64").body == gradient(20, 10))
    delete_bundle("anna")
    wait_for(lambda: ask(service, f"{PREVIEW}?width=64").status == 404)
    assert opened(ask(service, "/avatars/bert/preview?width=64")).size == (64, 32)


def test_thumbnail_larger_than_cache_is_served(store_url: str, put_bundle: PutBundle) -> None:
    """Of a cache of 1 MiB, thumbnails get a quarter. The first one is larger; the others are larger together."""
    put_bundle("anna", files={"preview.png": noise(700, 400)})
    with running_service(store_url, cache_mb=1) as service:
        for _ in range(2):
            thumbnail = ask(service, f"{PREVIEW}?width=600")
            assert len(thumbnail.body) > 300_000
            assert opened(thumbnail).size == (600, 343)
        for width in (*range(16, 300, 30), *range(16, 300, 30)):
            assert opened(ask(service, f"{PREVIEW}?width={width}")).width == width


def test_concurrent_thumbnails_are_all_served(store_url: str, put_bundle: PutBundle) -> None:
    """The cache has room for a few: one request may evict another's thumbnail before that one is sent."""
    put_bundle("anna", files={"preview.png": noise(500, 300)})
    widths = [width for _ in range(3) for width in range(100, 400, 20)]
    with running_service(store_url, cache_mb=1) as service, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda width: ask(service, f"{PREVIEW}?width={width}"), widths))
    assert [opened(answer).width for answer in answers] == widths


def test_concurrent_thumbnails_of_large_preview_share_reads() -> None:
    """A large preview isn't cached, and each request that reads it holds a copy. Later requests find the thumbnail."""
    store = WatchedStore()
    store.put("anna", files={"preview.png": noise(300, 300)})
    with serve(store, cache_mb=1) as service, ThreadPoolExecutor(6) as clients:
        with store.holding("read anna/preview.png"):
            answers = [clients.submit(ask, service, f"{PREVIEW}?width=64") for _ in range(6)]
            wait_until(lambda: store.opened.count("anna/preview.png") == 6)
        assert {opened(answer.result()).size for answer in answers} == {(64, 64)}
    assert store.read.count("anna/preview.png") == 2, "one for each thumbnail slot"
