"""X-Request-ID, the metrics page and the access log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from falcon.testing import TestClient
from prometheus_client.parser import text_string_to_metric_families

from opentalking_core import errors
from opentalking_core.api import create_app, observability
from opentalking_core.api.observability import target
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.hookspecs import hookimpl
from opentalking_core.host.host import PluginChoice, PluginHost
from opentalking_core.settings import Settings
from opentalking_core.testing.fixtures import FakeMouth, example_manifest
from opentalking_core.testing.running import installed_detectors, running_service

from .helpers.http import ask, let_tags_settle, wait_for
from .helpers.server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import PostPortrait

Numbers = dict[tuple[str, ...], float]


# -- X-Request-ID

WELL_FORMED = ("a", "mine-1", "A" * 128, "0193e8f2-7c1b-7d2e", "a.b_c:d/e+f=g@h-1", "1")
HOSTILE = (
    "",
    "a b",
    "A" * 129,
    "a,b",
    "\xe9",
    "a\tb",
    '"',
    "<script>",
    "a%0d%0aX-Evil: 1",
    "a;b",
    "\x9b31m",
    "x" * 60_000,
)


class Fails:
    """A plugin that opens fails:// as a store in which the avatar's id selects the failure."""

    @hookimpl
    def open_bundle_store(self, url: str) -> MemoryStore | None:
        class Store(MemoryStore):
            def open(self, avatar_id: str, path: str) -> Any:
                if avatar_id == "down":
                    raise errors.StoreUnavailable("it is down")
                if avatar_id == "bug":
                    raise ZeroDivisionError("a bug")
                return super().open(avatar_id, path)

            async def create(self, *bundle: Any) -> None:
                raise errors.StoreFull("it is full")

        return Store(url) if url.startswith("fails://") else None


@pytest.fixture
def requests_of_all_kinds() -> list[tuple[str, str, dict[str, str], int]]:
    """(method, path, headers, status)"""
    return [
        ("GET", "/avatars", {}, 200),
        ("GET", "/avatars", {"If-None-Match": "*"}, 304),
        ("HEAD", "/avatars", {}, 200),
        ("GET", "/avatars?limit=0", {}, 400),
        ("GET", "/avatars/nobody", {}, 404),
        ("GET", "/nowhere", {}, 404),
        ("PUT", "/avatars", {}, 405),
        ("OPTIONS", "/avatars", {}, 200),
        ("GET", "/avatars/bug", {}, 500),
        ("GET", "/avatars/down", {}, 503),
        ("POST", "/avatars/custom", {}, 400),
        ("GET", "/health", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("GET", "/docs", {}, 200),
        ("GET", "/", {}, 200),
    ]


def test_every_response_has_the_id_of_its_request(
    requests_of_all_kinds: list[tuple[str, str, dict[str, str], int]],
) -> None:
    made_up: list[str] = []
    with running_service("fails://", plugins={"fails": Fails(), "mouth": FakeMouth()}) as service:
        for method, path, headers, status in requests_of_all_kinds:
            for sent in ("mine-1", "not mine", None):
                own = {} if sent is None else {"X-Request-ID": sent}
                answer = ask(service, path, {**headers, **own}, method)
                assert answer.status == status, path
                if sent == "mine-1":
                    assert answer.headers["x-request-id"] == "mine-1", path
                else:
                    made_up.append(answer.headers["x-request-id"])
    assert len(made_up) == len(set(made_up))
    assert all(0 < len(each) <= 128 and each.isascii() and each.isprintable() and " " not in each for each in made_up)


def test_only_well_formed_request_ids_are_returned(service: httpx.Client) -> None:
    for own in WELL_FORMED:
        assert ask(service, "/avatars/nobody", {"X-Request-ID": own}).headers["x-request-id"] == own
    for hostile in HOSTILE:
        answer = ask(service, "/avatars/nobody", {"X-Request-ID": hostile})
        assert answer.headers["x-request-id"] != hostile
        assert "x-evil" not in answer.headers


def test_two_services_generate_different_request_ids(service: httpx.Client, store_url: str) -> None:
    with running_service(store_url) as another:
        ids = [ask(client, "/avatars").headers["x-request-id"] for client in (service, another) for _ in range(5)]
    assert len(set(ids)) == 10


# -- metrics


def numbers(service: httpx.Client, name: str, *labels: str) -> Numbers:
    """Return the samples of that name, by the values of these labels."""
    families = text_string_to_metric_families(service.get("/metrics").text)
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def requests(service: httpx.Client) -> Numbers:
    found = numbers(service, "opentalking_request_seconds_count", "method", "route", "status")
    return {key: value for key, value in found.items() if key[1] != "/metrics"}


def stages(service: httpx.Client) -> Numbers:
    return numbers(service, "opentalking_upload_stage_seconds_count", "stage")


def operations(service: httpx.Client, what: str) -> dict[str, float]:
    found = numbers(service, "opentalking_store_operation_seconds_count", "operation", "outcome")
    return {outcome: value for (operation, outcome), value in found.items() if operation == what}


def detections(service: httpx.Client) -> Numbers:
    return numbers(service, "opentalking_detections_total", "detector", "outcome")


def test_metrics_page_is_valid_prometheus_text(
    service: httpx.Client, post_portrait: PostPortrait, put_bundle: PutBundle
) -> None:
    put_bundle("anna", files={"preview.png": b"png"})
    for _ in range(30):
        assert service.get("/avatars/anna/preview").status_code == 200
    assert post_portrait().status_code == 200
    answer = service.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    kinds = {name: family.type for name, family in families.items()}
    for name, kind in {
        "opentalking_request_seconds": "histogram",
        "opentalking_upload_stage_seconds": "histogram",
        "opentalking_store_operation_seconds": "histogram",
        "opentalking_detections": "counter",
        "opentalking_avatars": "gauge",
        "opentalking_uploads_running": "gauge",
    }.items():
        assert kinds[name] == kind
        assert families[name].documentation
    for name, family in families.items():
        if family.type == "histogram":
            assert_histograms(name, family.samples)
    assert service.head("/metrics").status_code == 200


def assert_histograms(name: str, samples: list[Any]) -> None:
    """Check that buckets grow up to the count, and that the sum lies between their bounds."""
    series: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
    for sample in samples:
        labels = frozenset((key, value) for key, value in sample.labels.items() if key != "le")
        parts = series.setdefault(labels, {"buckets": []})
        if sample.name == f"{name}_bucket":
            parts["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            parts[sample.name.removeprefix(name)] = sample.value
    assert series
    for parts in series.values():
        bounds = [bound for bound, _ in parts["buckets"]]
        counts = [count for _, count in parts["buckets"]]
        assert bounds == sorted(set(bounds))
        assert bounds[-1] == float("inf")
        assert counts == sorted(counts)
        assert counts[-1] == parts["_count"] > 0
        below = [0.0, *bounds]
        each = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
        at_least = sum(n * low for n, low in zip(each, below, strict=False))
        at_most = sum(n * high for n, high in zip(each, bounds, strict=True) if n)
        assert at_least <= parts["_sum"] <= at_most


def test_requests_are_counted_by_method_route_and_status(
    service: httpx.Client, post_portrait: PostPortrait, put_bundle: PutBundle
) -> None:
    put_bundle("anna", {"metadata": {"custom_avatar": True}}, {"preview.png": b"png"})
    let_tags_settle()
    service.get("/avatars")
    before = requests(service)
    preview = ask(service, "/avatars/anna/preview")
    tag = {"If-None-Match": preview.headers["etag"]}
    asked: list[tuple[str, str, dict[str, str], int]] = [
        ("GET", "/avatars", {}, 5),
        ("GET", "/avatars?limit=1", {}, 1),
        ("HEAD", "/avatars", {}, 2),
        ("GET", "/avatars/anna", {}, 3),
        ("GET", "/avatars/nobody", {}, 2),
        ("GET", "/avatars/no%0abody", {}, 1),
        ("GET", "/avatars/anna/preview", {"Range": "bytes=0-1"}, 1),
        ("GET", "/avatars/anna/preview", {"Range": "bytes=9-"}, 1),
        ("GET", "/avatars/anna/preview", tag, 4),
        ("GET", "/nowhere", {}, 2),
        ("GET", "/nowhere/else?x", {}, 1),
        ("DELETE", "/avatars/demo-wav2lip", {}, 1),
        ("DELETE", "/avatars/anna", {}, 1),
        ("PUT", "/avatars", {}, 1),
    ]
    for method, path, headers, times in asked:
        for _ in range(times):
            ask(service, path, headers, method)
    assert post_portrait().status_code == 200
    assert post_portrait(None).status_code == 400
    counted = {key: value - before.get(key, 0) for key, value in requests(service).items()}
    one, preview_route = "/avatars/{avatar_id}", "/avatars/{avatar_id}/preview"
    assert {key: value for key, value in counted.items() if value} == {
        ("GET", "/avatars", "200"): 6,
        ("HEAD", "/avatars", "200"): 2,
        ("GET", one, "200"): 3,
        ("GET", one, "404"): 3,
        ("GET", preview_route, "200"): 1,
        ("GET", preview_route, "206"): 1,
        ("GET", preview_route, "416"): 1,
        ("GET", preview_route, "304"): 4,
        ("GET", "unknown", "404"): 3,
        ("DELETE", one, "403"): 1,
        ("DELETE", one, "200"): 1,
        ("PUT", "/avatars", "405"): 1,
        ("POST", "/avatars/custom", "200"): 1,
        ("POST", "/avatars/custom", "400"): 1,
    }


def test_invented_paths_and_methods_create_no_time_series(service: httpx.Client) -> None:
    """A time series is never removed, neither here nor in Prometheus."""
    ask(service, "/nowhere")
    ask(service, "/avatars/nobody")
    before = service.get("/metrics").text.count("\n")
    for n in range(40):
        assert ask(service, f"/nowhere/{n}?{n}").status == 404
        assert ask(service, f"/avatars/nobody-{n}").status == 404
    assert service.get("/metrics").text.count("\n") - before < 2 * 20  # that of /metrics itself
    for method in ("BREW", "X" * 100, 'A"', "get"):
        with socket.create_connection((service.base_url.host, service.base_url.port or 0)) as connection:
            connection.sendall(f"{method} /avatars HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert b" 200 " not in connection.recv(65536)
        assert f'method="{method}"' not in service.get("/metrics").text


def test_invented_methods_share_one_time_series() -> None:
    """uvicorn refuses invented methods; other servers may let them through."""
    host = PluginHost(PluginChoice(disabled=installed_detectors())).load()
    app = create_app(Settings(avatars_dir="memory://methods", portrait_workers=0), host)

    async def ask_in_many_ways() -> Any:
        async with TestClient(app) as client:
            for method in ("PROPFIND", "BREW", *(f"X-{n}" for n in range(50)), "PATCH", "TRACE"):
                for path in ("/avatars", "/nowhere"):
                    assert (await client.simulate_request(method, path)).status_code in (400, 404, 405)
            answer = await client.simulate_get("/metrics")
        return answer.text

    page = asyncio.run(ask_in_many_ways())
    assert set(re.findall('method="(.*?)"', page)) == {"PATCH", "TRACE", "other"}
    counted = re.findall(r'^opentalking_request_seconds_count{method="other",.*} (.*)$', page, re.MULTILINE)
    assert sum(map(float, counted)) == 2 * 52


def test_upload_stages_are_counted(service: httpx.Client, post_portrait: PostPortrait, portrait: bytes) -> None:
    assert stages(service) == {}
    assert post_portrait().status_code == 200
    assert post_portrait().status_code == 200
    uploads = {("receive",): 2, ("decode",): 2, ("encode",): 2, ("detect",): 2, ("store",): 2}
    assert stages(service) == uploads
    assert service.post("/avatars/check", files={"image": portrait}).status_code == 200
    after_check = stages(service)
    assert (after_check["receive",], after_check["detect",], after_check["store",]) == (3, 3, 2)
    assert post_portrait(b"no picture").status_code == 400
    assert post_portrait(name="").status_code == 400
    refused = stages(service)
    assert (refused["receive",], refused["detect",], refused["store",]) == (5, 3, 2)
    seconds = numbers(service, "opentalking_upload_stage_seconds_sum", "stage")
    assert all(0 < value < 60 for value in seconds.values())


def test_store_operations_are_counted(
    service: httpx.Client, post_portrait: PostPortrait, put_bundle: PutBundle
) -> None:
    put_bundle("anna", files={"preview.png": b"png"})
    let_tags_settle()
    service.get("/avatars")
    assert operations(service, "scan")["ok"] >= 1
    assert operations(service, "open") == operations(service, "create") == operations(service, "delete") == {}
    assert ask(service, "/avatars/anna").status == 200
    assert ask(service, "/avatars/anna/preview").status == 200
    assert operations(service, "open") == {"ok": 2}
    for avatar_id in ("nobody", "demo-wav2lip"):  # which has none
        assert ask(service, f"/avatars/{avatar_id}/preview").status == 404
    assert operations(service, "open") == {"ok": 2, "NotFound": 2}
    created = post_portrait().json()["id"]
    assert operations(service, "create") == {"ok": 1}
    assert service.delete(f"/avatars/{created}").status_code == 200
    assert service.delete(f"/avatars/{created}").status_code == 404
    assert service.delete("/avatars/anna").status_code == 403
    assert operations(service, "delete") == {"ok": 1}


def test_store_failures_are_counted_by_name(portrait: bytes) -> None:
    with running_service("fails://", plugins={"fails": Fails(), "mouth": FakeMouth()}) as service:
        for avatar_id, status, times in (("down", 503, 2), ("bug", 500, 1), ("nobody", 404, 3)):
            for _ in range(times):
                assert ask(service, f"/avatars/{avatar_id}").status == status
        assert operations(service, "open") == {"StoreUnavailable": 2, "ZeroDivisionError": 1, "NotFound": 3}


def test_detections_are_counted(store_url: str, base: str, portrait: bytes) -> None:
    class Blind:
        @hookimpl
        def detect_mouth(self, image: object) -> None:
            return None

    class Breaks:
        @hookimpl
        def detect_mouth(self, image: object) -> None:
            raise RuntimeError("it broke")

    mouth = FakeMouth()
    plugins = {"breaks": Breaks(), "blind": Blind(), "finds": mouth}
    with running_service(store_url, plugins=plugins, detectors="breaks,blind,finds") as service:
        assert detections(service) == {}
        for _ in range(2):
            assert service.post("/avatars/check", files={"image": portrait}).status_code == 200
        mouth.landmarks = None
        assert service.post("/avatars/check", files={"image": portrait}).status_code == 200
        assert detections(service) == {
            ("breaks", "failed"): 3,
            ("blind", "none"): 3,
            ("finds", "found"): 2,
            ("finds", "none"): 1,
        }


def test_gauges_show_avatars_and_running_uploads(service: httpx.Client, put_bundle: PutBundle) -> None:
    for avatar_id in ("anna", "bert", "carl"):
        put_bundle(avatar_id, {"metadata": {"custom_avatar": True, "hidden": avatar_id == "carl"}})
    put_bundle("broken", b"no JSON")
    service.get("/avatars")
    assert numbers(service, "opentalking_avatars") == {(): 2}
    assert service.delete("/avatars/anna").status_code == 200
    assert numbers(service, "opentalking_avatars") == {(): 1}
    assert numbers(service, "opentalking_uploads_running") == {(): 0}
    with socket.create_connection((service.base_url.host, service.base_url.port or 0)) as connection:
        head = b"POST /avatars/custom HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(head + b"Content-Length: 1000\r\n\r\n--b\r\n")
        wait_for(lambda: numbers(service, "opentalking_uploads_running") == {(): 1})
    wait_for(lambda: numbers(service, "opentalking_uploads_running") == {(): 0})


def test_two_services_have_separate_metrics(service: httpx.Client, store_url: str) -> None:
    ask(service, "/avatars/nobody")
    with running_service(store_url) as another:
        assert requests(another) == {}


# -- the access log


def lines(caplog: pytest.LogCaptureFixture, at_least: int) -> list[Any]:
    """Wait until the thread has written this many lines of the access log, and return the lines."""

    def written() -> list[Any]:
        found = [record for record in caplog.records if record.name == "opentalking_core.access"]
        return found if len(found) >= at_least else []

    return wait_for(written)


def test_access_log_has_a_line_for_each_request(
    caplog: pytest.LogCaptureFixture, requests_of_all_kinds: list[tuple[str, str, dict[str, str], int]]
) -> None:
    caplog.set_level(logging.INFO, "opentalking_core.access")
    plugins = {"fails": Fails(), "mouth": FakeMouth()}
    with running_service("fails://", plugins=plugins, access_log=True) as service:
        for n, (method, path, headers, _) in enumerate(requests_of_all_kinds):
            ask(service, path, {**headers, "X-Request-ID": f"request-{n}"}, method)
        written = lines(caplog, len(requests_of_all_kinds))
    assert len(written) == len(requests_of_all_kinds)
    for n, (line, (method, path, _, status)) in enumerate(zip(written, requests_of_all_kinds, strict=True)):
        assert (line.request_id, line.method, line.path, line.status) == (f"request-{n}", method, path, status)
        assert line.client == "127.0.0.1"
        assert 0 <= line.milliseconds < 60_000
        assert line.getMessage() == f"{method} {path} {status} {line.milliseconds} ms"
        assert line.levelname == "INFO"


def test_access_log_is_off_by_default(service: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        assert ask(service, "/avatars").status == 200
    assert not [record for record in caplog.records if record.name == "opentalking_core.access"]


class SlowReader(logging.Handler):
    """A handler that blocks until the test lets it take a line."""

    def __init__(self) -> None:
        super().__init__()
        self.has_one = threading.Event()
        self.may_take = threading.Semaphore(0)
        self.taken: list[logging.LogRecord] = []

    def handle(self, record: logging.LogRecord) -> bool:
        self.has_one.set()
        self.may_take.acquire()
        self.taken.append(record)
        return True


@pytest.fixture
def slow_reader(caplog: pytest.LogCaptureFixture) -> Iterator[SlowReader]:
    """Add a slow reader to the access log."""
    caplog.set_level(logging.INFO, "opentalking_core.access")
    logger, reader = logging.getLogger("opentalking_core.access"), SlowReader()
    logger.addHandler(reader)
    yield reader
    logger.removeHandler(reader)
    reader.may_take.release(1000)


def test_unread_access_log_drops_lines_and_counts_them(
    store_url: str, slow_reader: SlowReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observability, "_MAX_QUEUED_LINES", 20)
    with running_service(store_url, access_log=True) as service:
        ask(service, "/avatars")
        wait_for(slow_reader.has_one.is_set)
        for _ in range(49):
            assert ask(service, "/avatars").status == 200
        for n in range(5):  # one line is taken each time
            slow_reader.may_take.release()
            wait_for(lambda: len(slow_reader.taken) > n)  # noqa: B023
            ask(service, "/avatars")
        slow_reader.may_take.release(1000)
        wait_for(lambda: len(slow_reader.taken) == 21)
        ask(service, "/avatars", {"X-Request-ID": "afterwards"})
        wait_for(lambda: len(slow_reader.taken) == 23)
    *lines, gap, afterwards = slow_reader.taken
    assert {line.levelname for line in lines} == {"INFO"}
    assert gap.levelname == "WARNING"
    assert gap.getMessage().startswith("dropped the lines of 34 requests")
    assert afterwards.__dict__["request_id"] == "afterwards"


#: Line ends, terminal escape codes and bidirectional controls must not reach a log unencoded.
FORGED = (
    "%0a",
    "%0d%0a",
    "%1b[31m",
    "%00",
    "%7f",
    "%08",
    "%c2%85",
    "%e2%80%a8",
    "%e2%80%ae",
    "%c2%9b31m",
    "%ff",
    "%ed%a0%80",
)


def test_path_cannot_forge_a_line_of_the_access_log(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "opentalking_core.access")
    with running_service(store_url, access_log=True) as service:
        for code in FORGED:
            assert ask(service, f"/avatars/x{code}12:00:00%20INFO%20GET%20/forged").status == 404
            assert ask(service, f"/avatars?x{code}forged").status == 200
        with socket.create_connection((service.base_url.host, service.base_url.port or 0)) as connection:
            connection.sendall(b"GET /avatars/\x9b31m\xc2\x85?\x9b\xe2\x80\xa8 HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(65536)
        assert ask(service, "/avatars/" + "x" * 5000).status == 404
        written = lines(caplog, 2 * len(FORGED) + 1)
    for line in written:
        for text in (line.getMessage(), line.path, line.method, line.request_id):
            assert text.isprintable(), repr(text)
            assert len(text) < 700
        assert line.getMessage().count(" ") == 4, "five words: method, path, status, milliseconds, ms"


def test_query_of_any_bytes_cannot_forge_a_line() -> None:
    """uvicorn refuses such requests; other servers may let them through."""
    query = bytes(range(256))
    shown = target({"path": "/avatars", "query_string": query})
    assert shown.startswith("/avatars?%00%01")
    assert shown.isascii()
    assert shown.isprintable()
    assert " " not in shown


def test_ordinary_paths_are_logged_as_they_are_sent(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "opentalking_core.access")
    paths = ("/avatars/anna-1_x/preview?width=320", "/avatars?q=a+b&limit=2&x=%C3%A9", "/", "/avatars/%E6%9D%8E")
    with running_service(store_url, access_log=True) as service:
        for path in paths:
            ask(service, path)
        assert [line.path for line in lines(caplog, len(paths))] == list(paths)


def test_path_cannot_forge_a_line_about_an_error(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A 500 is logged with its path, and any path can be requested."""

    class Breaks:
        @hookimpl
        def authorize(self, action: str, avatar_id: str | None, credentials: str | None) -> bool:
            raise RuntimeError("it broke")

    with running_service(store_url, plugins={"breaks": Breaks()}, protect="everything") as service:
        for code in FORGED:
            assert ask(service, f"/avatars/x{code}forged").status == 500
    failed = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(failed) == len(FORGED)
    assert all(record.getMessage().isprintable() for record in failed)


def test_real_server_logs_json_with_request_ids(tmp_path: Path, portrait: bytes) -> None:
    """The log consists of JSON objects, one a line, each with the id of its request."""
    bundle = tmp_path / "avatars" / "demo"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text(json.dumps(example_manifest("demo", model_type="wav2lip")))
    environment = {
        "OPENTALKING_ACCESS_LOG": "true",
        "OPENTALKING_PORTRAIT_WORKERS": "0",
        "OPENTALKING_DISABLE_PLUGINS": "mediapipe_mouth",
    }
    with serving(tmp_path / "avatars", **environment) as server:
        with server.client() as client:
            form: Any = {"name": (None, "Alice"), "base_avatar_id": (None, "demo"), "image": ("a.jpg", portrait)}
            assert client.post("/avatars/custom", files=form, headers={"X-Request-ID": "upload-1"}).status_code == 200
            assert client.get("/avatars/x%0aforged", headers={"X-Request-ID": "forged-1"}).status_code == 404
            for _ in range(3):
                assert client.get("/avatars", headers={"X-Request-ID": "list-1"}).status_code == 200
        wait_for(lambda: sum("list-1" in line for line in server.log) == 3)
        log = [json.loads(line) for line in server.log]
    for line in log:
        assert {"time", "level", "logger", "message"} <= line.keys()
    (made,) = (line for line in log if line["message"].startswith("made avatar"))
    assert made["request_id"] == "upload-1"
    access = [line for line in log if line["logger"] == "opentalking_core.access"]
    assert [(line["request_id"], line["method"], line["path"], line["status"]) for line in access] == [
        ("upload-1", "POST", "/avatars/custom", 200),
        ("forged-1", "GET", "/avatars/x%0Aforged", 404),
        *[("list-1", "GET", "/avatars", 200)] * 3,
    ]
    assert all(isinstance(line["milliseconds"], float) for line in access)
