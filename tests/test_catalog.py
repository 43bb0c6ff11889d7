"""The list of avatars: what it costs, how soon it shows what others change, and what it says when the store fails."""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
import random
import re
import shutil
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core.catalog import ListingQuery
from opentalking_core.catalog import scanning as catalog
from opentalking_core.catalog.file_cache import FileCache
from opentalking_core.errors import StoreUnavailable
from opentalking_core.metrics import Metrics
from opentalking_core.testing.fixtures import FakeMouth, example_manifest
from opentalking_core.testing.running import running_service

from .helpers.server import Server
from .helpers.stores import StampedStore, WatchedStore, serve, wait_until, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx

    from .helpers.stores import Hold

NEVER = 3600.0  # seconds from one periodic scan to the next
OFTEN = 0.02
CUSTOM = {"custom_avatar": True}


def ids(service: httpx.Client) -> list[str]:
    """Return the ids in the list."""
    answer = service.get("/avatars")
    assert answer.status_code == 200, answer.text
    return [avatar["id"] for avatar in answer.json()]


def upload(service: httpx.Client, portrait: bytes, base: str = "base") -> str:
    """Create an avatar, and return its id."""
    form: dict[str, tuple[str | None, str | bytes]] = {
        "name": (None, "Alice"),
        "base_avatar_id": (None, base),
        "image": ("a.jpg", portrait),
    }
    answer = service.post("/avatars/custom", files=form)
    assert answer.status_code == 200, answer.text
    avatar_id: str = answer.json()["id"]
    return avatar_id


@pytest.fixture
def avatars(tmp_path: Path) -> Path:
    """Return an empty folder for bundles."""
    (folder := tmp_path / "avatars").mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder on the same disk, to move bundles from and to."""
    (folder := tmp_path / "elsewhere").mkdir()
    return folder


@pytest.fixture(params=[StampedStore, WatchedStore], ids=["stamp", "no stamp"])
def store(request: pytest.FixtureRequest) -> WatchedStore:
    """Run the test over a store with a change stamp and over one without."""
    made: WatchedStore = request.param()
    return made


@pytest.fixture(autouse=True)
def fixed_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan every `refresh_seconds`: a scan that a test holds must not make the pause after it longer."""
    monkeypatch.setattr(catalog, "MAX_SCAN_SHARE", math.inf)
    monkeypatch.setattr(catalog, "MAX_SCAN_SHARE_WITHOUT_STAMP", math.inf)


@pytest.fixture
def files_stay_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock by which the service's cached files get old."""
    monkeypatch.setattr("opentalking_core.service.FileCache", partial(FileCache, clock=lambda: 0.0))


def let_it_age(folder: Path) -> None:
    """Wait until a later change gets a different time: the clocks of file systems are coarse."""
    wait_until(lambda: time.time_ns() - folder.stat().st_ctime_ns > 60_000_000)


@contextmanager
def serve_held(store: WatchedStore) -> Iterator[tuple[httpx.Client, Hold]]:
    """Run a service whose first scan waits."""
    with store.holding("open") as hold, serve(store) as service:
        yield service, hold


# -- cost


class FileWatch:
    """Record which files this process opens and which folders it reads. Python can't remove such a hook."""

    def __init__(self) -> None:
        self.below: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.below is not None and event in ("open", "os.scandir", "os.listdir") and arguments:
            path = arguments[0]
            if isinstance(path, str | os.PathLike) and str(path).startswith(self.below):
                self.seen.append(f"{event} {path}")


@pytest.fixture(scope="module")
def file_watch() -> FileWatch:
    return FileWatch()


@pytest.mark.usefixtures("files_stay_fresh")
def test_reading_an_unchanged_folder_opens_no_file(avatars: Path, file_watch: FileWatch) -> None:
    for n in range(20):
        write_bundle(avatars / f"anna-{n}", {"preview.png": b"png"})
    let_it_age(avatars)
    with running_service(avatars.as_uri(), refresh_seconds=NEVER) as service:
        assert len(ids(service)) == 20
        assert service.get("/avatars/anna-0").status_code == service.get("/avatars/anna-0/preview").status_code == 200
        file_watch.seen.clear()
        file_watch.below = str(avatars)
        try:
            for headers in ({}, {"Accept-Encoding": "identity"}, {"If-None-Match": '"old"'}):
                for _ in range(20):
                    assert len(service.get("/avatars", headers=headers).json()) == 20
            assert file_watch.seen == []
            for _ in range(50):
                assert service.get("/avatars/anna-0").status_code == 200
                assert service.get("/avatars/anna-0/preview").content == b"png"
            assert file_watch.seen == []
            write_bundle(avatars / "ben")
            assert len(ids(service)) == 21
            assert file_watch.seen, "the watch works"
        finally:
            file_watch.below = None


@pytest.mark.usefixtures("files_stay_fresh")
def test_unchanged_store_is_asked_for_nothing_between_scans(store: WatchedStore) -> None:
    store.put("anna", "ben", files={"preview.png": b"png"})
    with serve(store, refresh_seconds=NEVER) as service:
        assert ids(service) == ["anna", "ben"]
        assert service.get("/avatars/anna").status_code == 200
        assert service.get("/avatars/anna/preview").content == b"png"
        scans, opened = store.scans, len(store.opened)
        for _ in range(50):
            assert ids(service) == ["anna", "ben"]
            assert service.get("/avatars/anna").json()["id"] == "anna"
            assert service.get("/avatars/anna/preview").content == b"png"
            assert service.get("/avatars?model_type=mock").headers["X-Total-Count"] == "2"
            assert service.get("/health").status_code == 200
        assert store.scans == scans
        assert len(store.opened) == opened


def test_scan_reads_only_changed_manifests(store: WatchedStore) -> None:
    store.put(*(f"anna-{n}" for n in range(40)))
    with serve(store, refresh_seconds=OFTEN) as service:
        assert len(ids(service)) == 40
        assert sorted(store.opened) == sorted(f"anna-{n}/manifest.json" for n in range(40))
        store.wait_for_a_scan()
        assert len(store.opened) == 40
        store.put("ben", "carl")
        store.take("anna-7")
        store.wait_for_a_scan()
        assert len(ids(service)) == 41
        assert sorted(store.opened[40:]) == ["ben/manifest.json", "carl/manifest.json"]


def test_scan_reads_at_most_32_manifests_at_once(store: WatchedStore) -> None:
    store.put(*(f"anna-{n}" for n in range(200)))
    with store.holding("open") as hold, serve(store) as service:
        wait_until(lambda: hold.waiting > 1)
        assert service.get("/metrics").status_code == 200
        assert len(store.opened) <= 32
        hold.is_over = True
        wait_until(lambda: not service.get("/health").json()["store"]["stale"])
        assert len(ids(service)) == 200
    assert 1 < store.most_opening <= 32


def test_list_keeps_its_tag_until_a_change(avatars: Path) -> None:
    home = write_bundle(avatars / "anna")
    with running_service(avatars.as_uri(), refresh_seconds=OFTEN) as service:
        first = service.get("/avatars")
        for _ in range(3):  # read again, and nothing new in it
            os.utime(home / "manifest.json")
            (avatars / "a file").write_bytes(b"")
            wait_for_scans(service)
        wait_until(lambda: service.get("/avatars").headers["Date"] != first.headers["Last-Modified"])
        os.utime(home / "manifest.json")
        wait_for_scans(service)
        again = service.get("/avatars")
        for name in ("ETag", "Last-Modified"):
            assert again.headers[name] == first.headers[name]
        write_bundle(avatars / "ben")
        changed = service.get("/avatars")
        assert changed.headers["ETag"] != first.headers["ETag"]
        assert changed.headers["Last-Modified"] != first.headers["Last-Modified"]
        (avatars / "ben" / "manifest.json").unlink()
        wait_until(lambda: ids(service) == ["anna"])
        assert service.get("/avatars").headers["ETag"] == first.headers["ETag"], "the same bytes have the same tag"


def scans(service: httpx.Client) -> int:
    """Return how many scans have succeeded, manifests included. Asking does not start a scan."""
    found = re.search(
        r'^opentalking_store_operation_seconds_count{operation="scan",outcome="ok"} (\d+)',
        service.get("/metrics").text,
        re.MULTILINE,
    )
    return int(found[1]) if found else 0


def wait_for_scans(service: httpx.Client) -> None:
    """Wait until a scan has begun and ended."""
    before = scans(service)
    wait_until(lambda: scans(service) > before + 1)


def test_bundle_takes_less_than_two_kilobytes_of_memory() -> None:
    store, count = WatchedStore(), 4000
    names = [f"custom-somebody-{n}-20260513-153012-001" for n in range(count)]
    store.put(*names, name="Somebody with an ordinary name", metadata={**CUSTOM, "unknown": "x" * 2000})
    tracemalloc.start()
    try:
        with store.holding("scan") as hold, serve(store, refresh_seconds=NEVER) as service:
            before, _ = tracemalloc.get_traced_memory()
            hold.is_over = True
            wait_until(lambda: not service.get("/health").json()["store"]["stale"])
            assert len(ids(service)) == count
            for notes in (store.opened, store.read):
                notes.clear()
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 100 < (after - before) / count < 2000


def test_page_takes_no_memory_for_other_pages() -> None:
    """Building a list of all avatars for each page would block the event loop, too."""
    store, count = WatchedStore(), 2000
    store.put(*(f"anna-{n}" for n in range(count)))

    async def most_memory() -> int:
        avatars = catalog.ScanningCatalog(store, NEVER, Metrics())
        query = ListingQuery(limit=1, cursor="anna-1")
        for _ in range(2):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            assert (await avatars.page(query)).total == count
        _, most = tracemalloc.get_traced_memory()
        return most - before

    tracemalloc.start()
    try:
        assert asyncio.run(most_memory()) < count * 8
    finally:
        tracemalloc.stop()


# -- changes by other processes


def test_bundles_moved_by_hand_are_in_the_next_list(avatars: Path, elsewhere: Path) -> None:
    write_bundle(avatars / "anna")
    with running_service(avatars.as_uri(), refresh_seconds=NEVER) as service:
        assert ids(service) == ["anna"]
        for n in range(5):
            write_bundle(elsewhere / "ben").rename(avatars / "ben")
            assert ids(service) == ["anna", "ben"], n
            (avatars / "ben").rename(avatars / "carl")
            assert ids(service) == ["anna", "carl"], n
            assert service.get("/avatars/carl").json()["id"] == "ben", "the file as it is"
            assert service.get("/avatars/ben").status_code == 404
            (avatars / "carl").rename(elsewhere / "carl")
            assert ids(service) == ["anna"], n
            shutil.rmtree(elsewhere / "carl")
            shutil.copytree(avatars / "anna", avatars / "dora")
            assert ids(service) == ["anna", "dora"], n
            shutil.rmtree(avatars / "dora")
            assert ids(service) == ["anna"], n


def test_bundle_copied_file_by_file_is_listed_with_its_manifest(avatars: Path) -> None:
    write_bundle(avatars / "anna")
    with running_service(avatars.as_uri(), refresh_seconds=NEVER) as service:
        (home := avatars / "ben").mkdir()
        assert ids(service) == ["anna"]
        (home / "preview.png").write_bytes(b"png")
        assert ids(service) == ["anna"]
        let_it_age(avatars)
        let_it_age(home)
        assert ids(service) == ids(service) == ["anna"]
        write_bundle(home)
        assert ids(service) == ["anna", "ben"]


def test_manifest_written_in_two_steps_is_listed(avatars: Path) -> None:
    manifest = json.dumps(example_manifest("anna"))
    (home := avatars / "anna").mkdir()
    with running_service(avatars.as_uri(), refresh_seconds=OFTEN) as service:
        for cut in (0, len(manifest) // 2):
            (home / "manifest.json").write_text(manifest[:cut])
            wait_for_scans(service)
            assert ids(service) == []
        (home / "manifest.json").write_text(manifest)
        wait_until(lambda: ids(service) == ["anna"])


@pytest.mark.parametrize("replace", [False, True], ids=["in place", "by a rename"])
def test_edited_manifest_is_served(avatars: Path, replace: bool) -> None:
    """The edit keeps size and time, as `cp -p` and `rsync -t` do."""
    home = write_bundle(avatars / "anna", {"preview.png": b"old"}, name="Anna")

    def edit(path: str, content: bytes) -> None:
        before = (home / path).stat()
        assert before.st_size == len(content)
        file = home / (f"{path}.new" if replace else path)
        file.write_bytes(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        file.rename(home / path)

    with running_service(avatars.as_uri(), refresh_seconds=OFTEN) as service:
        assert service.get("/avatars").json()[0]["name"] == service.get("/avatars/anna").json()["name"] == "Anna"
        assert service.get("/avatars/anna/preview").content == b"old"
        assert service.get("/avatars?limit=1").json() == service.get("/avatars").json()
        etag = service.get("/avatars").headers["ETag"]
        edit("manifest.json", (home / "manifest.json").read_bytes().replace(b"Anna", b"Beth"))
        edit("preview.png", b"new")
        wait_until(lambda: [avatar["name"] for avatar in service.get("/avatars").json()] == ["Beth"])
        assert service.get("/avatars?limit=1").json() == service.get("/avatars").json()
        assert service.get("/avatars").headers["ETag"] != etag
        wait_until(lambda: service.get("/avatars/anna").json()["name"] == "Beth")
        wait_until(lambda: service.get("/avatars/anna/preview").content == b"new")


def test_store_without_stamp_shows_changes_after_a_scan() -> None:
    store = WatchedStore()
    store.put("anna")
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == ["anna"]
        store.put("ben")
        store.wait_for_a_scan()
        assert ids(service) == ["anna", "ben"]
        store.take("anna")
        store.wait_for_a_scan()
        assert ids(service) == ["ben"]
        with store.holding("scan") as hold:
            wait_until(lambda: hold.waiting)
            store.put("carl")
            assert ids(service) == ["ben"], "a request does not wait for a periodic scan"
        wait_until(lambda: ids(service) == ["ben", "carl"])


def test_avatar_hidden_or_broken_by_hand_is_not_listed_until_mended(
    avatars: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = write_bundle(avatars / "ben")
    manifest = home / "manifest.json"
    write_bundle(avatars / "anna")
    write_bundle(avatars / "carl")
    good = manifest.read_bytes()
    with running_service(avatars.as_uri(), refresh_seconds=OFTEN) as service:
        for bad in (
            json.dumps(example_manifest("ben", metadata={"hidden": True})).encode(),
            b"{",
            good + b" " * 9 * 1024 * 1024,
            b"\xff" + good,
        ):
            assert ids(service) == ["anna", "ben", "carl"]
            (home / "new").write_bytes(bad)
            (home / "new").rename(manifest)
            wait_until(lambda: ids(service) == ["anna", "carl"])
            wait_for_scans(service)
            (home / "new").write_bytes(good)
            (home / "new").rename(manifest)
            wait_until(lambda: ids(service) == ["anna", "ben", "carl"])
        manifest.rename(home / "away")
        wait_until(lambda: ids(service) == ["anna", "carl"])
        (home / "away").rename(manifest)
        wait_until(lambda: ids(service) == ["anna", "ben", "carl"])
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 3


@pytest.mark.parametrize("trouble", [StoreUnavailable("the disk has a bad block"), ZeroDivisionError("a bug")])
def test_unreadable_manifest_hides_no_other_avatar(
    store: WatchedStore, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("anna", "ben", "carl")
    store.broken["open ben/manifest.json"] = trouble
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == ["anna", "carl"]
        store.wait_for_a_scan()
        assert ids(service) == ["anna", "carl"]
        assert service.get("/health").status_code == 200
        assert len([record for record in caplog.records if "'ben' can't be read" in record.getMessage()]) == 1
        store.broken.clear()
        wait_until(lambda: ids(service) == ["anna", "ben", "carl"])
        store.broken["open ben/manifest.json"] = trouble
        store.put("dora")
        store.wait_for_a_scan()
        assert ids(service) == ["anna", "ben", "carl", "dora"], "the manifest has not changed, so it is not read"


TROUBLES = [StoreUnavailable("Permission denied"), ZeroDivisionError("a bug")]
NOT_ONE = "not one of the manifests (2) can be read: "


@pytest.mark.parametrize("trouble", TROUBLES)
def test_first_scan_fails_if_no_manifest_can_be_read(store: WatchedStore, trouble: Exception) -> None:
    """The manifests may belong to another user. An empty list would be wrong."""
    store.put("anna", "ben")
    store.broken["open"] = trouble
    with serve(store, refresh_seconds=NEVER) as service:
        for path in ("/avatars", "/avatars?limit=1"):
            answer = service.get(path)
            assert answer.status_code == 503
            detail = answer.json()["detail"]
            assert detail.startswith(NOT_ONE)
            assert str(trouble) in detail
            assert int(answer.headers["Retry-After"]) > 0
        health = service.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        assert health.json()["store"] == {
            "plugin": "watched",
            "url": store.url,
            "ok": False,
            "problem": detail,
            "avatars": 0,
            "stale": True,
        }
        store.broken.clear()
        assert ids(service) == ["anna", "ben"], "the next request looks again"
        health = service.get("/health")
        assert (health.status_code, health.json()["store"]["problem"]) == (200, None)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_last_known_list_is_served_if_no_manifest_can_be_read(store: WatchedStore, trouble: Exception) -> None:
    store.put("anna", "ben")
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == ["anna", "ben"]
        before = service.get("/avatars").content
        with store.holding("scan") as hold:
            wait_until(lambda: hold.waiting)
            for avatar_id in ("anna", "ben"):
                store.take(avatar_id)
                store.put(avatar_id, name="New")
            store.broken["open"] = trouble
        wait_until(lambda: service.get("/health").status_code == 503)
        health = service.get("/health").json()["store"]
        assert health["problem"].startswith(NOT_ONE)
        assert (health["avatars"], health["stale"]) == (2, True)
        assert service.get("/avatars").content == before
        store.broken.clear()
        wait_until(lambda: [avatar["name"] for avatar in service.get("/avatars").json()] == ["New", "New"])
        assert service.get("/health").status_code == 200


def test_broken_manifests_leave_the_store_healthy(store: WatchedStore) -> None:
    store.put("anna", "ben", fps="broken")
    store.put("carl")
    store.broken["open carl/manifest.json"] = StoreUnavailable("the disk has a bad block")
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == []
        assert service.get("/health").status_code == 200


def test_list_is_unavailable_before_the_first_manifest_is_read(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "REFRESH_WAIT_SECONDS", 0.05)
    store.put("anna", "ben", "carl")
    store.broken["open anna/manifest.json"] = StoreUnavailable("the disk has a bad block")
    with (
        store.holding("open ben/manifest.json"),
        store.holding("open carl/manifest.json") as hold,
        serve(store, refresh_seconds=NEVER) as service,
    ):
        wait_until(lambda: hold.waiting)
        answer = service.get("/avatars")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "first time" in answer.json()["detail"]
        hold.is_over = True
        wait_until(lambda: service.get("/avatars").status_code == 200)
        assert ids(service) == ["carl"]


def test_bundle_deleted_during_a_scan_is_not_listed(store: WatchedStore) -> None:
    store.put("anna", "ben")
    with store.holding("open ben/manifest.json") as hold, serve(store, refresh_seconds=OFTEN) as service:
        wait_until(lambda: hold.waiting)
        store.take("ben")
        hold.is_over = True
        wait_until(lambda: not service.get("/health").json()["store"]["stale"])
        assert ids(service) == ["anna"]


# -- large folders


def test_requests_are_answered_during_the_first_scan(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "REFRESH_WAIT_SECONDS", 0.05)
    names = [f"anna-{n:03}" for n in range(100)]
    store.put(*names, files={"preview.png": b"png"})
    with ExitStack() as holds:
        for name in names[3:]:
            holds.enter_context(store.holding(f"open {name}/manifest.json"))
        with serve(store, refresh_seconds=NEVER) as service:
            wait_until(lambda: service.get("/avatars").status_code == 200)
            wait_until(lambda: ids(service) == names[:3])
            assert service.get("/avatars?limit=2").headers["X-Total-Count"] == "3"
            assert service.get("/avatars/anna-001").json()["id"] == "anna-001"
            assert service.get("/avatars/anna-050/preview").content == b"png"
            health = service.get("/health")
            assert health.status_code == 200
            assert health.json()["store"] == {
                "plugin": "watched",
                "url": store.url,
                "ok": True,
                "problem": None,
                "avatars": 3,
                "stale": True,
            }
            holds.close()
            wait_until(lambda: ids(service) == names)
            assert service.get("/health").json()["store"]["stale"] is False


def test_list_before_any_scan_says_retry_after(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "REFRESH_WAIT_SECONDS", 0.05)
    store.put("anna", files={"preview.png": b"png"})
    with store.holding("scan") as hold, serve(store, refresh_seconds=NEVER) as service:
        for path in ("/avatars", "/avatars?limit=1"):
            answer = service.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert "first time" in answer.json()["detail"]
        assert service.get("/health").status_code == 503
        assert service.get("/avatars/anna/preview").content == b"png"
        hold.is_over = True
        wait_until(lambda: service.get("/avatars").status_code == 200)
        assert ids(service) == ["anna"]


def test_request_during_the_first_scan_waits_for_the_whole_list(store: WatchedStore) -> None:
    store.put(*(f"anna-{n}" for n in range(50)))
    with ThreadPoolExecutor(1) as pool, serve_held(store) as (service, hold):
        waiting = pool.submit(ids, service)
        wait_until(lambda: hold.waiting)
        hold.is_over = True
        assert len(waiting.result()) == 50


# -- trouble with the store


def test_last_known_list_is_served_while_the_store_fails(store: WatchedStore, caplog: pytest.LogCaptureFixture) -> None:
    store.put("anna", "ben")
    with serve(store, refresh_seconds=OFTEN) as service:
        before = service.get("/avatars")
        store.broken["scanned"] = StoreUnavailable("the bucket is on fire")
        store.put("carl")
        store.take("anna")
        store.wait_for_a_scan()
        answer = service.get("/avatars")
        assert (answer.content, answer.headers["ETag"]) == (before.content, before.headers["ETag"])
        health = service.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        assert health.json()["store"]["problem"] == "the bucket is on fire"
        assert health.json()["store"]["stale"] is True
        store.wait_for_a_scan()
        store.broken.clear()
        wait_until(lambda: ids(service) == ["ben", "carl"])
        health = service.get("/health")
        assert (health.status_code, health.json()["store"]["problem"]) == (200, None)
    said = [record.getMessage() for record in caplog.records if "scanned" in record.getMessage()]
    assert len(said) == 2, "one line when the trouble began and one when it was over"


@pytest.mark.parametrize("operation", ["enter", "scan", "scanned"])
def test_store_that_fails_at_the_start_recovers(store: WatchedStore, operation: str) -> None:
    store.put("anna", files={"preview.png": b"png"})
    store.broken[operation] = StoreUnavailable("the bucket is on fire", retry_after=7)
    with serve(store, refresh_seconds=OFTEN) as service:
        for path in ("/avatars", "/avatars?limit=1"):
            wait_until(lambda path=path: "fire" in service.get(path).text)  # type: ignore[misc]
            answer = service.get(path)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
        health = service.get("/health")
        assert (health.status_code, health.json()["store"]["ok"]) == (503, False)
        assert health.json()["store"]["problem"] == "the bucket is on fire"
        if operation == "enter":
            assert service.get("/avatars/anna/preview").headers["Retry-After"] == "7"
        store.broken.clear()
        wait_until(lambda: service.get("/avatars").status_code == 200)
        assert ids(service) == ["anna"]
        assert service.get("/health").status_code == 200


@pytest.mark.parametrize("first", [True, False], ids=["from the start", "later"])
def test_bug_in_the_store_is_reported_and_does_not_end_the_scans(
    store: WatchedStore, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("anna")
    bug = ZeroDivisionError("a bug")
    if first:
        store.broken["scan"] = bug
    with serve(store, refresh_seconds=OFTEN) as service:
        if first:
            wait_until(lambda: store.scans > 1)
            assert service.get("/avatars").status_code == 503
        else:
            assert ids(service) == ["anna"]
            store.broken["scan"] = bug
            store.put("ben")
            store.wait_for_a_scan()
            assert ids(service) == ["anna"]
        health = service.get("/health")
        assert health.status_code == 503
        assert "ZeroDivisionError" in health.json()["store"]["problem"]
        assert [record.exc_info for record in caplog.records if record.exc_info], "where it happened"
        store.broken.clear()
        store.put("carl")
        wait_until(lambda: service.get("/health").status_code == 200)
        assert ids(service) == (["anna", "carl"] if first else ["anna", "ben", "carl"])


# -- local changes


def test_local_changes_are_in_the_next_list(store: WatchedStore, portrait: bytes) -> None:
    store.put("base", model_type="wav2lip")
    with serve(store, refresh_seconds=NEVER) as service:
        assert ids(service) == ["base"]
        made = upload(service, portrait)
        assert ids(service) == ["base", made]
        assert service.get(f"/avatars/{made}").json()["name"] == "Alice"
        assert service.delete(f"/avatars/{made}").status_code == 200
        assert ids(service) == ["base"]
        assert service.get(f"/avatars/{made}").status_code == 404


def test_local_changes_are_listed_during_a_scan(store: WatchedStore, portrait: bytes) -> None:
    """A scan that listed the store before the changes does not undo them."""
    store.put("base", model_type="wav2lip")
    store.put("anna", metadata=CUSTOM)
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == ["anna", "base"]
        with store.holding("scanned", 1) as hold:
            wait_until(lambda: hold.waiting)
            made = upload(service, portrait)
            assert ids(service) == ["anna", "base", made]
            assert service.delete("/avatars/anna").status_code == 200
            assert ids(service) == ["base", made]
            brief = upload(service, portrait)
            assert service.delete(f"/avatars/{brief}").status_code == 200
            assert ids(service) == ["base", made]
        for _ in range(2):
            store.wait_for_a_scan()
            assert ids(service) == ["base", made]


def test_avatar_created_during_a_scan_stays_listed(portrait: bytes) -> None:
    """The scan has listed the store before the avatar was created, so that the avatar is missing there is no proof."""
    store = WatchedStore()
    store.put("base", model_type="wav2lip")
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == ["base"]
        with store.holding("scanned", 1) as hold:
            wait_until(lambda: hold.waiting)
            made = upload(service, portrait)
            with let_end(store, hold, service):
                assert ids(service) == ["base", made]


def test_avatar_deleted_while_its_manifest_is_read_is_not_listed() -> None:
    store = WatchedStore()
    with serve(store, refresh_seconds=OFTEN) as service:
        assert ids(service) == []
        with store.holding("read anna/manifest.json", 1) as hold:
            store.put("anna", metadata=CUSTOM)
            wait_until(lambda: hold.waiting)
            assert service.delete("/avatars/anna").status_code == 200
            with let_end(store, hold, service):
                assert ids(service) == []


@contextmanager
def let_end(store: WatchedStore, hold: Hold, service: httpx.Client) -> Iterator[None]:
    """Run the block between the end of the held scan and the beginning of the next one."""
    before = scans(service)
    with store.holding("scan"):
        hold.is_over = True
        wait_until(lambda: scans(service) > before)
        yield


def test_change_elsewhere_during_a_scan_is_in_the_next_list() -> None:
    store = StampedStore()
    store.put("anna", "ben")
    with store.holding("scanned", 1) as hold, serve(store, refresh_seconds=NEVER) as service:
        wait_until(lambda: hold.waiting)
        store.put("carl")
        store.take("anna")
        hold.is_over = True
        wait_until(lambda: scans(service) == 1)
        assert ids(service) == ["ben", "carl"]


def test_change_elsewhere_before_a_local_change_is_in_the_next_list(
    avatars: Path, elsewhere: Path, portrait: bytes
) -> None:
    write_bundle(avatars / "base", model_type="wav2lip")
    let_it_age(avatars)
    with running_service(avatars.as_uri(), refresh_seconds=NEVER, plugins={"mouth": FakeMouth()}) as service:
        assert ids(service) == ["base"]
        write_bundle(elsewhere / "anna").rename(avatars / "anna")
        made = upload(service, portrait)
        assert ids(service) == ["anna", "base", made]


def test_change_elsewhere_during_an_upload_is_listed_after_a_periodic_scan(portrait: bytes) -> None:
    """During an upload the stamp is ignored, so the periodic scan has to find the change."""
    store = StampedStore()
    store.put("base", model_type="wav2lip")
    with serve(store, refresh_seconds=OFTEN) as service, store.holding("create") as hold, ThreadPoolExecutor(1) as pool:
        assert ids(service) == ["base"]
        uploading = pool.submit(upload, service, portrait)
        wait_until(lambda: hold.waiting)
        store.put("anna")
        wait_until(lambda: ids(service) == ["anna", "base"])
        hold.is_over = True
        made = uploading.result()
        assert ids(service) == ["anna", "base", made]


@pytest.mark.parametrize("kind", ["folder", "stamp", "no stamp"])
def test_concurrent_changes_end_in_a_correct_list(kind: str, avatars: Path, elsewhere: Path, portrait: bytes) -> None:
    """Clients and another process create and delete avatars during scans. In the end the list is right."""
    store = None if kind == "folder" else StampedStore() if kind == "stamp" else WatchedStore()
    made: queue.Queue[str] = queue.Queue()  # by a client, for others to remove
    running: AbstractContextManager[httpx.Client]
    if store is None:
        write_bundle(avatars / "base", model_type="wav2lip")
        running = running_service(avatars.as_uri(), plugins={"mouth": FakeMouth()}, refresh_seconds=OFTEN)
    else:
        store.put("base", model_type="wav2lip")
        store.jitter = 0.01
        running = serve(store, refresh_seconds=OFTEN)

    def there() -> set[str]:
        if store is not None:
            return store.ids()
        return {path.name for path in avatars.iterdir() if path.name != ".opentalking"}

    def be_a_client(seed: int) -> None:
        dice = random.Random(seed)
        mine: list[str] = []
        for _ in range(14):
            if mine and dice.random() < 0.5:
                gone = mine.pop(dice.randrange(len(mine)))
                assert service.delete(f"/avatars/{gone}").status_code == 200
                assert gone not in ids(service)
                assert service.get(f"/avatars/{gone}").status_code == 404
            else:
                mine.append(upload(service, portrait))
                assert set(mine) <= set(ids(service))
                assert service.get(f"/avatars/{mine[-1]}").status_code == 200
                if dice.random() < 0.3:
                    made.put(mine.pop())

    def be_somebody_else(seed: int) -> None:
        dice = random.Random(seed)
        mine: list[str] = []
        for n in range(40):
            if not made.empty():
                mine.append(made.get())
            if mine and dice.random() < 0.5:
                gone = mine.pop(dice.randrange(len(mine)))
                shutil.rmtree(avatars / gone) if store is None else store.take(gone)
            else:
                mine.append(name := f"other-{n}")
                if store is not None:
                    store.put(name)
                elif dice.random() < 0.5:
                    write_bundle(avatars / name)
                else:
                    write_bundle(elsewhere / name).rename(avatars / name)
            time.sleep(dice.random() * 0.02)

    with running as service, ThreadPoolExecutor(4) as pool:
        parts = [*(pool.submit(be_a_client, seed) for seed in range(3)), pool.submit(be_somebody_else, 3)]
        for part in parts:
            part.result()
        wait_until(lambda: ids(service) == sorted(there()))
        wait_for_scans(service)
        listed = service.get("/avatars").json()
        assert [avatar["id"] for avatar in listed] == sorted(there())
        assert {avatar["name"] for avatar in listed if avatar["is_custom"]} <= {"Alice"}


# -- several processes


def test_processes_over_one_folder_serve_the_same_list(avatars: Path, portrait: bytes) -> None:
    write_bundle(avatars / "base", {"preview.png": b"png"}, model_type="wav2lip")
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        no_mouth = {"OPENTALKING_DISABLE_PLUGINS": "mediapipe_mouth", "OPENTALKING_PORTRAIT_WORKERS": "0"}
        starting = [pool.submit(Server, avatars, **no_mouth) for _ in range(2)]
        servers = [start.result() for start in starting]
        for server in servers:
            stack.callback(server.stop)
        one, other = (stack.enter_context(server.client()) for server in servers)
        for _ in range(4):
            assert ids(one) == ids(other) == ["base"]
            made = upload(one, portrait)
            assert ids(other) == ["base", made]
            assert other.get(f"/avatars/{made}").json()["name"] == "Alice"
            preview = other.get(f"/avatars/{made}/preview").content
            assert preview == one.get(f"/avatars/{made}/preview").content
            let_it_age(avatars)
            for path in ("/avatars", f"/avatars/{made}", f"/avatars/{made}/preview", "/avatars/base/preview"):
                tag = one.get(path).headers["ETag"]
                assert other.get(path, headers={"If-None-Match": tag}).status_code == 304, path
            assert other.delete(f"/avatars/{made}").status_code == 200
            # For a moment after a local change a process ignores the stamp.
            wait_until(lambda: ids(one) == ["base"])  # noqa: B023
            for path in (f"/avatars/{made}", f"/avatars/{made}/preview"):
                assert one.get(path).status_code == 404
            assert one.delete(f"/avatars/{made}").status_code == 404
            one, other = other, one
