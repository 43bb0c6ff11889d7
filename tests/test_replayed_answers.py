"""Replayed responses are identical to first-time responses, and as fresh."""

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
from opentalking_core.bundles.store import ChangeStamp
from opentalking_core.catalog import Listing
from opentalking_core.catalog.file_cache import CachedFile
from opentalking_core.host.host import PluginHost
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
def replay_counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count replayed responses by path, so that no test passes because nothing was replayed."""
    counted: Counter[str] = Counter()
    answer = replay.ReplayMiddleware.replay

    async def counting(self: replay.ReplayMiddleware, scope: dict[str, Any], send: Any) -> bool:
        async def count_and_send(message: dict[str, Any]) -> None:
            counted[scope["path"]] += message["type"] == "http.response.start"
            await send(message)

        return await answer(self, scope, count_and_send)

    monkeypatch.setattr(replay.ReplayMiddleware, "replay", counting)
    return counted


@pytest.fixture
def anna(put_bundle: PutBundle) -> None:
    """Store an avatar and a hidden one; the list is large enough to be compressed."""
    put_bundle(
        "anna", {"name": "Anna" * 500, "metadata": {"custom_avatar": True}}, {"preview.png": b"\x89PNG anna" * 99}
    )
    put_bundle("secret", {"metadata": {"hidden": True}}, {"preview.png": b"secret"})
    let_tags_settle()


def shown(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Return the part of a response that must be equal in all responses."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    return answer.status, headers, answer.body


def everywhere(answer: Answer, path: str) -> tuple[int, dict[str, str], bytes]:
    """Return the part that must be equal in all processes, which notice changes of the list at different times."""
    status, headers, body = shown(answer)
    if path.rstrip("/") == LIST:
        assert ("last-modified" in headers) == (status == 200)
        headers.pop("last-modified", None)
    return status, headers, body


def questions(tag: str, gzip_tag: str) -> list[dict[str, str]]:
    """Return different combinations of headers on which a response depends, or seems to depend."""
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
def test_replayed_response_equals_the_one_of_a_fresh_service(
    store_url: str, replay_counts: Counter[str], more: dict[str, str]
) -> None:
    origins = {"cors_origins": "http://a.example"}
    with running_service(store_url, **origins) as service, running_service(store_url, **origins) as fresh:
        for path in (*PATHS, "/avatars/anna/"):
            tags = (ask(service, f"{path}?first", headers).headers["etag"] for headers in ({}, GZIP))
            for headers in questions(*tags):
                repeated = [ask(service, path, {**headers, **more}) for _ in range(3)]
                before = replay_counts.total()
                first = ask(fresh, path, {**headers, **more})
                assert replay_counts.total() == before, f"replayed at the first request: {path} {headers}"
                for answer in repeated:
                    assert everywhere(answer, path) == everywhere(first, path), (path, headers)
                # the same service, with a query, to which no response is replayed
                assert shown(ask(service, f"{path}?first", {**headers, **more})) == shown(repeated[-1])
            assert replay_counts[path] > 20


@pytest.mark.usefixtures("anna")
def test_replayed_response_has_the_id_of_its_request(service: httpx.Client, replay_counts: Counter[str]) -> None:
    for path in PATHS:
        made_up = [ask(service, path).headers["x-request-id"] for _ in range(10)]
        assert len(set(made_up)) == 10
        for own in ("mine", "other", "mine", "a" * 128, "A-1_b.2:c/d+e=f@g"):
            assert ask(service, path, {"X-Request-ID": own}).headers["x-request-id"] == own
        for hostile in ("", "a b", "a" * 129, '"', "<b>", "\xe9", "a\tb", "a,b", "%0d%0aX-Evil:1"):
            answer = ask(service, path, {"X-Request-ID": hostile})
            assert answer.headers["x-request-id"] not in (hostile, *made_up)
            made_up.append(answer.headers["x-request-id"])
        # Two ids are ignored, in first-time and in replayed responses.
        for unanswered in ("", "?first"):
            answer = ask(service, path + unanswered, [("X-Request-ID", "one"), ("X-Request-ID", "two")])
            assert answer.headers["x-request-id"] not in ("one", "two", "one,two", "one, two")
        assert replay_counts[path] > 15


@pytest.mark.usefixtures("anna")
def test_request_with_query_or_other_method_gets_no_replayed_response(
    service: httpx.Client, replay_counts: Counter[str]
) -> None:
    for _ in range(4):
        assert ask(service, PREVIEW).status == 200
    before = replay_counts.total()
    assert before > 0
    for _ in range(2):
        assert ask(service, f"{PREVIEW}?width=15").status == 400
        assert ask(service, PREVIEW, method="HEAD").body == b""
        assert ask(service, PREVIEW, method="POST").status == 405
        assert ask(service, PREVIEW, method="OPTIONS").headers["allow"]
        assert ask(service, "/avatars/nobody").status == 404
    assert replay_counts.total() == before


# -- changes


class UntilReplayed:
    """Repeats a request until its response is a replayed one, and returns that response."""

    def __init__(self, replay_counts: Counter[str]) -> None:
        self._replay_counts = replay_counts

    def __call__(self, service: httpx.Client, path: str, headers: dict[str, str] | None = None) -> Answer:
        def replayed_answer() -> Answer | None:
            before = self._replay_counts[path]
            answer = ask(service, path, headers or {})
            return answer if self._replay_counts[path] > before else None

        return wait_for(replayed_answer)

    def ids(self, service: httpx.Client) -> list[str]:
        """Return the ids in the replayed list, and compare it with the compressed list."""
        plain, compressed = self(service, LIST), self(service, LIST, GZIP)
        is_compressed = "content-encoding" in compressed.headers
        assert (gzip.decompress(compressed.body) if is_compressed else compressed.body) == plain.body
        return [avatar["id"] for avatar in json.loads(plain.body)]


@pytest.fixture
def until_replayed(replay_counts: Counter[str]) -> UntilReplayed:
    return UntilReplayed(replay_counts)


@pytest.mark.usefixtures("anna")
def test_own_changes_show_at_once_in_replayed_responses(
    service: httpx.Client, post_portrait: PostPortrait, until_replayed: UntilReplayed
) -> None:
    service.get(LIST)
    known = {"If-None-Match": until_replayed(service, LIST).headers["etag"]}
    assert until_replayed(service, LIST, known).status == 304
    created = post_portrait().json()["id"]
    assert ask(service, LIST, known).status == 200
    assert until_replayed.ids(service) == ["anna", created, "demo-wav2lip"]
    paths = (f"/avatars/{created}", f"/avatars/{created}/preview")
    for path in paths:
        assert until_replayed(service, path).status == 200
    assert service.delete(f"/avatars/{created}").status_code == 200
    assert ask(service, LIST, known).status == 304, "the list is the same as before"
    assert until_replayed.ids(service) == ["anna", "demo-wav2lip"]
    for path in paths:
        assert ask(service, path).status == 404


@pytest.mark.usefixtures("anna")
def test_changes_by_another_service_show_as_soon_as_in_first_time_responses(
    service: httpx.Client, store_url: str, put_bundle: PutBundle, unseen: list[str], until_replayed: UntilReplayed
) -> None:
    for path in PATHS:
        assert until_replayed(service, path).status == 200
    with running_service(store_url) as another:
        assert another.delete("/avatars/anna").status_code == 200
    unseen.append("anna")  # if the store has no change stamp, make a request for the list wait for a scan
    assert json.loads(ask(service, LIST).body) == []
    store, _ = PluginHost().load().open_bundle_store(store_url)
    for path in (MANIFEST, PREVIEW):
        if isinstance(store, ChangeStamp):  # without a stamp, files in memory may be as old as the last scan
            assert ask(service, f"{path}?first").status == 404
            assert ask(service, path).status == 404
        wait_for(lambda: ask(service, path).status == 404)  # noqa: B023
    put_bundle("anna", {"name": "Second"}, {"preview.png": b"second"})
    service.get(LIST)
    assert until_replayed.ids(service) == ["anna"]
    assert json.loads(until_replayed(service, MANIFEST).body)["name"] == "Second"
    assert until_replayed(service, PREVIEW).body == b"second"


@pytest.mark.usefixtures("folder_store", "anna")
def test_edits_by_hand_show_as_soon_as_in_first_time_responses(
    service: httpx.Client, tmp_path: Path, until_replayed: UntilReplayed
) -> None:
    old = {path: until_replayed(service, path).body for path in PATHS}
    bundle = tmp_path / "avatars" / "anna"
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    # Replaced by a rename, as good editors do: while a manifest is half-written, its avatar isn't listed.
    (bundle / "edited.json").write_text(json.dumps({**manifest, "name": "annA" * 500}))
    (bundle / "edited.json").rename(bundle / "manifest.json")
    (bundle / "preview.png").write_bytes(b"\x89PNG annA" * 99)
    waiting = set(PATHS)

    def all_show() -> bool:
        for path in PATHS:
            first, later = ask(service, f"{path}?first").body, ask(service, path).body
            assert first == old[path] or later == first, (
                "a replayed response is at least as fresh as a first-time response"
            )
            if first != old[path]:
                waiting.discard(path)
        return not waiting

    wait_for(all_show)
    for path in PATHS:
        assert b"annA" in until_replayed(service, path).body


@pytest.mark.usefixtures("anna")
def test_tag_belongs_to_one_body_only(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle, replay_counts: Counter[str]
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
        let_tags_settle()  # right after a change nothing is replayed
        ask_everything()
    assert replay_counts.total() > 30


@pytest.mark.usefixtures("anna")
def test_old_source_that_is_still_referenced_is_not_replayed(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle, until_replayed: UntilReplayed
) -> None:
    old = {path: until_replayed(service, path).body for path in PATHS}
    in_use = [each for each in gc.get_objects() if isinstance(each, Listing | CachedFile)]
    assert len(in_use) >= 3
    delete_bundle("anna")
    put_bundle("anna", {"name": "Second"}, {"preview.png": b"second"})
    service.get(LIST)  # if the store has no change stamp, this waits for a scan
    for path in PATHS:
        wait_for(lambda: ask(service, f"{path}?first").body != old[path])  # noqa: B023
        assert ask(service, path).body != old[path]
        assert until_replayed(service, path).body != old[path]


# -- who may read, and who counts


@pytest.mark.usefixtures("anna")
def test_protected_reads_are_never_replayed(
    store_url: str, monkeypatch: pytest.MonkeyPatch, replay_counts: Counter[str]
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
    assert replay_counts.total() == 0
    with running_service(store_url, protect="writes") as service:
        for path in PATHS:
            bodies = {ask(service, path, headers).body for headers in (key, {}, key, {}, {"Authorization": "x"})}
            assert len(bodies) == 1
    assert replay_counts.total() > 0


@pytest.mark.usefixtures("anna")
def test_replayed_responses_are_counted_and_logged(
    store_url: str, caplog: pytest.LogCaptureFixture, replay_counts: Counter[str]
) -> None:
    caplog.set_level(logging.INFO, "opentalking_core.access")
    with running_service(store_url, access_log=True) as service:
        for path in PATHS:
            tag = ask(service, path).headers["etag"]
            for n in range(6):
                assert ask(service, path, {"X-Request-ID": f"{path}-{n}"}).status == 200
            for n in range(6, 10):
                assert ask(service, path, {"If-None-Match": tag, "X-Request-ID": f"{path}-{n}"}).status == 304
            assert replay_counts[path] >= 7
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
    """Return a function that returns by how many bytes Python's memory has grown since its last call."""
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
    """Return a function that opens a connection, which stays open until the end of the test."""
    with contextlib.ExitStack() as stack:

        def connect(service: httpx.Client) -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(service.base_url.host, service.base_url.port)
            return stack.enter_context(contextlib.closing(connection))

        yield connect


def size(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str) -> int:
    """Return the size of the response's body."""
    connection.request(method, path, headers=headers)
    return len(connection.getresponse().read())


def test_recorded_responses_keep_no_previews_in_memory(
    store_url: str, put_bundle: PutBundle, replay_counts: Counter[str], connect: Connect, grown: Any
) -> None:
    """40 previews of 100 KiB, memory for seven, and clients that stay connected."""
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
            # the last request of this connection
            size(connection, *((path,), (path, "HEAD"), (f"{path}?x",), (f"{path}?width=16",))[n % 4])
        for n in range(30):  # parts of a file in memory
            headers = {"Range": f"bytes={n}-"}
            assert [size(connection, path, **headers) for _ in range(3)] == [100 * KiB - n] * 3
        assert replay_counts.total() > 60
        assert grown() < 40 * 100 * KiB / 3


def test_recorded_responses_keep_no_old_lists_in_memory(
    store_url: str, put_bundle: PutBundle, until_replayed: UntilReplayed, connect: Connect, grown: Any
) -> None:
    for n in range(20):
        put_bundle(f"anna-{n}", {"name": "x" * 10_000})
    with running_service(store_url, refresh_seconds=0.05) as service:
        until_replayed(service, LIST)
        grown()
        for n in range(6):
            put_bundle(f"bert-{n}")
            wait_for(lambda: len(json.loads(until_replayed(service, LIST).body)) == 21 + n)  # noqa: B023
            until_replayed(service, LIST, GZIP)
            for query in ("", "?first"):
                assert size(connect(service), LIST + query) > 200_000
        assert grown() < 6 * 200_000 / 2


@pytest.mark.usefixtures("anna")
def test_list_is_compressed_once_for_concurrent_requests(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent requests with different headers share one compressed body."""
    compress, arrive = gzip.compress, replay.ReplayMiddleware.replay
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
    monkeypatch.setattr(replay.ReplayMiddleware, "replay", note_arrival)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_for_it, range(1, 9)))
    assert [answer.body for answer in answers] == compressed * 8


def pipeline(service: httpx.Client, heads: Iterable[bytes]) -> None:
    """Send a request with each of these headers, and expect 200 for each."""
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
def test_invented_headers_do_not_fill_the_memory(
    store_url: str, grown: Any, monkeypatch: pytest.MonkeyPatch, heads: list[bytes]
) -> None:
    monkeypatch.setattr(replay, "_MAX_RESPONSES", 200)  # to reach 4096 takes long
    with running_service(store_url) as service:
        pipeline(service, heads[:5])
        grown()
        pipeline(service, heads)
        assert grown() < 1000 * KiB
