"""Entity tags, 304, Cache-Control, Vary, HEAD and compression, for the list, a manifest, a preview and a thumbnail."""

from __future__ import annotations

import email.utils
import gzip
import io
import json
import random
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from opentalking_core.catalog import scanning as catalog
from opentalking_core.testing.running import running_service

from .helpers.http import Answer, ask, let_tags_settle, wait_for
from .helpers.server import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import DeleteBundle

LIST, MANIFEST, PREVIEW, THUMBNAIL = PATHS = (
    "/avatars",
    "/avatars/anna",
    "/avatars/anna/preview",
    "/avatars/anna/preview?width=16",
)
GZIP = {"Accept-Encoding": "gzip"}
LAST_YEAR = "Thu, 01 Jan 2015 00:00:00 GMT"
IN_A_WHILE = "Fri, 01 Jan 2100 00:00:00 GMT"


def picture(seed: int, width: int = 40, height: int = 30) -> bytes:
    """Return a PNG of noise."""
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def anna(put_bundle: PutBundle) -> None:
    """Store one avatar, and wait until the tags of its files are stable."""
    put_bundle("anna", {"metadata": {"custom_avatar": True}}, {"preview.png": picture(1)})
    let_tags_settle()


@pytest.fixture
def crowd(put_bundle: PutBundle) -> None:
    """Store enough avatars for the list to be compressed."""
    for n in range(20):
        put_bundle(f"avatar-{n:02}", {"name": f"Number {n}"})


# -- tags and what goes with them


@pytest.mark.usefixtures("anna")
def test_response_has_a_strong_tag_and_must_be_revalidated(service: httpx.Client) -> None:
    for path in PATHS:
        for _ in range(2):
            answer = ask(service, path)
            assert answer.status == 200
            assert re.fullmatch(r'"[!#-~]{8,}"', answer.headers["etag"])
            assert answer.headers["cache-control"] == "no-cache"
            modified = email.utils.parsedate_to_datetime(answer.headers["last-modified"]).timestamp()
            assert time.time() - 60 < modified <= time.time()
            assert answer.headers["last-modified"].endswith(" GMT")


@pytest.mark.usefixtures("anna")
def test_known_tag_responds_304(service: httpx.Client) -> None:
    for path in PATHS:
        first = ask(service, path)
        for known in ("{}", "W/{}", '"other", {}', '{},"other"', '"a","b", W/{} ,W/"c"', '"*", {}', "*"):
            answer = ask(service, path, {"If-None-Match": known.format(first.headers["etag"])})
            assert (answer.status, answer.body) == (304, b""), known
            for name in ("etag", "cache-control", "vary"):
                assert answer.headers.get(name) == first.headers.get(name)
            about_content = {"last-modified", "accept-ranges", *(f"content-{what}" for what in ("length", "type"))}
            assert answer.headers.keys().isdisjoint(about_content)


@pytest.mark.usefixtures("anna")
def test_unknown_tag_responds_200_with_the_body(service: httpx.Client) -> None:
    for path in PATHS:
        first = ask(service, path)
        for known in ('"other"', 'W/"other"', "{}", "W/{}", 'w/"{}"', '"{}x"', '"x{}"', '""', "", "W/", '"*"', ","):
            answer = ask(service, path, {"If-None-Match": known.format(first.headers["etag"].strip('"'))})
            assert (answer.status, answer.body) == (200, first.body), known
            assert answer.headers["etag"] == first.headers["etag"]


@pytest.mark.usefixtures("anna")
def test_tag_in_one_of_several_headers_responds_304(service: httpx.Client) -> None:
    for path in PATHS:
        tag = ask(service, path).headers["etag"]
        assert ask(service, path, [("If-None-Match", '"other"'), ("If-None-Match", tag)]).status == 304
        assert ask(service, path, [("If-None-Match", '"other"'), ("If-None-Match", '"another"')]).status == 200


@pytest.mark.usefixtures("anna")
def test_if_modified_since_responds_304_or_200(service: httpx.Client) -> None:
    for path in PATHS:
        first = ask(service, path)
        for since, status in ((first.headers["last-modified"], 304), (IN_A_WHILE, 304), (LAST_YEAR, 200)):
            answer = ask(service, path, {"If-Modified-Since": since})
            assert answer.status == status, since
            assert answer.body == (first.body if status == 200 else b"")
            assert answer.headers["etag"] == first.headers["etag"]
            assert ("last-modified" in answer.headers) == (status == 200)


@pytest.mark.usefixtures("anna")
def test_malformed_date_is_ignored(service: httpx.Client) -> None:
    dates = (
        *("", "yesterday", "0", "-1", "1747150000", "*", '"tag"', "2026-05-13T15:30:12Z", ",,,", "Fri,"),
        *("Fri, 32 Jan 2100 00:00:00 GMT", "Fri, 01 Xyz 2100 00:00:00 GMT", "Fri, 01 Jan 2100 25:00:00 GMT"),
        *("Fri, 01 Jan 99999999999999999999 00:00:00 GMT", f"Fri, 01 Jan {'9' * 5000} 00:00:00 GMT"),
        *("Fri, 01 Jan 2100 00:00:00 +99999999999999999999", "Fri, 01 Jan 2100 00:00:00 +9999"),
    )
    for path in PATHS:
        first = ask(service, path)
        for date in dates:
            answer = ask(service, path, {"If-Modified-Since": date})
            assert (answer.status, answer.body) == (200, first.body), date[:60]


@pytest.mark.usefixtures("anna")
def test_if_none_match_takes_precedence_over_if_modified_since(service: httpx.Client) -> None:
    for path in PATHS:
        first = ask(service, path)
        tag, date = first.headers["etag"], first.headers["last-modified"]
        assert ask(service, path, {"If-None-Match": '"other"', "If-Modified-Since": date}).status == 200
        assert ask(service, path, {"If-None-Match": '"other"', "If-Modified-Since": IN_A_WHILE}).status == 200
        assert ask(service, path, {"If-None-Match": tag, "If-Modified-Since": LAST_YEAR}).status == 304
        assert ask(service, path, {"If-None-Match": tag, "If-Modified-Since": "yesterday"}).status == 304


@pytest.mark.parametrize("cache_mb", [1, 64])
def test_head_has_the_headers_of_get(store_url: str, put_bundle: PutBundle, cache_mb: int) -> None:
    put_bundle("anna", files={"preview.png": picture(1, 320, 320)})  # 300 KiB: too many for 1 MiB of memory
    put_bundle("bert", {"name": "x" * 2000})
    let_tags_settle()
    with running_service(store_url, cache_mb=cache_mb) as service:
        for path in PATHS:
            tag = ask(service, path).headers["etag"]
            for condition in (
                *({}, GZIP, {"If-None-Match": tag}, {"If-None-Match": '"other"'}),
                {"If-Modified-Since": IN_A_WHILE},
            ):
                get, head = ask(service, path, condition), ask(service, path, condition, "HEAD")
                assert head.body == b""
                assert head.status == get.status
                assert without_moment(head.headers) == without_moment(get.headers)
                if get.status == 200:
                    assert head.headers["content-length"] == str(len(get.body))


def without_moment(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in ("date", "x-request-id")}


def test_conditional_requests_work_for_ids_in_any_script(service: httpx.Client, put_bundle: PutBundle) -> None:
    avatar_ids = ("custom", "check", "李雷")
    for avatar_id in avatar_ids:
        put_bundle(avatar_id, files={"preview.png": picture(1)})
    let_tags_settle()
    for avatar_id in avatar_ids:
        for path in (f"/avatars/{avatar_id}", f"/avatars/{avatar_id}/preview", f"/avatars/{avatar_id}/"):
            first = ask(service, path)
            assert ask(service, path, {"If-None-Match": first.headers["etag"]}).status == 304


def test_error_never_responds_304(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("bert")
    for path in (
        "/avatars/nobody",
        "/avatars/nobody/preview",
        "/avatars/bert/preview",
        "/avatars/bert/preview?width=16",
    ):
        for condition in ({"If-None-Match": "*"}, {"If-Modified-Since": IN_A_WHILE}, {"Range": "bytes=0-1"}):
            answer = ask(service, path, condition)
            assert answer.status == 404
            assert answer.headers.keys().isdisjoint({"etag", "last-modified"})


# -- what tags stand for


def assert_same_tags(one: httpx.Client, other: httpx.Client) -> None:
    for path in PATHS:
        for headers in ({}, GZIP):
            first, second = ask(one, path, headers), ask(other, path, headers)
            assert first.headers["etag"] == second.headers["etag"]
            assert first.body == second.body
            assert ask(other, path, {**headers, "If-None-Match": first.headers["etag"]}).status == 304


@pytest.mark.usefixtures("anna", "crowd")
def test_two_services_have_the_same_tags(service: httpx.Client, store_url: str) -> None:
    let_tags_settle()
    with running_service(store_url) as other:
        assert_same_tags(service, other)


@pytest.mark.usefixtures("folder_store", "anna", "crowd")
def test_two_processes_have_the_same_tags(service: httpx.Client, tmp_path: Path) -> None:
    let_tags_settle()
    with serving(tmp_path / "avatars", OPENTALKING_PORTRAIT_WORKERS="0") as server, server.client() as other:
        assert_same_tags(service, other)


def test_tag_of_a_list_depends_on_its_bytes_only(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    """The same list has the same tag after changes and reversals, and after changes that the list doesn't show."""
    put_bundle("anna", {"name": "Anna"})
    first = service.get(LIST)
    put_bundle("bert")
    second = service.get(LIST)
    assert second.headers["etag"] != first.headers["etag"]
    delete_bundle("bert")
    assert service.get(LIST).headers["etag"] == first.headers["etag"]
    put_bundle("hidden", {"metadata": {"hidden": True}})
    delete_bundle("anna")
    put_bundle("anna", {"name": "Anna", "fps": 30, "metadata": {"mood": "good"}}, {"preview.png": b"png"})
    again = service.get(LIST)
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])


@pytest.mark.usefixtures("anna")
def test_tag_never_names_two_contents(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    """Collect responses while an avatar is replaced repeatedly, as fast as possible."""
    bodies: dict[tuple[str, str], bytes] = {}
    for n in range(8):
        delete_bundle("anna")
        put_bundle("anna", {"name": f"Anna {n}"}, {"preview.png": picture(n)})
        for path in (*PATHS, *PATHS):
            for headers in ({}, GZIP):
                answer = ask(service, path, headers)
                assert answer.status == 200
                assert bodies.setdefault((path, answer.headers["etag"]), answer.body) == answer.body
    wait_for(lambda: service.get(MANIFEST).json()["name"] == "Anna 7")
    wait_for(lambda: ask(service, PREVIEW).body == picture(7))


@pytest.mark.usefixtures("anna")
def test_changed_content_is_sent_with_another_tag(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    before = {path: ask(service, path) for path in PATHS}
    delete_bundle("anna")
    put_bundle("anna", {"name": "Another"}, {"preview.png": picture(2)})
    service.get(LIST)  # where a store can't tell of changes, this waits for a scan
    for path, first in before.items():
        changed = wait_for_change(service, path, first)
        assert changed.headers["etag"] != first.headers["etag"]
        assert changed.body != first.body


def wait_for_change(service: httpx.Client, path: str, first: Answer) -> Answer:
    """Return the first response other than 304 to a client that has `first`."""

    def changed() -> Answer | None:
        answer = ask(service, path, {"If-None-Match": first.headers["etag"]})
        return answer if answer.status == 200 else None

    return wait_for(changed)


@pytest.mark.usefixtures("folder_store", "anna")
def test_edited_files_show_within_seconds(service: httpx.Client, tmp_path: Path) -> None:
    """Edit in place, with a name of the same length, so that only the files themselves tell of the change."""
    first = {path: ask(service, path) for path in PATHS}
    bundle = tmp_path / "avatars" / "anna"
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "name": manifest["name"][::-1]}))
    (bundle / "preview.png").write_bytes(picture(3))
    for path in PATHS:
        assert wait_for_change(service, path, first[path]).body != first[path].body
    assert service.get(LIST).json()[0]["name"] == service.get(MANIFEST).json()["name"] == "omeD"
    assert ask(service, PREVIEW).body == picture(3)


# -- compression


def plain_and_gzipped(service: httpx.Client) -> tuple[Any, Any]:
    return ask(service, LIST), ask(service, LIST, GZIP)


@pytest.mark.usefixtures("crowd")
def test_list_is_compressed_for_clients_that_accept_gzip(service: httpx.Client) -> None:
    plain, compressed = plain_and_gzipped(service)
    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(compressed.body) == plain.body
    assert len(compressed.body) < len(plain.body) / 2
    assert compressed.headers["content-length"] == str(len(compressed.body))
    assert compressed.headers["etag"] != plain.headers["etag"]
    assert compressed.headers["content-type"] == plain.headers["content-type"]
    for answer in (plain, compressed):
        assert answer.headers["vary"] == "Accept-Encoding"
    assert ask(service, LIST, GZIP).body == compressed.body


@pytest.mark.usefixtures("crowd")
def test_accept_encoding_decides_on_compression(service: httpx.Client) -> None:
    takes = (
        *("gzip", "GZip", "deflate, gzip;q=0.5", "br;q=1.0, gzip ; q=0.8, *;q=0.1", "gzip;q=0.001", "gzip;q=1.000"),
        *("deflate,gzip,br,zstd", "*", "*;q=0, gzip"),
    )
    refuses = (
        *("gzip;q=0", "gzip; q=0.0", "gzip;Q=0.000", "gzip ;q=0.", "*;q=0", "*, gzip;q=0", "gzip;q=0, *"),
        *("identity", "br", "", ",", "gzipped", "q=gzip", "deflate;gzip"),
    )
    for accepted in (*takes, *refuses):
        answer = ask(service, LIST, {"Accept-Encoding": accepted})
        assert ("content-encoding" in answer.headers) == (accepted in takes), accepted
        assert answer.headers["vary"] == "Accept-Encoding"
        assert len(json.loads(gzip.decompress(answer.body) if accepted in takes else answer.body)) == 20


@pytest.mark.usefixtures("anna")
def test_short_lists_and_pictures_are_not_compressed(service: httpx.Client) -> None:
    for path in PATHS:
        plain, compressed = ask(service, path), ask(service, path, GZIP)
        assert "content-encoding" not in compressed.headers
        assert (compressed.body, compressed.headers["etag"]) == (plain.body, plain.headers["etag"])


@pytest.mark.usefixtures("crowd")
def test_compressed_list_has_its_own_tag(service: httpx.Client) -> None:
    plain, compressed = plain_and_gzipped(service)
    for known, headers, status in (
        (compressed, GZIP, 304),
        (plain, {}, 304),
        (compressed, {}, 200),
        (plain, GZIP, 200),
    ):
        answer = ask(service, LIST, {**headers, "If-None-Match": known.headers["etag"]})
        assert answer.status == status
        assert answer.headers["vary"] == "Accept-Encoding"
        if status == 304:
            assert answer.headers["etag"] == known.headers["etag"]
            assert "content-encoding" not in answer.headers  # there is no content


@pytest.mark.usefixtures("crowd")
def test_compressed_list_is_as_fresh_as_the_plain_one(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    before = plain_and_gzipped(service)[1]
    change: Callable[[str], None]
    for change in (put_bundle, delete_bundle):
        change("zoe")
        service.get(LIST)  # where a store can't tell of changes, this waits for a scan
        plain, compressed = plain_and_gzipped(service)
        assert gzip.decompress(compressed.body) == plain.body
        assert (b'"zoe"' in plain.body) == (change is put_bundle)
        assert (compressed.headers["etag"] == before.headers["etag"]) == (change is delete_bundle)


@pytest.mark.usefixtures("crowd")
def test_compressed_list_has_the_date_of_the_plain_one(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes a list that is the same as before: a client may have only the date of the list in between."""
    clock = SimpleNamespace(monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(catalog, "time", clock)
    before = plain_and_gzipped(service)
    clock.time = lambda: 4_100_000_000.0
    put_bundle("zoe")
    meanwhile = ask(service, LIST)
    assert b'"zoe"' in meanwhile.body
    clock.time = lambda: 4_200_000_000.0
    delete_bundle("zoe")
    ask(service, LIST)  # where a store can't tell of changes, this waits for a scan
    plain, compressed = plain_and_gzipped(service)
    assert (plain.body, compressed.body) == (before[0].body, before[1].body)
    assert compressed.headers["last-modified"] == plain.headers["last-modified"]
    since = {"If-Modified-Since": meanwhile.headers["last-modified"]}
    assert ask(service, LIST, since).status == ask(service, LIST, {**GZIP, **since}).status == 200


# -- other web origins


@pytest.mark.usefixtures("anna", "crowd")
def test_vary_includes_origin(store_url: str) -> None:
    """Caches must not give a response for one origin to a page of another origin."""
    with running_service(store_url, cors_origins="http://a.example, http://b.example") as service:
        for path in (*PATHS, "/avatars/nobody"):
            for origin in ("http://a.example", "http://c.example", None):
                headers = {"Origin": origin} if origin else {}
                answer = ask(service, path, headers)
                assert "Origin" in varies(answer.headers)
                if "etag" in answer.headers:
                    answer = ask(service, path, {**headers, "If-None-Match": answer.headers["etag"]})
                    assert answer.status == 304
                    assert "Origin" in varies(answer.headers)
        assert {"Origin", "Accept-Encoding"} == varies(ask(service, LIST).headers)
        assert {"Origin", "Accept"} == varies(ask(service, THUMBNAIL).headers)


def varies(headers: dict[str, str]) -> set[str]:
    return {name.strip() for name in headers.get("vary", "").split(",")}


@pytest.mark.usefixtures("anna")
def test_cors_exposes_the_headers_that_clients_need(store_url: str) -> None:
    with running_service(store_url, cors_origins="*") as service:
        answer = ask(service, "/avatars?limit=1", {"Origin": "http://a.example"})
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"ETag", "Link", "X-Total-Count", "X-Request-ID", "Retry-After"} <= exposed
        assert "Origin" in varies(answer.headers)  # without one there is no header for others
