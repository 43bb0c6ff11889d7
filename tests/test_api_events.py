"""GET /avatars/events: changes of the list as Server-Sent Events, also changes by others."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import threading
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from opentalking_core.api import events
from opentalking_core.catalog.event_log import EventLog
from opentalking_core.testing.running import running_service

from .helpers.http import hang_up
from .helpers.server import serving, write_demo
from .helpers.stores import wait_until, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import DeleteBundle, PostPortrait

CUSTOM = {"metadata": {"custom_avatar": True}}


class Event(NamedTuple):
    name: str
    data: dict[str, Any]
    id: str


class Listener:
    """Follows the events in a thread."""

    def __init__(self, service: httpx.Client, last_id: str | None = None, **headers: str) -> None:
        self.comments = 0
        self.headers: httpx.Headers | None = None
        self._queue: Queue[Event | None] = Queue()
        self._client = httpx.Client(base_url=service.base_url, timeout=60, trust_env=False, headers=headers)
        self._last_id = last_id
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        following = self._client.stream("GET", "/avatars/events", headers=headers)
        with contextlib.suppress(httpx.HTTPError), following as answer:
            self.headers = answer.headers
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                key, _, value = line.partition(":")
                if line == "" and "event" in fields:
                    self._queue.put(Event(fields["event"], json.loads(fields["data"]), fields["id"]))
                    fields = {}
                elif key:
                    fields[key] = value.strip()
                else:
                    self.comments += 1
        self._queue.put(None)

    def next(self, seconds: float = 20) -> Event:
        event = self._queue.get(timeout=seconds)
        assert event is not None, "the stream has ended"
        return event

    def expect(self, name: str, avatar_id: str) -> Event:
        event = self.next()
        assert (event.name, event.data["id"]) == (name, avatar_id)
        return event

    def ends(self, seconds: float = 20) -> bool:
        return self._queue.get(timeout=seconds) is None

    def is_quiet(self) -> bool:
        try:
            self._queue.get(timeout=0.2)
        except Empty:
            return True
        return False

    def close(self) -> None:
        hang_up(self._client)


@contextlib.contextmanager
def listening(service: httpx.Client, last_id: str | None = None, **headers: str) -> Iterator[Listener]:
    service.get("/avatars")  # which waits until the service has seen the changes of the test
    listener = Listener(service, last_id, **headers)
    try:
        if last_id is None:
            assert listener.next().name == "ready"
        yield listener
    finally:
        listener.close()


def etag_of(service: httpx.Client, avatar_id: str) -> str:
    return service.get(f"/avatars/{avatar_id}").headers["etag"].strip('"')


def test_own_changes_are_told_with_the_manifests_etag(service: httpx.Client, post_portrait: PostPortrait) -> None:
    with listening(service) as listener:
        made = post_portrait().json()["id"]
        assert listener.expect("created", made).data["etag"] == etag_of(service, made)
        assert service.patch(f"/avatars/{made}", json={"name": "Bob"}).status_code == 200
        assert listener.expect("changed", made).data["etag"] == etag_of(service, made)
        service.delete(f"/avatars/{made}")
        assert listener.expect("deleted", made).data["etag"] is None
        assert listener.is_quiet()


def test_change_that_the_list_does_not_show_is_told(service: httpx.Client, post_portrait: PostPortrait) -> None:
    made = post_portrait().json()["id"]
    with listening(service) as listener:
        service.patch(f"/avatars/{made}", json={"metadata": {"mood": "calm"}})
        assert listener.expect("changed", made).data["etag"] == etag_of(service, made)
        assert listener.is_quiet(), "the next scan must not tell it again"


def test_changes_of_others_are_told(service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle) -> None:
    with listening(service) as listener:
        put_bundle("anna", CUSTOM)
        assert listener.expect("created", "anna").data["etag"] == etag_of(service, "anna")
        delete_bundle("anna")
        listener.expect("deleted", "anna")


def test_edit_by_hand_is_told_and_hiding_is_a_deletion(folder_store: None, tmp_path: Path) -> None:
    root = tmp_path / "avatars"
    write_bundle(root / "anna")
    with running_service(root.as_uri(), refresh_seconds=0.05) as service, listening(service) as listener:
        write_bundle(root / "anna", name="Anna B.")
        event = listener.expect("changed", "anna")
        assert event.data["etag"] == etag_of(service, "anna")
        write_bundle(root / "anna", metadata={"hidden": True})
        listener.expect("deleted", "anna")
        write_bundle(root / "anna")
        listener.expect("created", "anna")
        (root / "anna" / "manifest.json").write_text("{")
        listener.expect("deleted", "anna")
        write_bundle(root / "anna")
        listener.expect("created", "anna")
        shutil.rmtree(root / "anna")
        listener.expect("deleted", "anna")


def test_client_that_comes_back_gets_what_it_has_missed_once(
    service: httpx.Client, post_portrait: PostPortrait
) -> None:
    with listening(service) as listener:
        first = listener.expect("created", post_portrait(name="One").json()["id"])
    second, third = (post_portrait(name=name).json()["id"] for name in ("Two", "Three"))
    with listening(service, first.id) as listener:
        listener.expect("created", second)
        last = listener.expect("created", third)
        assert listener.is_quiet()
    with listening(service, last.id) as listener:
        assert listener.is_quiet()


@pytest.mark.parametrize("last_id", ["nonsense", "0", "-1", "aaaaaaaa-0", "é", "x" * 5000])
def test_unknown_position_tells_to_list_again(service: httpx.Client, post_portrait: PostPortrait, last_id: str) -> None:
    service.get("/avatars")
    headers = {"Last-Event-ID": last_id.encode()}
    with service.stream("GET", "/avatars/events", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: reset"
        position = next(line for line in lines if line.startswith("id: ")).removeprefix("id: ")
    made = post_portrait().json()["id"]
    with listening(service, position) as listener:
        listener.expect("created", made)


def test_restarted_service_tells_to_list_again(store_url: str, base: str) -> None:
    with running_service(store_url) as service:
        listener = Listener(service)
        position = listener.next().id
        listener.close()
    with running_service(store_url) as service, listening(service, position) as listener:
        assert listener.next().name == "reset"


def test_log_forgets_old_events_and_tells_so() -> None:
    log = EventLog(max_events=3)
    start = log.position
    for number in range(3):
        log.add("created", f"avatar-{number}", None)
    assert [event.avatar_id for event in log.since(start) or ()] == ["avatar-0", "avatar-1", "avatar-2"]
    log.add("deleted", "avatar-0", None)
    assert log.since(start) is None
    later = log.id_after(1)
    assert [(event.kind, event.avatar_id) for event in log.since(later) or ()] == [
        ("created", "avatar-2"),
        ("deleted", "avatar-0"),
    ]
    assert log.since(log.position) == []
    assert log.since(log.id_after(100)) is None


def test_headers_let_events_through_proxies(service: httpx.Client, base: str) -> None:
    with listening(service) as listener:
        headers = listener.headers or {}
        assert headers["content-type"].startswith("text/event-stream")
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    head = service.head("/avatars/events")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")


def test_comments_show_that_the_connection_lives(
    service: httpx.Client, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.01)
    with listening(service) as listener:
        wait_until(lambda: listener.comments > 3)


def listeners(service: httpx.Client) -> int:
    found = re.search(r"^opentalking_event_listeners (\d+)", service.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_listener_that_leaves_is_forgotten_at_once(service: httpx.Client, base: str) -> None:
    with listening(service):
        wait_until(lambda: listeners(service) == 1)
    wait_until(lambda: listeners(service) == 0)


def test_hundreds_of_listeners_get_every_event(service: httpx.Client, post_portrait: PostPortrait) -> None:
    address = (service.base_url.host, service.base_url.port or 0)
    sockets = [socket.create_connection(address, timeout=30) for _ in range(200)]
    for one in sockets:
        one.sendall(b"GET /avatars/events HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: listeners(service) == 200)
    made = post_portrait().json()["id"].encode()
    for one in sockets:
        received = b""
        while made not in received:
            received += one.recv(4096)
        one.close()
    wait_until(lambda: listeners(service) == 0)


def test_stream_ends_with_the_server(tmp_path: Path) -> None:
    write_demo(tmp_path / "avatars")
    with serving(tmp_path / "avatars") as server, server.client() as client, listening(client) as listener:
        server.process.send_signal(signal.SIGTERM)
        assert listener.ends(seconds=5)
        server.wait()


def test_events_need_the_permission_to_list(store_url: str, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", "a-key-that-nobody-would-guess")
    with running_service(store_url, protect="everything") as service:
        assert service.get("/avatars/events").status_code == 401
        with listening(service, Authorization="Bearer a-key-that-nobody-would-guess"):
            pass
