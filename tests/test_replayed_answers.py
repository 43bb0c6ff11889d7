"""Answers that are given again from memory are what a first-time answer would be, and as fresh."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import http.client
import itertools
import json
import logging
import random
import socket
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core.api import replay
from opentalking_core.catalog import Listing
from opentalking_core.catalog.file_cache import CachedFile
from opentalking_core.testing.running import running_service

from .helpers.http import Answer, ask, let_tags_settle, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import DeleteBundle, PostPortrait

    Connect = Callable[[httpx.Client], http.client.HTTPConnection]

LIST, MANIFEST, PREVIEW = PATHS = ("/avatars", "/avatars/anna", "/avatars/anna/preview")
GZIP = {"Accept-Encoding": "gzip"}
KiB = 1024


@pytest.fixture
def given_again(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many answers were given again, by path: without it, a test of those could pass because there were none."""
    counted: Counter[str] = Counter()
    answer = replay.Replay.answer

    async def counting(self: replay.Replay, scope: dict[str, Any], send: Any) -> bool:
        async def count_and_send(message: dict[str, Any]) -> None:
            counted[scope["path"]] += message["type"] == "http.response.start"
            await send(message)

        return await answer(self, scope, count_and_send)

    monkeypatch.setattr(replay.Replay, "answer", counting)
    return counted


@pytest.fixture
def anna(put_bundle: PutBundle) -> None:
    """An avatar, a hidden one, and a list that is worth compressing."""
    put_bundle(
        "anna", {"name": "Anna" * 500, "metadata": {"custom_avatar": True}}, {"preview.png": b"\x89PNG anna" * 99}
    )
    put_bundle("secret", {"metadata": {"hidden": True}}, {"preview.png": b"secret"})
    let_tags_settle()


def shown(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What has to be the same each time."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    return answer.status, headers, answer.body


def everywhere(answer: Answer, path: str) -> tuple[int, dict[str, str], bytes]:
    """What has to be the same in each process: when the list has changed, each saw at a time of its own."""
    status, headers, body = shown(answer)
    if path.rstrip("/") == LIST:
        assert ("last-modified" in headers) == (status == 200)
        headers.pop("last-modified", None)
    return status, headers, body


def questions(tag: str, gzip_tag: str) -> list[dict[str, str]]:
    """Headers that an answer depends on, or might seem to; none twice."""
    future, past = "Fri, 01 Jan 2100 00:00:00 GMT", "Thu, 01 Jan 2015 00:00:00 GMT"
    elsewhere = {"Origin": "http://a.example"}
    all_of_them = [
        {},
        GZIP,
        {"Accept-Encoding": "gzip;q=0"},
        {"Accept-Encoding": "*"},
        {"If-None-Match": tag},
        {"If-None-Match": tag, **GZIP},
        {"If-None-Match": gzip_tag, **GZIP},
        {"If-None-Match": gzip_tag},
        {"If-None-Match": f'W/{tag}, "x"'},
        {"If-None-Match": '"other"'},
        {"If-None-Match": '"other"', "If-Modified-Since": future},
        {"If-None-Match": "*"},
        {"If-None-Match": "x" * 600},
        {"If-Modified-Since": future},
        {"If-Modified-Since": past},
        {"If-Modified-Since": "nonsense"},
        {"Range": "bytes=2-5"},
        {"Range": "bytes=2-5", "If-None-Match": tag},
        {"Range": "bytes=2-5", "If-Range": tag},
        {"Range": "bytes=2-5", "If-Range": '"other"'},
        {"Range": "bytes=999999-"},
        {"Range": "bytes=0-1,4-5"},
        {"If-Range": tag},
        elsewhere,
        {**elsewhere, **GZIP},
        {**elsewhere, "If-None-Match": tag},
        {**elsewhere, "Range": "bytes=2-5"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example", "If-None-Match": tag},
    ]
    return [headers for n, headers in enumerate(all_of_them) if headers not in all_of_them[:n]]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"X-Request-ID": "mine-1"},
        {"X-Request-ID": 'hostile "\xff', "User-Agent": "curl/8", "Cookie": "a=b", "Authorization": "Bearer x"},
        {"Accept": "image/webp", "Referer": "http://a.example/", "Cache-Control": "no-cache", "Pragma": "no-cache"},
    ],
    ids=["nothing else", "an id", "who asks", "what is wanted"],
)
@pytest.mark.usefixtures("anna")
def test_an_answer_given_again_is_what_a_fresh_service_answers(
    store_url: str, given_again: Counter[str], more: dict[str, str]
) -> None:
    origins = {"cors_origins": "http://a.example"}
    with running_service(store_url, **origins) as service, running_service(store_url, **origins) as fresh:
        for path in (*PATHS, "/avatars/anna/"):
            tags = (ask(service, f"{path}?first", headers).headers["etag"] for headers in ({}, GZIP))
            for headers in questions(*tags):
                repeated = [ask(service, path, {**headers, **more}) for _ in range(3)]
                before = given_again.total()
                first = ask(fresh, path, {**headers, **more})
                assert given_again.total() == before, f"the fresh one has never been asked this: {path} {headers}"
                for answer in repeated:
                    assert everywhere(answer, path) == everywhere(first, path), (path, headers)
                # the same service, asked in a way that is never answered from memory
                assert shown(ask(service, f"{path}?first", {**headers, **more})) == shown(repeated[-1])
            assert given_again[path] > 20


@pytest.mark.usefixtures("anna")
def test_each_answer_has_the_id_of_its_request(service: httpx.Client, given_again: Counter[str]) -> None:
    for path in PATHS:
        made_up = [ask(service, path).headers["x-request-id"] for _ in range(10)]
        assert len(set(made_up)) == 10
        for own in ("mine", "other", "mine", "a" * 128, "A-1_b.2:c/d+e=f@g"):
            assert ask(service, path, {"X-Request-ID": own}).headers["x-request-id"] == own
        for hostile in ("", "a b", "a" * 129, '"', "<b>", "\xe9", "a\tb", "a,b", "%0d%0aX-Evil:1"):
            answer = ask(service, path, {"X-Request-ID": hostile})
            assert answer.headers["x-request-id"] not in (hostile, *made_up)
            made_up.append(answer.headers["x-request-id"])
        # Two ids are none, at the first time and later.
        for unanswered in ("", "?first"):
            answer = ask(service, path + unanswered, [("X-Request-ID", "one"), ("X-Request-ID", "two")])
            assert answer.headers["x-request-id"] not in ("one", "two", "one,two", "one, two")
        assert given_again[path] > 15


@pytest.mark.usefixtures("anna")
def test_a_query_or_another_method_is_never_answered_from_memory(
    service: httpx.Client, given_again: Counter[str]
) -> None:
    for _ in range(4):
        assert ask(service, PREVIEW).status == 200
    before = given_again.total()
    assert before > 0
    for _ in range(2):
        assert ask(service, f"{PREVIEW}?width=15").status == 400
        assert ask(service, PREVIEW, method="HEAD").body == b""
        assert ask(service, PREVIEW, method="POST").status == 405
        assert ask(service, PREVIEW, method="OPTIONS").headers["allow"]
        assert ask(service, "/avatars/nobody").status == 404
    assert given_again.total() == before


# -- changes


class Repeated:
    """Asks until an answer has been given again, and returns that."""

    def __init__(self, given_again: Counter[str]) -> None:
        self._given_again = given_again

    def __call__(self, service: httpx.Client, path: str, headers: dict[str, str] | None = None) -> Answer:
        def answer_given_again() -> Answer | None:
            before = self._given_again[path]
            answer = ask(service, path, headers or {})
            return answer if self._given_again[path] > before else None

        return wait_for(answer_given_again)

    def ids(self, service: httpx.Client) -> list[str]:
        """Of the list; it is compressed just as well."""
        plain, compressed = self(service, LIST), self(service, LIST, GZIP)
        is_compressed = "content-encoding" in compressed.headers
        assert (gzip.decompress(compressed.body) if is_compressed else compressed.body) == plain.body
        return [avatar["id"] for avatar in json.loads(plain.body)]


@pytest.fixture
def repeated(given_again: Counter[str]) -> Repeated:
    return Repeated(given_again)


@pytest.mark.usefixtures("anna")
def test_own_changes_show_at_once(service: httpx.Client, post_portrait: PostPortrait, repeated: Repeated) -> None:
    service.get(LIST)
    known = {"If-None-Match": repeated(service, LIST).headers["etag"]}
    assert repeated(service, LIST, known).status == 304
    created = post_portrait().json()["id"]
    assert ask(service, LIST, known).status == 200
    assert repeated.ids(service) == ["anna", created, "demo-wav2lip"]
    paths = (f"/avatars/{created}", f"/avatars/{created}/preview")
    for path in paths:
        assert repeated(service, path).status == 200
    assert service.delete(f"/avatars/{created}").status_code == 200
    assert ask(service, LIST, known).status == 304, "it is as it was"
    assert repeated.ids(service) == ["anna", "demo-wav2lip"]
    for path in paths:
        assert ask(service, path).status == 404


@pytest.mark.usefixtures("anna")
def test_changes_by_another_service_show_as_in_first_answers(
    service: httpx.Client, store_url: str, put_bundle: PutBundle, unseen: list[str], repeated: Repeated
) -> None:
    for path in PATHS:
        assert repeated(service, path).status == 200
    with running_service(store_url) as another:
        assert another.delete("/avatars/anna").status_code == 200
    unseen.append("anna")  # where a store can't tell of changes, a request for the list waits for a scan
    assert json.loads(ask(service, LIST).body) == []
    for path in (MANIFEST, PREVIEW):
        first, later = ask(service, f"{path}?first").status, ask(service, path).status
        assert first == 404 or store_url.startswith("s3:")
        assert later == 404 or first == 200
        wait_for(lambda: ask(service, path).status == 404)  # noqa: B023
    put_bundle("anna", {"name": "Second"}, {"preview.png": b"second"})
    service.get(LIST)
    assert repeated.ids(service) == ["anna"]
    assert json.loads(repeated(service, MANIFEST).body)["name"] == "Second"
    assert repeated(service, PREVIEW).body == b"second"


@pytest.mark.usefixtures("folder_store", "anna")
def test_edits_by_hand_show_as_soon_as_in_first_answers(
    service: httpx.Client, tmp_path: Path, repeated: Repeated
) -> None:
    old = {path: repeated(service, path).body for path in PATHS}
    bundle = tmp_path / "avatars" / "anna"
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    # Replaced at once, as good editors do: while a manifest is half-written, its avatar isn't listed.
    (bundle / "edited.json").write_text(json.dumps({**manifest, "name": "annA" * 500}))
    (bundle / "edited.json").rename(bundle / "manifest.json")
    (bundle / "preview.png").write_bytes(b"\x89PNG annA" * 99)
    waiting = set(PATHS)

    def all_show() -> bool:
        for path in PATHS:
            first, later = ask(service, f"{path}?first").body, ask(service, path).body
            assert first == old[path] or later == first, "what a first answer shows, the next one shows too"
            if first != old[path]:
                waiting.discard(path)
        return not waiting

    wait_for(all_show)
    for path in PATHS:
        assert b"annA" in repeated(service, path).body


@pytest.mark.usefixtures("anna")
def test_whatever_is_answered_belongs_to_its_tag(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle, given_again: Counter[str]
) -> None:
    bodies: dict[tuple[str, str], bytes] = {}

    def ask_everything() -> None:
        for path in PATHS * 3:
            for headers in ({}, GZIP):
                answer = ask(service, path, headers)
                key = path, answer.headers["etag"]
                assert bodies.setdefault(key, answer.body) == answer.body
                again = ask(service, path, {**headers, "If-None-Match": answer.headers["etag"]})
                assert again.status == 304 or again.headers["etag"] != answer.headers["etag"]

    for n in range(4):
        delete_bundle("anna")
        put_bundle("anna", {"name": f"{n}" * 2000}, {"preview.png": b"%d" % n * 1000})
        ask_everything()
        let_tags_settle()  # right after a change nothing is answered from memory
        ask_everything()
    assert given_again.total() > 30


@pytest.mark.usefixtures("anna")
def test_what_is_old_is_not_given_again_although_somebody_still_uses_it(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle, repeated: Repeated
) -> None:
    old = {path: repeated(service, path).body for path in PATHS}
    in_use = [each for each in gc.get_objects() if isinstance(each, Listing | CachedFile)]
    assert len(in_use) >= 3
    delete_bundle("anna")
    put_bundle("anna", {"name": "Second"}, {"preview.png": b"second"})
    service.get(LIST)  # where a store can't tell of changes, this waits for a scan
    for path in PATHS:
        wait_for(lambda: ask(service, f"{path}?first").body != old[path])  # noqa: B023
        assert ask(service, path).body != old[path]
        assert repeated(service, path).body != old[path]


# -- who may read, and who counts


@pytest.mark.usefixtures("anna")
def test_where_reading_needs_a_key_everybody_needs_one(
    store_url: str, monkeypatch: pytest.MonkeyPatch, given_again: Counter[str]
) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", "a-long-key-that-nobody-guesses")
    key = {"Authorization": "Bearer a-long-key-that-nobody-guesses"}
    with running_service(store_url, protect="everything") as service:
        for path in PATHS:
            for _ in range(4):
                answer = ask(service, path, key)
                assert answer.status == 200
                tag = {"If-None-Match": answer.headers["etag"]}
                assert ask(service, path, {**key, **tag}).status == 304
                for strangers in ({}, tag, GZIP, {"Authorization": "Bearer wrong"}):
                    assert ask(service, path, strangers).status == 401
    assert given_again.total() == 0
    with running_service(store_url, protect="writes") as service:
        for path in PATHS:
            bodies = {ask(service, path, headers).body for headers in (key, {}, key, {}, {"Authorization": "x"})}
            assert len(bodies) == 1
    assert given_again.total() > 0


@pytest.mark.usefixtures("anna")
def test_answers_given_again_are_counted_and_logged(
    store_url: str, caplog: pytest.LogCaptureFixture, given_again: Counter[str]
) -> None:
    caplog.set_level(logging.INFO, "opentalking_core.access")
    with running_service(store_url, access_log=True) as service:
        for path in PATHS:
            tag = ask(service, path).headers["etag"]
            for n in range(6):
                assert ask(service, path, {"X-Request-ID": f"{path}-{n}"}).status == 200
            for n in range(6, 10):
                assert ask(service, path, {"If-None-Match": tag, "X-Request-ID": f"{path}-{n}"}).status == 304
            assert given_again[path] >= 7
        metrics = service.get("/metrics").text
    for route in ("/avatars", "/avatars/{avatar_id}", "/avatars/{avatar_id}/preview"):
        for status, count in ((200, 7), (304, 4)):
            labels = f'{{method="GET",route="{route}",status="{status}"}}'
            assert f"opentalking_request_seconds_count{labels} {count}.0\n" in metrics
    lines = {record.request_id: record for record in wait_for(lambda: access_lines(caplog, 3 * 11))}
    for path in PATHS:
        for n in range(10):
            line = lines[f"{path}-{n}"]
            assert (line.method, line.path, line.status) == ("GET", path, 200 if n < 6 else 304)
            assert 0 <= line.milliseconds < 10_000


def access_lines(caplog: pytest.LogCaptureFixture, at_least: int) -> list[Any]:
    found = [record for record in caplog.records if record.name == "opentalking_core.access"]
    return found if len(found) >= at_least else []


# -- memory


@pytest.fixture
def grown() -> Iterator[Any]:
    """Returns by how many bytes Python's memory has grown since it was called last."""
    tracemalloc.start()
    before = 0

    def measure() -> int:
        nonlocal before
        gc.collect()
        now, _ = tracemalloc.get_traced_memory()
        grown, before = now - before, now
        return grown

    yield measure
    tracemalloc.stop()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens a connection to a service; it stays open until the test's end."""
    with contextlib.ExitStack() as stack:

        def connect(service: httpx.Client) -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(service.base_url.host, service.base_url.port)
            return stack.enter_context(contextlib.closing(connection))

        yield connect


def size(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str) -> int:
    """Of the answer's body."""
    connection.request(method, path, headers=headers)
    return len(connection.getresponse().read())


def test_previews_are_not_kept_by_answers(
    store_url: str, put_bundle: PutBundle, given_again: Counter[str], connect: Connect, grown: Any
) -> None:
    """40 of 100 KiB, with memory for seven, asked for by clients that stay connected."""
    for n in range(40):
        put_bundle(f"anna-{n}", files={"preview.png": random.Random(n).randbytes(100 * KiB)})
    let_tags_settle()
    with running_service(store_url, cache_mb=1) as service:
        size(connect(service), "/avatars/anna-0/preview?width=16")  # loads Pillow
        grown()
        for n in range(40):
            path, connection = f"/avatars/anna-{n}/preview", connect(service)
            for _ in range(3):
                assert size(connection, path) == 100 * KiB
                assert size(connection, path, **{"If-None-Match": "*"}) == 0
            # what this connection was last asked for
            size(connection, *((path,), (path, "HEAD"), (f"{path}?x",), (f"{path}?width=16",))[n % 4])
        for n in range(30):  # parts of what is in memory
            headers = {"Range": f"bytes={n}-"}
            assert [size(connection, path, **headers) for _ in range(3)] == [100 * KiB - n] * 3
        assert given_again.total() > 60
        assert grown() < 40 * 100 * KiB / 3


def test_lists_are_not_kept_by_answers(
    store_url: str, put_bundle: PutBundle, repeated: Repeated, connect: Connect, grown: Any
) -> None:
    for n in range(20):
        put_bundle(f"anna-{n}", {"name": "x" * 10_000})
    with running_service(store_url, refresh_seconds=0.05) as service:
        repeated(service, LIST)
        grown()
        for n in range(6):
            put_bundle(f"bert-{n}")
            wait_for(lambda: len(json.loads(repeated(service, LIST).body)) == 21 + n)  # noqa: B023
            repeated(service, LIST, GZIP)
            for query in ("", "?first"):
                assert size(connect(service), LIST + query) > 200_000
        assert grown() < 6 * 200_000 / 2


@pytest.mark.usefixtures("anna")
def test_a_list_is_compressed_once_for_all(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests at the same time, in words of their own: the answers that are kept to them are one body."""
    compress, arrive = gzip.compress, replay.Replay.answer
    compressed: list[bytes] = []
    arrived = 0
    all_arrived = threading.Event()

    def compress_when_all_have_arrived(*data: Any, **options: Any) -> bytes:
        all_arrived.wait(30)
        compressed.append(compress(*data, **options))
        return compressed[-1]

    async def note_arrival(*request: Any) -> bool:
        nonlocal arrived
        arrived += 1
        if arrived == 8:
            asyncio.get_running_loop().call_later(0.05, all_arrived.set)
        return await arrive(*request)

    def ask_for_it(n: int) -> Answer:
        return ask(service, LIST, {"Accept-Encoding": f"gzip;q=0.{n}"})

    ask(service, LIST)
    monkeypatch.setattr(gzip, "compress", compress_when_all_have_arrived)
    monkeypatch.setattr(replay.Replay, "answer", note_arrival)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_for_it, range(1, 9)))
    assert [answer.body for answer in answers] == compressed * 8


def pipeline(service: httpx.Client, heads: Iterable[bytes]) -> None:
    """Send a request with each of these headers, and read the answers, all of which have to be 200."""
    with socket.create_connection((service.base_url.host, service.base_url.port or 0)) as connection:
        requests = iter([b"GET /avatars/anna HTTP/1.1\r\nHost: x\r\n" + each + b"\r\n" for each in heads])
        while batch := list(itertools.islice(requests, 20)):
            connection.sendall(b"".join(batch))
            received = b""
            while (answered := received.count(b"HTTP/1.1 200 OK\r\n")) < len(batch):
                assert received.count(b"HTTP/1.1 ") - answered in (0, 1)
                received += connection.recv(1 << 16)


@pytest.mark.parametrize(
    "heads",
    [
        [b'If-None-Match: "%0300d"\r\n' % n for n in range(800)],
        [b'If-None-Match: "%08000d"\r\n' % n for n in range(200)],
        [b"Range:\r\n" * (1000 + n) for n in range(40)],
    ],
    ids=["tags", "long tags", "many headers"],
)
@pytest.mark.usefixtures("anna")
def test_what_clients_make_up_is_not_kept(
    store_url: str, grown: Any, monkeypatch: pytest.MonkeyPatch, heads: list[bytes]
) -> None:
    monkeypatch.setattr(replay, "_MOST_ANSWERS", 200)  # to reach 4096 takes long
    with running_service(store_url) as service:
        pipeline(service, heads[:5])
        grown()
        pipeline(service, heads)
        assert grown() < 1000 * KiB
