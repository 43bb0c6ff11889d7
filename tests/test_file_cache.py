"""Manifests and previews in memory: how many are kept, how fresh they are, and which files are streamed instead."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from opentalking_core.catalog.file_cache import FileCache
from opentalking_core.metrics import Metrics
from opentalking_core.testing.running import running_service

from .helpers.stores import StampedStore, WatchedStore, serve, wait_until, write_bundle

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

NEVER = 3600.0  # seconds from one periodic scan to the next
CUSTOM = {"custom_avatar": True}
MiB = 1024 * 1024

#: With OPENTALKING_CACHE_MB=1, three quarters are for files, and each file may take a quarter of that.
MAX_CACHED_BYTES = MiB * 3 // 4 // 4


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def preview(service: httpx.Client, avatar_id: str) -> bytes:
    answer = service.get(f"/avatars/{avatar_id}/preview")
    assert answer.status_code == 200, answer.text
    return answer.content


async def open_twice(seconds_between: float) -> WatchedStore:
    """Open a file through a cache with a maximum age of 5 s, let time pass, and open the file again if it is stale."""
    store, now = WatchedStore(), 100.0
    await store.inner.create("anna", {"manifest.json": b"{}"})
    cache = FileCache(store, MiB, lambda: None, 5.0, Metrics(), lambda: now)
    for _ in range(2):
        if cache.fresh("anna", "manifest.json") is None:
            async with cache.open("anna", "manifest.json"):
                pass
        assert cache.fresh("anna", "manifest.json")
        now += seconds_between
    return store


@pytest.mark.parametrize(("seconds", "opens"), [(0.0, 1), (5.0, 1), (5.1, 2)])
def test_file_is_verified_again_after_its_maximum_age(seconds: float, opens: int) -> None:
    store = asyncio.run(open_twice(seconds))
    assert (len(store.opened), len(store.read)) == (opens, 1)


@pytest.mark.parametrize(("cache_mb", "least", "most"), [(1, 0.1, 3.5), (64, 7.0, 14.0)])
def test_cache_keeps_no_more_than_its_limit(tmp_path: Path, cache_mb: int, least: float, most: float) -> None:
    """The test reads 7.2 MiB of previews. Responses on their way to the client take some memory, too."""
    for n in range(50):
        write_bundle(tmp_path / f"anna-{n}", {"preview.png": some_bytes(150_000, n)})
    with running_service(tmp_path.as_uri(), cache_mb=cache_mb, refresh_seconds=NEVER) as service:
        assert len(service.get("/avatars").json()) == 50
        tracemalloc.start()
        try:
            for n in range(50):
                assert preview(service, f"anna-{n}") == some_bytes(150_000, n)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert least < held / MiB < most


def test_recently_used_files_are_kept() -> None:
    store = WatchedStore()
    store.put(*"abcdef", files={"preview.png": some_bytes(150_000)})  # five of them have room
    with serve(store, cache_mb=1, refresh_seconds=NEVER) as service:
        wait_until(lambda: len(service.get("/avatars").json()) == 6)
        store.opened.clear()
        for avatar_id in "abcdeafa":
            assert preview(service, avatar_id) == some_bytes(150_000)
        assert [name[0] for name in store.opened] == list("abcdef")
        preview(service, "b")
        assert [name[0] for name in store.opened] == list("abcdefb")


@pytest.mark.parametrize("size", [MAX_CACHED_BYTES, MAX_CACHED_BYTES + 1, 3 * MiB + 1])
def test_large_file_is_streamed_each_time(size: int) -> None:
    store = WatchedStore()
    store.put("anna", files={"preview.png": some_bytes(size)})
    with serve(store, cache_mb=1, refresh_seconds=NEVER) as service:
        for _ in range(3):
            assert preview(service, "anna") == some_bytes(size)
        name = "anna/preview.png"
        times = (1, 1, 0) if size <= MAX_CACHED_BYTES else (3, 0, 3)
        assert (store.opened.count(name), store.read.count(name), store.streamed.count(name)) == times


def test_streaming_takes_little_memory(tmp_path: Path) -> None:
    write_bundle(tmp_path / "anna", {"preview.png": bytes(32 * MiB)})
    with running_service(tmp_path.as_uri(), cache_mb=1) as service:
        tracemalloc.start()
        try:
            with service.stream("GET", "/avatars/anna/preview") as answer:
                length = sum(map(len, answer.iter_raw()))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert length == 32 * MiB
    assert most < 8 * MiB


def test_changed_stamp_costs_an_open_and_no_read() -> None:
    store = StampedStore()
    store.put("anna", files={"preview.png": b"png"})
    with serve(store, refresh_seconds=NEVER) as service:
        for path in ("/avatars/anna", "/avatars/anna/preview"):
            first = service.get(path)
            store.opened.clear()
            store.read.clear()
            store.put(f"ben-{len(path)}")
            again = service.get(path)
            assert (again.content, again.headers["ETag"]) == (first.content, first.headers["ETag"])
            assert (len(store.opened), store.read) == (1, [])


def test_replaced_bundle_in_a_folder_is_served_at_once(tmp_path: Path) -> None:
    """The new bundle has the same id and files of the same size, as after a deployment by renaming."""
    avatars, elsewhere = tmp_path / "avatars", tmp_path / "elsewhere"
    write_bundle(avatars / "anna", {"preview.png": b"00"}, name="Anna 00")
    with running_service(avatars.as_uri(), refresh_seconds=NEVER) as service:
        for n in range(1, 30):
            old = [service.get(path).headers["ETag"] for path in ("/avatars/anna", "/avatars/anna/preview")]
            write_bundle(elsewhere / "anna", {"preview.png": b"%02d" % n}, name=f"Anna {n:02}")
            (avatars / "anna").rename(tmp_path / "away")
            (elsewhere / "anna").rename(avatars / "anna")
            shutil.rmtree(tmp_path / "away")
            manifest = service.get("/avatars/anna", headers={"If-None-Match": old[0]})
            assert manifest.json()["name"] == f"Anna {n:02}"
            picture = service.get("/avatars/anna/preview", headers={"If-None-Match": old[1]})
            assert picture.content == b"%02d" % n
            assert service.get("/avatars").json()[0]["name"] == f"Anna {n:02}"


def test_replaced_bundle_in_a_store_with_stamp_is_served_at_once() -> None:
    store = StampedStore()
    with serve(store, refresh_seconds=NEVER) as service:
        for n in range(10):
            store.put("anna", files={"preview.png": b"%d" % n}, name=f"Anna {n}")
            assert service.get("/avatars/anna").json()["name"] == f"Anna {n}"
            assert preview(service, "anna") == b"%d" % n
            store.take("anna")
            assert service.get("/avatars/anna").status_code == 404
            assert service.get("/avatars/anna/preview").status_code == 404


def test_replaced_bundle_in_a_store_without_stamp_is_served_after_a_scan() -> None:
    store = WatchedStore()
    store.put("anna", files={"preview.png": b"old"}, name="Old")
    with serve(store, refresh_seconds=0.02) as service:
        assert (service.get("/avatars/anna").json()["name"], preview(service, "anna")) == ("Old", b"old")
        store.take("anna")
        store.put("anna", files={"preview.png": b"new"}, name="New")
        wait_until(lambda: service.get("/avatars/anna").json()["name"] == "New")
        wait_until(lambda: preview(service, "anna") == b"new")
        store.take("anna")
        wait_until(lambda: service.get("/avatars/anna").status_code == 404)
        wait_until(lambda: service.get("/avatars/anna/preview").status_code == 404)


def test_missing_and_broken_files_are_not_cached() -> None:
    store = WatchedStore()
    with serve(store, refresh_seconds=NEVER) as service:
        for path in ("/avatars/anna", "/avatars/anna/preview"):
            assert service.get(path).status_code == 404
        store.put("anna", files={"preview.png": b"png"}, fps="broken")
        assert service.get("/avatars/anna").status_code == 404
        assert preview(service, "anna") == b"png"
        store.take("anna")
        store.put("anna", fps=30)
        assert service.get("/avatars/anna").json()["fps"] == 30


@pytest.mark.parametrize("store_type", [StampedStore, WatchedStore], ids=["stamp", "no stamp"])
def test_deleted_avatar_is_gone_at_once(store_type: type[WatchedStore]) -> None:
    store = store_type()
    store.put("anna", "ben", files={"preview.png": b"png"}, metadata=CUSTOM)
    with serve(store, refresh_seconds=NEVER) as service:
        for avatar_id in ("anna", "ben"):
            assert service.get(f"/avatars/{avatar_id}").status_code == 200
            assert preview(service, avatar_id) == b"png"
        assert service.delete("/avatars/anna").status_code == 200
        assert service.get("/avatars/anna").status_code == 404
        assert service.get("/avatars/anna/preview").status_code == 404
        assert service.get("/avatars/ben").status_code == 200
        assert preview(service, "ben") == b"png"


@pytest.mark.parametrize("store_type", [StampedStore, WatchedStore], ids=["stamp", "no stamp"])
@pytest.mark.parametrize("path", ["manifest.json", "preview.png"])
def test_file_deleted_while_it_is_read_is_not_cached(store_type: type[WatchedStore], path: str) -> None:
    store = store_type()
    store.put("anna", files={"preview.png": b"png"}, metadata=CUSTOM)
    url = "/avatars/anna" if path == "manifest.json" else "/avatars/anna/preview"
    with serve(store, refresh_seconds=NEVER) as service, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: service.get("/avatars").json())
        with store.holding(f"read anna/{path}", 1) as hold:
            reading = pool.submit(service.get, url)
            wait_until(lambda: hold.waiting)
            assert service.delete("/avatars/anna").status_code == 200
            hold.is_over = True
        assert reading.result().status_code == 200, "the file existed when the request began"
        assert service.get(url).status_code == 404


def test_failed_delete_evicts_cached_files() -> None:
    """Another process has deleted the avatar, in a store without a change stamp."""
    store = WatchedStore()
    store.put("anna", "berta", files={"preview.png": b"a preview"}, metadata=CUSTOM)
    with serve(store, refresh_seconds=NEVER) as service:
        assert preview(service, "anna") == b"a preview"
        store.take("anna")
        assert preview(service, "anna") == b"a preview", "the preview was cached"
        assert service.delete("/avatars/anna").status_code == 404
        for path in ("/avatars/anna", "/avatars/anna/preview"):
            assert service.get(path).status_code == 404
