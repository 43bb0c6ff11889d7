"""The S3 store's commit protocol under faults, its cost in requests, and its messages. `test_claims` has the leases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.store import S3Store as Obstore
from opentalking_s3_storage import open_bundle_store, report_problems
from opentalking_s3_storage.bucket import MAX_KEY_BYTES
from opentalking_s3_storage.store import S3Store

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    InvalidURL,
    ManifestChanged,
    NotFound,
    StoreUnavailable,
    is_bundle_path,
)
from opentalking_core.testing.stores import bundle, contents, ids, infos, manifest, manifest_etag, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from opentalking_s3_storage.faulty_proxy import FaultyProxy
    from opentalking_s3_storage.testing import SeaweedFS

GIVE_UP_SECONDS = 60
SECRETS = ("opentalking-tests", "only-for-a-server-on-loopback")


def raw(url: str) -> Obstore:
    """Return the store's bucket, to change it behind the store's back."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return Obstore(bucket, prefix=prefix, client_options={"allow_http": True})


def keys(url: str) -> set[str]:
    return {meta["path"] for page in obstore.list(raw(url)) for meta in page}


def fail_first(fate: str, kind: str, part: str, times: int = 1) -> Callable[..., str]:
    """Give this fate to the first `times` requests of a kind whose path contains `part`."""
    left = times

    def decide(this_kind: str, path: str, headers: dict[str, str]) -> str:
        nonlocal left
        if this_kind == kind and part in path and left:
            left -= 1
            return fate
        return "pass"

    return decide


# -- URLs


@pytest.mark.parametrize("url", ["s3://", "s3:bucket", "s3:///prefix", "s3://b?endpoint=x", "s3://b/a//b", "s3://b#x"])
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL):
        open_bundle_store(url)


def test_url_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(InvalidURL) as caught:
        open_bundle_store("s3://AKIA:hush@bucket/x")
    assert "hush" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///x", "memory://x", "s3a://b", "gs://b", "s33://b"])
def test_plugin_ignores_urls_of_other_plugins(url: str) -> None:
    assert open_bundle_store(url) is None


def test_wrong_setting_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_S3_TIMEOUT_SECONDS", "soon")
    with pytest.raises(InvalidURL, match="OPENTALKING_S3_TIMEOUT_SECONDS=soon"):
        open_bundle_store("s3://bucket")


# -- layout


def test_create_refuses_file_whose_key_is_too_long(s3_url: str) -> None:
    """S3 limits keys to 1,024 bytes, the store's prefix included."""
    room = MAX_KEY_BYTES - len(f"{s3_url.removeprefix('s3://avatars/')}/anna/")
    folders = "f" * 200 + "/"
    fits = folders * (room // len(folders)) + "é" * ((room % len(folders)) // 2)
    too_long = fits + "é"
    assert room - 1 <= len(fits.encode()) <= room < len(too_long.encode())
    assert is_bundle_path(too_long)

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            with pytest.raises(ValueError, match="more than 1024 bytes"):
                await store.create("anna", {**bundle(), too_long: b"x"})
            assert keys(s3_url) == set()
            await store.create("anna", {**bundle(), fits: b"x"})
            assert await read(store, "anna", fits) == b"x"

    asyncio.run(scenario())


def test_create_leaves_only_keys_in_folder_layout(s3_url: str) -> None:
    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", {**bundle(), "a b/100%25?.png": b"x"})

    asyncio.run(scenario())
    assert keys(s3_url) == {f"anna/{path}" for path in (*bundle(), "a b/100%25?.png")}


def test_bundle_copied_by_other_tools_appears_with_its_manifest(s3_url: str) -> None:
    """Write objects as `aws s3 sync` would, folder markers included. The bundle appears with its manifest."""

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            for path, content in {**bundle(), "frames/": b"", ".hidden": b"x"}.items():
                assert await ids(store) == []
                if path == MANIFEST:
                    continue
                await obstore.put_async(raw(s3_url), f"anna/{path}", content)
                with pytest.raises(NotFound):
                    await read(store, "anna", "preview.png")
                with pytest.raises(NotFound):
                    await store.presigned_url("anna", "preview.png", 60)
            with pytest.raises(AlreadyExists, match="not finished"):
                await store.create("anna", bundle(seed=2))
            await obstore.put_async(raw(s3_url), f"anna/{MANIFEST}", bundle()[MANIFEST])
            assert await ids(store) == ["anna"]
            assert await contents(store, "anna") == bundle()

    asyncio.run(scenario())


# -- requests


def test_operations_cost_the_documented_requests(s3_url: str, proxy: FaultyProxy) -> None:
    async def scenario() -> dict[str, dict[str, int]]:
        costs = {}

        async def cost(name: str, work: object) -> None:
            proxy.requests.clear()
            await work  # type: ignore[misc]
            costs[name] = dict(proxy.requests)

        async with S3Store(s3_url) as store:
            await cost("create", store.create("anna", bundle()))
            await cost("scan", ids(store))
            await cost("files", infos(store, "anna"))
            await cost("manifest", read(store, "anna", MANIFEST))
            await cost("preview", read(store, "anna", "preview.png"))

            async def look() -> None:
                async with store.open("anna", "preview.png"):
                    pass

            await cost("preview again", look())
            await cost("sign", store.presigned_url("anna", "preview.png", 60))
            await cost("replace", store.replace_manifest("anna", manifest(1), await manifest_etag(store, "anna")))
            await cost("delete", store.delete("anna"))
        return costs

    assert asyncio.run(scenario()) == {
        "create": {"PUT": 5, "LIST": 1, "POST": 1},
        "scan": {"LIST": 1},
        "files": {"LIST": 1, "HEAD": 1},
        "manifest": {"GET": 1},
        "preview": {"GET": 1, "HEAD": 1},
        "preview again": {"GET": 1, "HEAD": 1},
        "sign": {"HEAD": 2},
        "replace": {"PUT": 2, "HEAD": 1, "POST": 1},
        "delete": {"PUT": 1, "LIST": 1, "POST": 3},
    }


def test_more_bundles_and_files_than_one_page_are_listed_and_deleted(s3_url: str) -> None:
    async def scenario() -> None:
        slots = asyncio.Semaphore(64)

        async def put(n: int) -> None:
            async with slots:
                await obstore.put_async(raw_store, f"avatar-{n:04}/{MANIFEST}", b"{}")

        raw_store = raw(s3_url)
        async with S3Store(s3_url) as store:
            await asyncio.gather(*(put(n) for n in range(1100)))
            await store.create("many", {MANIFEST: b"{}"} | {f"frames/{n}.png": b"%d" % n for n in range(1050)})
            assert len(await ids(store)) == 1101
            assert len(await infos(store, "many")) == 1051
            await store.delete("many")
            assert len(await ids(store)) == 1100

    asyncio.run(scenario())
    assert not {key for key in keys(s3_url) if key.startswith(("many", ".opentalking"))}


# -- the commit protocol under faults


@pytest.mark.parametrize("key", [MANIFEST, "preview.png", "claims"])
@pytest.mark.parametrize("fate", ["lose answer", "drop", "slow down"])
def test_create_retries_request_that_fails_once(s3_url: str, proxy: FaultyProxy, key: str, fate: str) -> None:
    """Where the server acted and only the response was lost, the retry meets the object of the first attempt."""

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            proxy.fate = fail_first(fate, "PUT", key)  # type: ignore[assignment]
            await store.create("anna", bundle())
            assert await contents(store, "anna") == bundle()

    asyncio.run(scenario())
    assert keys(s3_url) == {f"anna/{path}" for path in bundle()}


def test_create_conflicts_with_manifest_of_another_creator(s3_url: str) -> None:
    async def scenario() -> None:
        other = bundle(seed=7)

        async def meanwhile() -> AsyncIterator[bytes]:
            await obstore.put_async(raw(s3_url), f"anna/{MANIFEST}", other[MANIFEST])
            yield b"x"

        async with S3Store(s3_url) as store:
            with pytest.raises(AlreadyExists):
                await store.create("anna", {MANIFEST: b"{}", "extra.bin": meanwhile()})
            assert await read(store, "anna", MANIFEST) == other[MANIFEST]

    asyncio.run(scenario())


@pytest.mark.parametrize("fate", ["slow down", "drop", "hang"])
def test_create_that_keeps_failing_leaves_nothing_visible(s3_url: str, proxy: FaultyProxy, fate: str) -> None:
    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            proxy.fate = lambda kind, path, headers: fate if "preview.png" in path else "pass"  # type: ignore[assignment,return-value]
            with pytest.raises(StoreUnavailable) as caught:
                async with asyncio.timeout(GIVE_UP_SECONDS):  # a request that hangs would last an hour
                    await store.create("anna", bundle())
            assert not any(secret in str(caught.value) for secret in SECRETS)
            assert await ids(store) == []
            proxy.fate = lambda kind, path, headers: "pass"

    asyncio.run(scenario())
    assert not {key for key in keys(s3_url) if key.startswith("anna")}


def test_create_with_unknown_outcome_leaves_whole_bundle(s3_url: str, proxy: FaultyProxy) -> None:
    """The manifest is written but no response arrives: `create` raises StoreUnavailable, and the bundle is whole."""

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            proxy.fate = lambda kind, path, headers: "lose answer" if MANIFEST in path else "pass"
            with pytest.raises(StoreUnavailable):
                await store.create("anna", bundle())
            proxy.fate = lambda kind, path, headers: "pass"
            assert await ids(store) == ["anna"]
            assert await contents(store, "anna") == bundle()

    asyncio.run(scenario())


@pytest.mark.parametrize("key", [MANIFEST, "claims"])
@pytest.mark.parametrize("fate", ["lose answer", "drop", "slow down"])
def test_replacement_retries_request_that_fails_once(s3_url: str, proxy: FaultyProxy, key: str, fate: str) -> None:
    """Where the server acted and only the response was lost, the retry meets the manifest of the first attempt."""

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
            etag = await manifest_etag(store, "anna")
            proxy.fate = fail_first(fate, "PUT", key)  # type: ignore[assignment]
            new = await store.replace_manifest("anna", manifest(1), etag)
            assert await contents(store, "anna") == {**bundle(), MANIFEST: manifest(1)}
            assert await manifest_etag(store, "anna") == new

    asyncio.run(scenario())
    assert keys(s3_url) == {f"anna/{path}" for path in bundle()}


def test_replacement_conflicts_with_writer_that_takes_no_claim(
    s3_url: str, s3_server: SeaweedFS, proxy: FaultyProxy
) -> None:
    """Another tool writes the manifest after the store has compared the tags."""
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    past_the_proxy = Obstore(bucket, prefix=prefix, endpoint=s3_server.endpoint, client_options={"allow_http": True})

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
            etag = await manifest_etag(store, "anna")

            def other_tool_first(kind: str, path: str, headers: dict[str, str]) -> str:
                if kind == "PUT" and MANIFEST in path:
                    proxy.fate = lambda kind, path, headers: "pass"
                    obstore.put(past_the_proxy, f"anna/{MANIFEST}", b'{"by": "another tool"}')
                return "pass"

            proxy.fate = other_tool_first  # type: ignore[assignment]
            with pytest.raises(ManifestChanged):
                await store.replace_manifest("anna", manifest(1), etag)
            assert await read(store, "anna", MANIFEST) == b'{"by": "another tool"}'

    asyncio.run(scenario())


def test_replacement_with_unknown_outcome_leaves_whole_bundle(s3_url: str, proxy: FaultyProxy) -> None:
    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
            etag = await manifest_etag(store, "anna")
            proxy.fate = lambda kind, path, headers: "lose answer" if kind != "HEAD" and MANIFEST in path else "pass"
            with pytest.raises(StoreUnavailable):
                await store.replace_manifest("anna", manifest(1), etag)
            proxy.fate = lambda kind, path, headers: "pass"
            assert await contents(store, "anna") == {**bundle(), MANIFEST: manifest(1)}

    asyncio.run(scenario())


def test_delete_that_fails_after_the_manifest_has_deleted(s3_url: str, proxy: FaultyProxy) -> None:
    """Without its manifest the bundle is gone, even if its other files stay."""

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
            posts = 0

            def second_batch(kind: str, path: str, headers: dict[str, str]) -> str:
                nonlocal posts
                posts += kind == "POST"
                return "drop" if kind == "POST" and posts > 1 else "pass"

            proxy.fate = second_batch  # type: ignore[assignment]
            await store.delete("anna")
            proxy.fate = lambda kind, path, headers: "pass"
            assert await ids(store) == []
            with pytest.raises(NotFound):
                await read(store, "anna", "preview.png")
            with pytest.raises(NotFound):
                await infos(store, "anna")
            with pytest.raises(NotFound):
                await store.delete("anna")

    asyncio.run(scenario())


# -- servers that lack something


@pytest.mark.parametrize("fate", ["pretend", "not implemented"])
def test_server_without_conditional_writes_works_and_is_reported(s3_url: str, proxy: FaultyProxy, fate: str) -> None:
    def decide(kind: str, path: str, headers: dict[str, str]) -> str:
        return fate if kind == "PUT" and "probe" in path and "if-none-match" in headers else "pass"

    proxy.fate = decide  # type: ignore[assignment]

    async def scenario() -> None:
        if fate == "pretend":  # only the second conditional PUT is faked, so that the probe's object exists
            conditional = 0

            def first_only(kind: str, path: str, headers: dict[str, str]) -> str:
                nonlocal conditional
                conditional += "if-none-match" in headers
                return "pretend" if conditional > 1 and decide(kind, path, headers) != "pass" else "pass"

            proxy.fate = first_only  # type: ignore[assignment]
        async with S3Store(s3_url) as store:
            assert any("ignores If-None-Match" in problem for problem in report_problems())
            await store.create("anna", bundle())
            assert await contents(store, "anna") == bundle()
            with pytest.raises(AlreadyExists):
                await store.create("anna", bundle())
            etag = await manifest_etag(store, "anna")
            await store.replace_manifest("anna", manifest(1), etag)
            with pytest.raises(ManifestChanged):
                await store.replace_manifest("anna", manifest(2), etag)
            assert await contents(store, "anna") == {**bundle(), MANIFEST: manifest(1)}
            await store.delete("anna")
            assert await ids(store) == []
        assert not list(report_problems())

    asyncio.run(scenario())


def test_server_without_batch_deletes_works(s3_url: str, proxy: FaultyProxy) -> None:
    proxy.fate = lambda kind, path, headers: "not implemented" if kind == "POST" else "pass"

    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
            await store.delete("anna")

    asyncio.run(scenario())
    assert keys(s3_url) == set()


def test_read_only_credentials_can_read_and_are_reported(s3_url: str, proxy: FaultyProxy) -> None:
    async def scenario() -> None:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
        proxy.fate = lambda kind, path, headers: "forbid" if kind in ("PUT", "POST", "DELETE") else "pass"
        async with S3Store(s3_url) as store:
            assert any("can only be read" in problem for problem in report_problems())
            assert await contents(store, "anna") == bundle()
            for attempt in (store.create("ben", bundle()), store.delete("anna")):
                with pytest.raises(StoreUnavailable, match="s3:PutObject"):
                    await attempt
            assert await ids(store) == ["anna"]

    asyncio.run(scenario())


def test_missing_credentials_are_named(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # where a machine's role is asked for
    monkeypatch.setenv("OPENTALKING_S3_TIMEOUT_SECONDS", "1")
    with pytest.raises(StoreUnavailable, match="AWS_ACCESS_KEY_ID"):
        asyncio.run(S3Store(s3_url).__aenter__())


def test_presigned_url_needs_no_credentials(s3_url: str) -> None:
    import httpx

    async def scenario() -> str:
        async with S3Store(s3_url) as store:
            await store.create("anna", bundle())
            for path in ("nothing.png", "../anna/preview.png"):
                with pytest.raises(NotFound):
                    await store.presigned_url("anna", path, 60)
            return await store.presigned_url("anna", "preview.png", 60)

    url = asyncio.run(scenario())
    assert httpx.get(url, trust_env=False).content == bundle()["preview.png"]
    assert httpx.get(url.replace("preview", "manifest"), trust_env=False).status_code == 403
    assert SECRETS[1] not in url
