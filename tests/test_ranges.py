"""Range and If-Range: parts of previews (from memory and streamed), manifests and thumbnails."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from opentalking_core.testing.running import running_service

from .helpers.http import Answer, ask, let_tags_settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

PREVIEW = "/avatars/anna/preview"
KiB, MiB = 1024, 1024 * 1024


IN_MEMORY = pytest.param(5000, id="in memory")
STREAMED = pytest.param(300 * KiB, id="streamed")
STREAMED_IN_PIECES = pytest.param(2 * MiB + 77, id="streamed in pieces")


@pytest.fixture(params=[IN_MEMORY, STREAMED])
def content(request: pytest.FixtureRequest) -> bytes:
    """Return a preview: one that fits into a cache of 1 MiB, one that doesn't, and one of several chunks."""
    return random.Random(request.param).randbytes(request.param)


@pytest.fixture
def service(store_url: str, put_bundle: PutBundle, content: bytes) -> Iterator[httpx.Client]:
    """Serve the preview."""
    put_bundle("anna", files={"preview.png": content})
    let_tags_settle()
    with running_service(store_url, cache_mb=1) as client:
        yield client


def part(client: httpx.Client, wanted: str, **headers: str) -> Answer:
    return ask(client, PREVIEW, {"Range": wanted, **headers})


def assert_part(answer: Answer, content: bytes, start: int, stop: int) -> None:
    assert answer.status == 206
    assert answer.body == content[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["content-type"] == "image/png"


def assert_whole(answer: Answer, content: bytes) -> None:
    assert answer.status == 200
    assert answer.body == content
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("content", [IN_MEMORY, STREAMED, STREAMED_IN_PIECES], indirect=True)
def test_range_responds_206_with_the_requested_bytes(service: httpx.Client, content: bytes) -> None:
    size = len(content)
    parts: dict[str, tuple[int, int]] = {
        "bytes=0-0": (0, 1),
        "bytes=100-199": (100, 200),
        "bytes=4990-": (4990, size),
        f"bytes={size - 1}-{size - 1}": (size - 1, size),
        f"bytes={size - 1}-": (size - 1, size),
        "bytes=-1": (size - 1, size),
        "bytes=-100": (size - 100, size),
        f"bytes=-{size}": (0, size),
        "bytes=0-": (0, size),
        f"bytes=0-{size - 1}": (0, size),
    }
    longer_than_the_file = {
        f"bytes=10-{size}": (10, size),
        "bytes=10-999999999999999": (10, size),
        f"bytes=-{size + 1}": (0, size),
        "bytes=-999999999999999": (0, size),
    }
    written_otherwise = {"Bytes=1-2": (1, 3), "bytes= 1-2": (1, 3), "bytes=00001-0002": (1, 3)}
    whole = ask(service, PREVIEW)
    assert_whole(whole, content)
    assert whole.headers["accept-ranges"] == "bytes"
    for wanted, (start, stop) in (parts | longer_than_the_file | written_otherwise).items():
        answer = part(service, wanted)
        assert_part(answer, content, start, stop)
        for name in ("etag", "last-modified", "cache-control"):
            assert answer.headers[name] == whole.headers[name]
    pick = random.Random(1)
    for _ in range(40):
        start = pick.randrange(size)
        last = pick.randrange(start, min(size, start + pick.choice((10, 10_000, size))))
        assert_part(part(service, f"bytes={start}-{last}"), content, start, last + 1)


@pytest.mark.parametrize("content", [IN_MEMORY, STREAMED, STREAMED_IN_PIECES], indirect=True)
def test_consecutive_ranges_add_up_to_the_file(service: httpx.Client, content: bytes) -> None:
    """A client resumes an interrupted download."""
    tag = ask(service, PREVIEW).headers["etag"]
    step = len(content) // 7
    offsets = range(0, len(content), step)
    parts = [part(service, f"bytes={offset}-{offset + step - 1}", **{"If-Range": tag}) for offset in offsets]
    assert {answer.status for answer in parts} == {206}
    assert b"".join(answer.body for answer in parts) == content


def test_range_after_the_end_responds_416(service: httpx.Client, content: bytes) -> None:
    size = len(content)
    for wanted in (f"bytes={size}-", f"bytes={size}-{size}", "bytes=999999999999-", "bytes=-0", f"bytes={size + 5}-"):
        answer = part(service, wanted)
        assert answer.status == 416, wanted
        assert answer.headers["content-range"] == f"bytes */{size}"
        assert answer.headers["content-type"] == "application/json"
        assert str(size) in answer.body.decode()
    assert_whole(ask(service, PREVIEW), content)


def test_malformed_or_multiple_range_is_ignored(service: httpx.Client, content: bytes) -> None:
    for wanted in (
        *("bytes=0-1,5-6", "bytes=0-1, 5-6", "bytes=0-,-1", "bytes=0-0,0-0,0-0"),
        *(
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=x-y",
            "bytes=1",
            "bytes=1-x",
            "bytes=--1",
            "bytes=-1-2",
            "bytes=2-1",
        ),
        *("items=0-1", "=0-1", "0-1", "bytes:0-1", "bytes=1.0-2.0", "bytes=+1-2", "bytes=1_0-2_0", "bytes=0x1-0x2"),
        *("bytes=0-" + "9" * 60, "bytes=" + "1" * 5000 + "-", "bytes=" + "0-1," * 1000 + "0-1"),
    ):
        assert_whole(part(service, wanted), content)
    assert_whole(ask(service, PREVIEW, [("Range", "bytes=0-1"), ("Range", "bytes=5-6")]), content)
    assert_whole(ask(service, PREVIEW, {"Range": "bytes=²-³"}), content)


def test_if_range_of_another_version_responds_200(service: httpx.Client, content: bytes) -> None:
    tag = ask(service, PREVIEW).headers["etag"]
    modified = ask(service, PREVIEW).headers["last-modified"]
    assert_part(part(service, "bytes=1-9", **{"If-Range": tag}), content, 1, 10)
    assert part(service, f"bytes={len(content)}-", **{"If-Range": tag}).status == 416
    for condition in (
        '"other"',
        f"W/{tag}",
        tag.strip('"'),
        "*",
        "",
        f'"other", {tag}',
        "Thu, 01 Jan 2015 00:00:00 GMT",
    ):
        assert_whole(part(service, "bytes=1-9", **{"If-Range": condition}), content)
        assert_whole(part(service, f"bytes={len(content)}-", **{"If-Range": condition}), content)
    assert part(service, "bytes=1-9", **{"If-Range": modified}).body in (content, content[1:10])  # either is right
    assert_whole(ask(service, PREVIEW, {"If-Range": tag}), content)


def test_range_with_known_tag_responds_304(service: httpx.Client, content: bytes) -> None:
    tag = ask(service, PREVIEW).headers["etag"]
    answer = part(service, "bytes=1-9", **{"If-None-Match": tag})
    assert (answer.status, answer.body) == (304, b"")
    assert "content-range" not in answer.headers
    assert part(service, f"bytes={len(content)}-", **{"If-None-Match": tag}).status == 304
    assert_part(part(service, "bytes=1-9", **{"If-None-Match": '"other"'}), content, 1, 10)


def test_head_ignores_range_header(service: httpx.Client, content: bytes) -> None:
    """RFC 9110, section 14.2, defines Range for GET only."""
    for wanted in ("bytes=0-9", "bytes=-1", f"bytes={len(content)}-"):
        answer = ask(service, PREVIEW, {"Range": wanted}, "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["accept-ranges"] == "bytes"
        assert "content-range" not in answer.headers


def test_client_that_disconnects_during_a_range_does_no_harm(service: httpx.Client, content: bytes) -> None:
    for _ in range(3):
        with service.stream("GET", PREVIEW, headers={"Range": "bytes=100-"}) as answer:
            next(answer.iter_raw(1000))
    assert_part(part(service, "bytes=100-"), content, 100, len(content))


@pytest.mark.parametrize("content", [b""], ids=["empty"])
def test_range_of_an_empty_file_responds_416(service: httpx.Client, content: bytes) -> None:
    for wanted in ("bytes=0-", "bytes=0-0", "bytes=-0"):
        answer = part(service, wanted)
        assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")
    assert_whole(ask(service, PREVIEW), b"")


@pytest.mark.parametrize("content", [b"x"], ids=["one byte"])
def test_range_of_a_file_of_one_byte_returns_that_byte(service: httpx.Client, content: bytes) -> None:
    for wanted in ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-7", "bytes=0-7"):
        assert_part(part(service, wanted), b"x", 0, 1)


@pytest.mark.parametrize("content", [b""])
def test_range_works_for_manifests_and_thumbnails(service: httpx.Client, put_bundle: PutBundle, content: bytes) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    put_bundle("bert", files={"preview.png": file.getvalue()})
    let_tags_settle()
    for path in ("/avatars/bert", "/avatars/bert/preview?width=100"):
        whole = ask(service, path)
        answer = ask(service, path, {"Range": "bytes=5-14", "If-Range": whole.headers["etag"]})
        assert (answer.status, answer.body) == (206, whole.body[5:15])
        assert answer.headers["content-range"] == f"bytes 5-14/{len(whole.body)}"
        assert answer.headers["etag"] == whole.headers["etag"]
        assert ask(service, path, {"Range": f"bytes={len(whole.body)}-"}).status == 416


@pytest.mark.parametrize("content", [b""])
def test_list_ignores_range_header(service: httpx.Client, content: bytes) -> None:
    whole = ask(service, "/avatars")
    assert "accept-ranges" not in whole.headers
    assert_whole(ask(service, "/avatars", {"Range": "bytes=0-1"}), whole.body)
