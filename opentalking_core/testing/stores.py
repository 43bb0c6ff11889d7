"""BundleStoreContract: what every bundle store promises, as tests. A storage plugin's own test is

    from opentalking_core.testing.stores import BundleStoreContract

    class TestMyStore(BundleStoreContract):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(...)         # empty, not yet entered; a new one for each test

and, if the backend can be down, a fixture `broken_store`. Some tests need a second store over the backend of `store`.
They make it by `type(store)(store.url)`. If your store is made in another way, supply a fixture `second_store`.
A store that can't be written to is checked by `ReadOnlyStoreContract`, which writes into the store behind it.
The tests are plain functions: they need pytest and no plugin for asyncio.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import multiprocessing
import random
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from opentalking_core.bundles.store import (
    MANIFEST,
    PREVIEW,
    BundleStore,
    ChangeStamp,
    FileInfo,
    ReplaceableManifests,
)
from opentalking_core.errors import AlreadyExists, ManifestChanged, NotFound, NotSupported, StoreUnavailable

from .contract import Contract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from multiprocessing.connection import Connection

T = TypeVar("T")

MiB = 1024 * 1024
NOT_IDS = ("", ".", "..", "../x", "x/y", "/etc", "..\\x", "x\0", "%2e%2e", ".x", "x" * 5000)
NOT_PATHS = (
    *("", ".", "..", "../other/manifest.json", "frames/../manifest.json", "/etc/passwd", "/manifest.json", "frames/"),
    *(
        "frames//0.png",
        "frames\\0.png",
        "manifest.json\0",
        "\ud800.png",
        ".hidden",
        "frames/.hidden",
        "x/" * 5000 + "x",
    ),
)


class Run(Protocol):
    """Runs a coroutine to its end and returns its result."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


def bundle(size: int = 1000, seed: int = 0) -> dict[str, bytes]:
    """Return the files of a small bundle. Another `seed` gives other contents of the same lengths."""
    noise = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return {
        MANIFEST: b'{"id": "x", "seed": "%08d"}' % seed,
        PREVIEW: noise.randbytes(size),
        "frames/frame_00000.png": noise.randbytes(size),
        "frames/frame_00001.png": noise.randbytes(size),
    }


async def ids(store: BundleStore) -> list[str]:
    """Return the ids that `scan` yields, sorted."""
    return sorted([found.avatar_id async for found in store.scan()])


def eventually(run: Run, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `check` until it passes, for a few seconds at most."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return run(check())
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def infos(store: BundleStore, avatar_id: str) -> dict[str, FileInfo]:
    """Return what `files` yields, by path."""
    return {info.path: info async for info in store.files(avatar_id)}


async def read(store: BundleStore, avatar_id: str, path: str) -> bytes:
    """Return the content of one file."""
    async with store.open(avatar_id, path) as reader:
        return await reader.read()


async def contents(store: BundleStore, avatar_id: str) -> dict[str, bytes]:
    """Return the content of every file of a bundle, by path."""
    return {path: await read(store, avatar_id, path) for path in await infos(store, avatar_id)}


async def manifest_etag(store: BundleStore, avatar_id: str) -> str:
    """Return the entity tag of a bundle's manifest, as a reader gets it."""
    async with store.open(avatar_id, MANIFEST) as reader:
        return reader.info.etag


def manifest(seed: int, size: int = 0) -> bytes:
    """Return a manifest of `size` bytes or a few more. Another `seed` gives another manifest of the same length."""
    return b'{"id": "x", "seed": "%08d", "filler": "%s"}' % (seed, b"x" * size)


#: Size of the manifests that a writer writes until it is killed.
_KILLED_WRITERS_BYTES = 500_000


def replace_until_killed(make_store: Callable[[str], BundleStore], url: str, avatar_id: str, first: Connection) -> None:
    """Replace a bundle's manifest without end. Run this in a process, and kill the process.

    Args:
        make_store: makes a store of `url`.
        url: the store's URL.
        avatar_id: the bundle.
        first: gets True after the first replacement, or False if this process doesn't see the bundle.
    """

    async def replace(unopened: BundleStore) -> None:
        async with unopened as store:
            assert isinstance(store, ReplaceableManifests)
            try:
                etag = await manifest_etag(store, avatar_id)
            except NotFound:
                first.send(False)
                return
            for seed in itertools.count():
                etag = await store.replace_manifest(avatar_id, manifest(seed, _KILLED_WRITERS_BYTES), etag)
                if seed == 0:
                    first.send(True)

    try:
        made = make_store(url)
    except TypeError:  # stores of this type are made in another way
        first.send(False)
    else:
        asyncio.run(replace(made))


class PausedStream:
    """A file's content as a stream, b"firstsecond", that stops halfway until `go_on` is set."""

    def __init__(self) -> None:
        self.halfway, self.go_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"first"
        self.halfway.set()
        await self.go_on.wait()
        yield b"second"


async def pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield `content` in pieces of `size` bytes."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(0)


async def assert_absent(store: BundleStore, avatar_id: str) -> None:
    """Assert that neither `scan` nor `files` nor `open` shows the bundle."""
    assert avatar_id not in await ids(store)
    with pytest.raises(NotFound):
        await infos(store, avatar_id)
    with pytest.raises(NotFound):
        await read(store, avatar_id, MANIFEST)


async def settle() -> None:
    """Wait a little: just after a change, a store may report one change too many."""
    await asyncio.sleep(0.1)


class BundleStoreContract(Contract):
    """The promises of a bundle store, one test each. Subclass it and supply the fixture `store`."""

    @pytest.fixture
    def store(self) -> BundleStore:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `store`: an empty store, not yet entered")

    @pytest.fixture
    def broken_store(self) -> BundleStore:
        """Return a store, not yet entered, whose backend is down. Override this if your backend can be down."""
        pytest.skip(f"{type(self).__name__} has no fixture `broken_store`: a store whose backend is down")

    @pytest.fixture
    def second_store(self, store: BundleStore) -> BundleStore:
        """Return another store over the backend of `store`. Override this if `type(store)(store.url)` doesn't."""
        return type(store)(store.url)  # type: ignore[call-arg]

    @pytest.fixture
    def run(self) -> Iterator[Run]:
        """Return a function that runs coroutines, all in one event loop."""
        with asyncio.Runner() as runner:
            yield runner.run

    @pytest.fixture
    def opened(self, store: BundleStore, run: Run) -> Iterator[BundleStore]:
        """Return the store, entered."""
        entered = run(store.__aenter__())
        assert run(ids(entered)) == [], "the fixture `store` must give each test an empty store of its own"
        yield entered
        run(entered.__aexit__(None, None, None))

    @pytest.fixture
    def second(self, opened: BundleStore, second_store: BundleStore, run: Run) -> Iterator[BundleStore]:
        """Return another store over the same backend, entered, as another process has it."""
        assert second_store is not opened
        entered = run(second_store.__aenter__())
        yield entered
        run(entered.__aexit__(None, None, None))

    # -- creating and reading

    def test_what_is_created_can_be_read(self, opened: BundleStore, run: Run) -> None:
        """`files` lists exactly the created files, and `open` returns their bytes."""
        run(opened.create("anna", bundle()))
        assert run(ids(opened)) == ["anna"]
        assert run(contents(opened, "anna")) == bundle()

    @pytest.mark.parametrize(
        "avatar_id",
        ["a", "Anna-2_b", "-x", "_", "數位人", "テスト", "हिन्दी", "ภาษาไทย", "tamảo", "١٢٣", "𠮷野家", "x" * 200],
    )
    def test_ids_of_any_script_survive(self, opened: BundleStore, run: Run, avatar_id: str) -> None:
        """Ids hold letters, marks and digits of any script, up to 200 bytes. `scan` yields them unchanged."""
        run(opened.create(avatar_id, bundle()))
        assert run(ids(opened)) == [avatar_id]
        assert run(contents(opened, avatar_id)) == bundle()
        run(opened.delete(avatar_id))
        run(assert_absent(opened, avatar_id))

    def test_paths_survive(self, opened: BundleStore, run: Run) -> None:
        """Paths may be deep, and may hold spaces, percent signs, question marks and letters of any script."""
        odd = ("a b.png", "100%25.png", "what?.png", "c#d&e=f+g.png", "框/帧 1.png", "a/b/c/d/e/f.bin", 'it\'s "q".txt')
        files = {**bundle(), **{path: path.encode() for path in odd}}
        run(opened.create("anna", files))
        assert run(contents(opened, "anna")) == files

    def test_sizes_and_entity_tags_are_reported(self, opened: BundleStore, run: Run) -> None:
        """`files` and `open` report the same size. The etag fits into an HTTP header. `modified` is in seconds."""
        run(opened.create("anna", bundle(size=12345)))

        async def look() -> None:
            for path, info in (await infos(opened, "anna")).items():
                async with opened.open("anna", path) as reader:
                    for found in (info, reader.info):
                        assert found.path == path
                        assert found.size == len(bundle(size=12345)[path])
                        assert found.etag
                        assert found.etag.isascii()
                        assert found.etag.isprintable()
                        assert not set(found.etag) & set('" ')
                        assert abs(found.modified - time.time()) < 86400

        run(look())

    def test_entity_tags_of_files_and_open_settle(self, opened: BundleStore, run: Run) -> None:
        """`files` and `open` give an unchanged file the same etag, at the latest a second after it was written."""
        run(opened.create("anna", bundle()))

        async def look() -> None:
            for path, info in (await infos(opened, "anna")).items():
                async with opened.open("anna", path) as reader:
                    assert reader.info.etag == info.etag

        eventually(run, look)

    def test_empty_files_survive(self, opened: BundleStore, run: Run) -> None:
        """A file may be empty, given as bytes or as a stream."""
        run(opened.create("anna", {**bundle(), "empty.bin": b"", "empty_stream.bin": pieces(b"", 1)}))
        assert run(contents(opened, "anna")) == {**bundle(), "empty.bin": b"", "empty_stream.bin": b""}

    def test_many_files_survive(self, opened: BundleStore, run: Run) -> None:
        """A bundle may have more than a hundred files."""
        files = {MANIFEST: b"{}"} | {f"frames/frame_{n:05}.png": b"%d" % n for n in range(130)}
        run(opened.create("anna", files))
        assert run(contents(opened, "anna")) == files

    def test_large_files_stream_in_and_out(self, opened: BundleStore, run: Run) -> None:
        """`create` accepts streams with pieces of any size. `chunks` yields pieces of at most a few MiB."""
        content = random.Random(1).randbytes(20 * MiB + 1)  # noqa: S311
        run(opened.create("anna", {"big.mp4": pieces(content, 700_001), MANIFEST: pieces(b"{}", 1)}))

        async def stream() -> list[bytes]:
            async with opened.open("anna", "big.mp4") as reader:
                assert reader.info.size == len(content)
                return [piece async for piece in reader.chunks()]

        got = run(stream())
        assert max(map(len, got)) <= 8 * MiB
        assert b"".join(got) == content
        assert run(read(opened, "anna", "big.mp4")) == content
        assert run(read(opened, "anna", MANIFEST)) == b"{}"

    @pytest.mark.parametrize("size", [10, 5 * MiB])
    def test_ranges_can_be_read(self, opened: BundleStore, run: Run, size: int) -> None:
        """`chunks(start, stop)` yields the slice, and nothing beyond the end of the file."""
        content = random.Random(2).randbytes(size)  # noqa: S311
        run(opened.create("anna", {MANIFEST: b"{}", "clip.mp4": content}))

        async def part(start: int, stop: int | None) -> bytes:
            async with opened.open("anna", "clip.mp4") as reader:
                return b"".join([piece async for piece in reader.chunks(start, stop)])

        ends = (0, 1, 3, size // 2, size - 1, size, size + 9)
        for start in ends:
            for stop in (*(end for end in ends if end >= start), None):
                assert run(part(start, stop)) == content[start:stop], (start, stop)

    def test_store_entered_again_has_the_same_bundles(self, opened: BundleStore, run: Run) -> None:
        """Bundles outlive the store object. A store's own tests must show that they survive a power cut."""
        run(opened.create("anna", bundle()))
        run(opened.create("ben", bundle()))
        run(opened.delete("ben"))
        run(opened.__aexit__(None, None, None))
        run(opened.__aenter__())
        assert run(ids(opened)) == ["anna"]
        assert run(contents(opened, "anna")) == bundle()

    # -- what isn't there, and what must not be

    def test_unknown_avatars_and_files_are_not_found(self, opened: BundleStore, run: Run) -> None:
        """The store raises NotFound, not an exception of the backend. A folder is not a file."""
        run(assert_absent(opened, "nobody"))
        with pytest.raises(NotFound):
            run(opened.delete("nobody"))
        run(opened.create("anna", bundle()))
        for path in ("nothing.png", "frames", "frames/nothing.png", f"{MANIFEST}/x", "x" * 1024, "x/" * 500 + "x"):
            with pytest.raises(NotFound):
                run(read(opened, "anna", path))

    @pytest.mark.parametrize("avatar_id", NOT_IDS)
    def test_a_wrong_id_leads_nowhere(self, opened: BundleStore, run: Run, avatar_id: str) -> None:
        """Reading a malformed id raises NotFound and never leaves the store's root. Creating one raises ValueError."""
        run(opened.create("x", bundle()))
        for attempt in (
            infos(opened, avatar_id), read(opened, avatar_id, MANIFEST), read(opened, avatar_id, f"x/{MANIFEST}"),
            opened.delete(avatar_id),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                run(attempt)
        with pytest.raises(ValueError):  # noqa: PT011
            run(opened.create(avatar_id, bundle()))
        assert run(ids(opened)) == ["x"]
        assert run(contents(opened, "x")) == bundle()

    @pytest.mark.parametrize("path", NOT_PATHS)
    def test_a_wrong_path_leads_nowhere(self, opened: BundleStore, run: Run, path: str) -> None:
        """Opening a malformed path raises NotFound. Creating one raises ValueError and leaves nothing."""
        run(opened.create("other", bundle()))
        with pytest.raises(NotFound):
            run(read(opened, "other", path))
        with pytest.raises(ValueError):  # noqa: PT011
            run(opened.create("anna", {**bundle(), path: b"x"}))
        assert run(ids(opened)) == ["other"]
        assert run(contents(opened, "other")) == bundle()

    @pytest.mark.parametrize("path", ["nothing.png", "manifest.json\n", "a\tb", "a\x7fb", "a\x01.png", "x" * 1024])
    def test_a_missing_file_is_not_found(self, opened: BundleStore, run: Run, path: str) -> None:
        """Opening a file that `files` doesn't name raises NotFound, also if the backend can't have such a name."""
        run(opened.create("anna", bundle()))
        with pytest.raises(NotFound):
            run(read(opened, "anna", path))

    def test_a_bundle_needs_a_manifest(self, opened: BundleStore, run: Run) -> None:
        """Creating a bundle without manifest.json raises ValueError and leaves nothing."""
        files = bundle()
        del files[MANIFEST]
        with pytest.raises(ValueError):  # noqa: PT011
            run(opened.create("anna", files))
        run(assert_absent(opened, "anna"))
        run(opened.create("anna", bundle()))

    def test_neighbours_of_the_same_prefix_are_untouched(self, opened: BundleStore, run: Run) -> None:
        """Reading and deleting `anna` doesn't touch `anna-2`."""
        for name in ("ann", "anna", "anna-2", "anna_", "annax"):
            run(opened.create(name, {MANIFEST: b"{}", name: b""}))
        assert set(run(infos(opened, "anna"))) == {MANIFEST, "anna"}
        run(opened.delete("anna"))
        assert run(ids(opened)) == ["ann", "anna-2", "anna_", "annax"]
        for name in run(ids(opened)):
            assert run(contents(opened, name)) == {MANIFEST: b"{}", name: b""}

    def test_the_url_shows_no_secrets(self, opened: BundleStore) -> None:
        """The URL holds no password and no key, because it is shown in logs and /health."""
        parts = urlsplit(opened.url)
        assert parts.scheme
        assert parts.password is None
        for key in parse_qs(parts.query):
            assert not any(word in key.lower() for word in ("secret", "password", "token", "access_key")), key

    # -- whole or not at all

    def test_creating_what_exists_changes_nothing(self, opened: BundleStore, run: Run) -> None:
        """`create` raises AlreadyExists. The old bundle is unchanged and has no file of the new bundle."""
        run(opened.create("anna", bundle(seed=1)))
        with pytest.raises(AlreadyExists):
            run(opened.create("anna", {**bundle(seed=2), "extra.png": b"x"}))
        assert run(contents(opened, "anna")) == bundle(seed=1)

    def test_of_eight_creators_of_one_id_exactly_one_wins(self, opened: BundleStore, run: Run) -> None:
        """The others get AlreadyExists, and every file is the winner's."""

        async def race() -> list[BaseException | None]:
            creators = (opened.create("anna", bundle(seed=seed)) for seed in range(8))
            return await asyncio.gather(*creators, return_exceptions=True)

        results = run(race())
        assert results.count(None) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 7, results
        assert run(contents(opened, "anna")) == bundle(seed=results.index(None))
        assert run(ids(opened)) == ["anna"]

    def test_a_reader_never_sees_half_a_bundle(self, opened: BundleStore, run: Run) -> None:
        """A bundle is invisible while it is written, even if its manifest comes first. Then it is complete."""

        async def scenario() -> None:
            stream = PausedStream()
            creating = asyncio.create_task(opened.create("anna", {**bundle(), "slow.bin": stream, "last.bin": b"x"}))
            await stream.halfway.wait()
            await assert_absent(opened, "anna")
            stream.go_on.set()
            while not creating.done():
                if "anna" in await ids(opened):
                    assert len(await infos(opened, "anna")) == 6
                await asyncio.sleep(0)
            await creating
            assert await contents(opened, "anna") == {**bundle(), "slow.bin": b"firstsecond", "last.bin": b"x"}

        run(scenario())

    def test_a_stream_that_fails_leaves_nothing(self, opened: BundleStore, run: Run) -> None:
        """`create` raises the stream's own error, and the id can be used."""

        class Torn(Exception):
            pass

        async def torn() -> AsyncIterator[bytes]:
            yield b"x" * 3 * MiB
            raise Torn

        with pytest.raises(Torn):
            run(opened.create("anna", {**bundle(), "torn.mp4": torn()}))
        run(assert_absent(opened, "anna"))
        run(opened.create("anna", bundle()))
        assert run(contents(opened, "anna")) == bundle()

    def test_a_cancelled_create_leaves_nothing(self, opened: BundleStore, run: Run) -> None:
        """`create` raises CancelledError, nothing is visible, and the id can be used."""

        async def scenario() -> None:
            halfway = asyncio.Event()

            async def endless() -> AsyncIterator[bytes]:
                yield b"x" * 3 * MiB
                halfway.set()
                await asyncio.Event().wait()

            creating = asyncio.create_task(opened.create("anna", {**bundle(), "endless.mp4": endless()}))
            await halfway.wait()
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
            await assert_absent(opened, "anna")
            await opened.create("anna", bundle())
            assert await contents(opened, "anna") == bundle()

        run(scenario())

    # -- deleting

    def test_what_is_deleted_is_gone(self, opened: BundleStore, run: Run) -> None:
        """Every file is gone, and the id can be used for another bundle."""
        run(opened.create("anna", bundle(seed=1)))
        run(opened.delete("anna"))
        run(assert_absent(opened, "anna"))
        with pytest.raises(NotFound):
            run(read(opened, "anna", "frames/frame_00000.png"))
        with pytest.raises(NotFound):
            run(opened.delete("anna"))
        files = {MANIFEST: b"{}", "other.png": b"x"}
        run(opened.create("anna", files))
        assert run(contents(opened, "anna")) == files

    def test_two_deleters_do_no_harm(self, opened: BundleStore, run: Run) -> None:
        """At least one of them succeeds, the other may get NotFound, and the bundle is gone."""

        async def race() -> list[BaseException | None]:
            return await asyncio.gather(*(opened.delete("anna") for _ in range(4)), return_exceptions=True)

        run(opened.create("anna", bundle()))
        results = run(race())
        assert None in results
        assert all(result is None or isinstance(result, NotFound) for result in results), results
        run(assert_absent(opened, "anna"))

    def test_a_listing_is_whole_or_not_found(self, opened: BundleStore, run: Run) -> None:
        """`files` of a bundle that is deleted meanwhile yields all files or raises NotFound."""
        files = {MANIFEST: b"{}"} | {f"frames/{n % 8}/{n}.png": b"x" for n in range(100)}

        async def race() -> list[Any]:
            listings = (infos(opened, "anna") for _ in range(12))
            _, *got = await asyncio.gather(opened.delete("anna"), *listings, return_exceptions=True)
            return got

        for _ in range(5):
            run(opened.create("anna", files))
            listings = run(race())
            for listing in listings:
                assert isinstance(listing, NotFound) or set(listing) == set(files)

    @pytest.mark.parametrize("size", [1000, 20 * MiB])
    def test_a_reader_outlives_its_bundle(self, opened: BundleStore, run: Run, size: int) -> None:
        """A file that is deleted while it is read gives the whole content or NotFound, never a part."""
        content = random.Random(3).randbytes(size)  # noqa: S311
        run(opened.create("anna", {MANIFEST: b"{}", "clip.mp4": content}))

        async def scenario() -> None:
            async with opened.open("anna", "clip.mp4") as reader:
                got = b""
                try:
                    async for piece in reader.chunks():
                        if not got:
                            await opened.delete("anna")
                            await opened.create("anna", {MANIFEST: b"{}", "clip.mp4": bytes(size)})
                        got += piece
                except NotFound:
                    return
                assert got == content

        run(scenario())

    # -- telling versions apart

    def test_another_manifest_is_another_version(self, opened: BundleStore, run: Run) -> None:
        """The version differs even if a manifest of the same length follows at once."""

        async def versions() -> list[str]:
            return [found.version async for found in opened.scan()]

        seen = []
        for seed in range(6):
            run(opened.create("anna", bundle(seed=seed)))
            seen += run(versions())
            run(opened.delete("anna"))
        assert len(set(seen)) == 6

    def test_the_same_manifest_is_the_same_version(self, opened: BundleStore, run: Run) -> None:
        """Shortly after the last change, scans yield equal versions: otherwise each scan would read each manifest."""

        async def scenario() -> None:
            await opened.create("anna", bundle())
            await opened.create("ben", bundle())
            await settle()
            first = {found.avatar_id: found.version async for found in opened.scan()}
            assert first == {found.avatar_id: found.version async for found in opened.scan()}
            await opened.delete("ben")
            await settle()
            assert [found.version async for found in opened.scan()] == [first["anna"]]

        run(scenario())

    def test_another_content_is_another_etag(self, opened: BundleStore, run: Run) -> None:
        """The etag differs even if a content of the same length follows at once."""
        seen = []
        for seed in range(6):
            run(opened.create("anna", bundle(seed=seed)))
            seen.append(run(infos(opened, "anna"))[PREVIEW].etag)
            run(opened.delete("anna"))
        assert len(set(seen)) == 6

    def test_the_change_stamp_tells_of_changes(self, opened: BundleStore, run: Run) -> None:
        """The stamp differs after each change, even in quick succession, and then stays the same."""
        if not isinstance(opened, ChangeStamp):
            pytest.skip("an optional ability that this store doesn't have")
        stamps = [opened.change_stamp()]
        for n in range(5):
            run(opened.create(f"anna-{n}", bundle()))
            stamps.append(opened.change_stamp())
            if isinstance(opened, ReplaceableManifests):
                run(opened.replace_manifest(f"anna-{n}", manifest(n), run(manifest_etag(opened, f"anna-{n}"))))
                stamps.append(opened.change_stamp())
            run(opened.delete(f"anna-{n}"))
            stamps.append(opened.change_stamp())
        assert all(earlier != later for earlier, later in pairwise(stamps))
        run(settle())
        settled = opened.change_stamp()
        run(settle())
        assert opened.change_stamp() == settled
        assert {settled}, "it is hashable"

    # -- two stores over one backend, as two processes have

    def test_two_stores_see_each_others_changes(self, opened: BundleStore, second: BundleStore, run: Run) -> None:
        """A bundle that one store has created can be listed, read and deleted by the other at once."""
        run(opened.create("anna", bundle()))
        assert run(ids(second)) == ["anna"]
        assert run(contents(second, "anna")) == bundle()
        with pytest.raises(AlreadyExists):
            run(second.create("anna", bundle(seed=1)))
        run(second.delete("anna"))
        run(assert_absent(opened, "anna"))
        run(second.create("anna", bundle(seed=2)))
        assert run(contents(opened, "anna")) == bundle(seed=2)

    def test_of_creators_in_two_stores_exactly_one_wins(
        self, opened: BundleStore, second: BundleStore, run: Run
    ) -> None:
        """The others get AlreadyExists, and both stores have the winner's files."""

        async def race() -> list[BaseException | None]:
            creators = (store.create("anna", bundle(seed=seed)) for seed, store in enumerate([opened, second] * 2))
            return await asyncio.gather(*creators, return_exceptions=True)

        results = run(race())
        assert results.count(None) == 1, results
        assert sum(isinstance(result, AlreadyExists) for result in results) == 3, results
        for store in (opened, second):
            assert run(contents(store, "anna")) == bundle(seed=results.index(None))

    def test_entering_a_store_spares_what_another_one_writes(
        self, opened: BundleStore, second_store: BundleStore, run: Run
    ) -> None:
        """Entering a store doesn't remove a bundle that another store is writing."""

        async def scenario() -> None:
            stream = PausedStream()
            creating = asyncio.create_task(opened.create("anna", {**bundle(), "slow.bin": stream}))
            await stream.halfway.wait()
            async with second_store as second:
                assert await ids(second) == []
                stream.go_on.set()
                await creating
                assert await contents(second, "anna") == {**bundle(), "slow.bin": b"firstsecond"}

        run(scenario())

    def test_the_change_stamp_tells_of_another_stores_changes(
        self, opened: BundleStore, second: BundleStore, run: Run
    ) -> None:
        """The stamp differs as soon as another store's change has returned, not some time later."""
        if not isinstance(opened, ChangeStamp):
            pytest.skip("an optional ability that this store doesn't have")

        async def replace(avatar_id: str) -> None:
            if isinstance(second, ReplaceableManifests):
                await second.replace_manifest(avatar_id, manifest(1), await manifest_etag(second, avatar_id))

        for n in range(5):
            avatar_id = f"anna-{n}"
            changes = [second.create(avatar_id, bundle()), second.delete(avatar_id)]
            if isinstance(second, ReplaceableManifests):
                changes.insert(1, replace(avatar_id))
            for change in changes:
                before = opened.change_stamp()
                run(change)
                assert opened.change_stamp() != before

    # -- replacing manifests, an optional ability

    @pytest.fixture
    def replacing(self, opened: BundleStore) -> ReplaceableManifests:
        """Return the store, entered, if it has the ability."""
        if not isinstance(opened, ReplaceableManifests):
            pytest.skip("an optional ability that this store doesn't have")
        return opened

    @pytest.fixture
    def second_replacing(self, replacing: ReplaceableManifests, second: BundleStore) -> ReplaceableManifests:
        """Return another store over the same backend, entered, if it has the ability."""
        assert isinstance(second, ReplaceableManifests)
        return second

    def test_a_replaced_manifest_is_seen_at_once(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """Readers get the new manifest and its etag, scans another version, and the other files are untouched."""
        run(opened.create("anna", bundle()))

        async def version() -> str:
            (found,) = [found async for found in opened.scan()]
            return found.version

        versions = [run(version())]
        for seed in range(1, 6):
            etag = run(replacing.replace_manifest("anna", manifest(seed), run(manifest_etag(opened, "anna"))))
            assert run(contents(opened, "anna")) == {**bundle(), MANIFEST: manifest(seed)}
            assert etag == run(manifest_etag(opened, "anna"))
            versions.append(run(version()))
        assert len(set(versions)) == 6

    def test_a_manifest_of_another_version_is_not_replaced(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """`replace_manifest` raises ManifestChanged and changes nothing."""
        run(opened.create("anna", bundle()))
        old = run(manifest_etag(opened, "anna"))
        run(replacing.replace_manifest("anna", manifest(1), old))
        for etag in (old, "", "no-such-tag", "*", 'W/"x"'):
            with pytest.raises(ManifestChanged):
                run(replacing.replace_manifest("anna", manifest(2), etag))
        assert run(contents(opened, "anna")) == {**bundle(), MANIFEST: manifest(1)}

    def test_the_tag_that_replacing_returns_can_be_expected_at_once(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """A tag stays the same while the manifest does, also in the moment after it was written."""
        run(opened.create("anna", bundle()))
        etag = run(manifest_etag(opened, "anna"))
        for seed in range(10):
            etag = run(replacing.replace_manifest("anna", manifest(seed), etag))
        run(settle())
        assert run(manifest_etag(opened, "anna")) == etag
        assert run(read(opened, "anna", MANIFEST)) == manifest(9)

    def test_replacing_what_is_not_there_is_not_found(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """A bundle that was deleted stays deleted."""
        run(opened.create("anna", bundle()))
        etag = run(manifest_etag(opened, "anna"))
        run(opened.delete("anna"))
        for avatar_id in ("anna", "nobody", *NOT_IDS):
            with pytest.raises(NotFound):
                run(replacing.replace_manifest(avatar_id, manifest(1), etag))
        assert run(ids(opened)) == []
        run(assert_absent(opened, "anna"))

    def test_of_writers_in_two_stores_exactly_one_wins(
        self,
        opened: BundleStore,
        replacing: ReplaceableManifests,
        second_replacing: ReplaceableManifests,
        run: Run,
    ) -> None:
        """The others get ManifestChanged, and the manifest is the winner's."""
        run(opened.create("anna", bundle()))

        async def race(round_number: int, etag: str) -> list[str | BaseException]:
            writers = (
                store.replace_manifest("anna", manifest(round_number * 10 + n), etag)
                for n, store in enumerate([replacing, second_replacing] * 3)
            )
            return await asyncio.gather(*writers, return_exceptions=True)

        for round_number in range(5):
            results = run(race(round_number, run(manifest_etag(opened, "anna"))))
            assert sum(isinstance(result, ManifestChanged) for result in results) == 5, results
            winner = next(n for n, result in enumerate(results) if isinstance(result, str))
            assert run(read(opened, "anna", MANIFEST)) == manifest(round_number * 10 + winner)
            assert run(manifest_etag(opened, "anna")) == results[winner]

    def test_readers_see_the_old_manifest_or_the_new_one(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """A manifest that is replaced while it is read is whole, and its bundle is always there."""
        manifests = [manifest(seed, 300_000) for seed in range(20)]
        run(opened.create("anna", {**bundle(), MANIFEST: manifests[0]}))

        async def scenario() -> None:
            async def replace() -> None:
                etag = await manifest_etag(opened, "anna")
                for content in manifests[1:]:
                    etag = await replacing.replace_manifest("anna", content, etag)

            writing = asyncio.create_task(replace())
            while not writing.done():
                assert await read(opened, "anna", MANIFEST) in manifests
                assert await ids(opened) == ["anna"]
                assert len(await infos(opened, "anna")) == len(bundle())
                await asyncio.sleep(0)
            await writing

        run(scenario())

    def test_a_deleted_bundle_is_not_brought_back_by_a_writer(
        self,
        opened: BundleStore,
        second: BundleStore,
        second_replacing: ReplaceableManifests,
        run: Run,
    ) -> None:
        """The bundle is gone when `delete` has returned, and a new bundle of this id keeps its own manifest."""

        async def race() -> None:
            etag = await manifest_etag(second, "anna")
            changes = (second_replacing.replace_manifest("anna", manifest(n), etag) for n in range(3))
            deleted, *replaced = await asyncio.gather(opened.delete("anna"), *changes, return_exceptions=True)
            assert deleted is None
            assert all(isinstance(result, str | NotFound | ManifestChanged) for result in replaced), replaced

        for seed in range(8):
            run(opened.create("anna", bundle(seed=seed)))
            run(race())
            for store in (opened, second):
                run(assert_absent(store, "anna"))
        run(opened.create("anna", bundle(seed=1)))
        assert run(contents(second, "anna")) == bundle(seed=1)

    def test_a_cancelled_writer_leaves_one_of_the_manifests(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """The manifest is the old one or the new one, and the next writer succeeds."""
        run(opened.create("anna", bundle()))

        async def scenario() -> None:
            old = bundle()[MANIFEST]
            for seed in range(10):
                etag, new = await manifest_etag(opened, "anna"), manifest(seed, 300_000)
                writing = asyncio.create_task(replacing.replace_manifest("anna", new, etag))
                await asyncio.sleep(seed * 0.001)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                found = await read(opened, "anna", MANIFEST)
                assert found in (old, new)
                old = found
            await replacing.replace_manifest("anna", manifest(99), await manifest_etag(opened, "anna"))
            assert await contents(opened, "anna") == {**bundle(), MANIFEST: manifest(99)}

        run(scenario())

    def test_a_killed_writer_leaves_one_of_the_manifests(
        self, opened: BundleStore, replacing: ReplaceableManifests, run: Run
    ) -> None:
        """The process is killed at any moment, and the manifest is whole."""
        process = multiprocessing.get_context("spawn")
        for avatar_id in ("anna", "ben"):
            run(opened.create(avatar_id, bundle()))
            first, theirs = process.Pipe(duplex=False)
            arguments = (type(opened), opened.url, avatar_id, theirs)
            writer = process.Process(target=replace_until_killed, args=arguments, daemon=True)
            writer.start()
            theirs.close()
            assert first.poll(60), "the writer has not started"
            try:
                sees_bundle = first.recv()
            except EOFError:
                pytest.fail("the process that replaces manifests has failed; its traceback is on standard error")
            if not sees_bundle:
                pytest.skip("another process can't make this store, or doesn't see its bundles")
            time.sleep(random.random() * 0.05)  # noqa: S311
            writer.kill()
            writer.join()
            found = run(contents(opened, avatar_id))
            seed = int(json.loads(found[MANIFEST])["seed"])
            assert found == {**bundle(), MANIFEST: manifest(seed, _KILLED_WRITERS_BYTES)}, "the manifest is torn"
        assert run(ids(opened)) == ["anna", "ben"]

    # -- many at once, and trouble

    def test_many_things_at_once(self, opened: BundleStore, run: Run) -> None:
        """Creating, reading, scanning and deleting at the same time gives the right results."""

        async def life(n: int) -> None:
            name = f"avatar-{n}"
            await opened.create(name, bundle(seed=n))
            assert name in await ids(opened)
            assert await contents(opened, name) == bundle(seed=n)
            if n % 2:
                await opened.delete(name)
                await assert_absent(opened, name)

        async def scenario() -> None:
            await asyncio.gather(*(life(n) for n in range(24)))

        run(scenario())
        assert run(ids(opened)) == sorted(f"avatar-{n}" for n in range(0, 24, 2))

    def test_the_event_loop_never_waits(self, opened: BundleStore, run: Run) -> None:
        """Other coroutines run while a large bundle is written and read.

        On a busy machine the loop may wait for a processor, so the best of three attempts counts.
        """
        content = bytes(4 * MiB)
        files = {MANIFEST: b"{}"} | {f"frames/{n}.bin": content for n in range(12)}

        async def scenario() -> None:
            for operation in ("create", "read"):
                waits = []
                for attempt in range(3):
                    avatar_id = f"anna-{attempt}"
                    work = opened.create(avatar_id, files) if operation == "create" else contents(opened, avatar_id)
                    longest, took = await longest_wait(work)
                    if longest < max(0.1, took / 3):
                        break
                    waits.append(f"{longest:.2f} of {took:.2f} seconds")
                else:
                    pytest.fail(f"the event loop waited during {operation}: {', '.join(waits)}")

        async def longest_wait(work: Awaitable[object]) -> tuple[float, float]:
            """Return the longest time in which no other coroutine ran during the work, and how long the work took."""
            gaps: list[float] = []

            async def heart() -> None:
                last = time.monotonic()
                while True:
                    await asyncio.sleep(0.005)
                    last, previous = time.monotonic(), last
                    gaps.append(last - previous)

            beating = asyncio.create_task(heart())
            try:
                await asyncio.sleep(0.01)
                gaps.clear()
                began = time.monotonic()
                await work
                took = time.monotonic() - began
                await asyncio.sleep(0.01)  # the heart beats, and notes the last gap
            finally:
                beating.cancel()
            return max(gaps), took

        run(scenario())

    def test_a_backend_that_is_down_is_store_unavailable(self, broken_store: BundleStore, run: Run) -> None:
        """Entering or each method raises StoreUnavailable, never an exception of the backend."""

        async def attempt(work: str) -> None:
            async with broken_store as store:
                match work:
                    case "scan":
                        await ids(store)
                    case "files":
                        await infos(store, "anna")
                    case "open":
                        await read(store, "anna", MANIFEST)
                    case "create":
                        await store.create("anna", bundle())
                    case "delete":
                        await store.delete("anna")

        for work in ("scan", "files", "open", "create", "delete"):
            with pytest.raises(StoreUnavailable) as caught:
                run(attempt(work))
            assert str(caught.value), "say what is wrong"


async def assert_settled(store: BundleStore, avatar_id: str, path: str) -> None:
    """Assert that two looks at a file give one etag. Just after a change, each look may give another one."""
    async with store.open(avatar_id, path) as first, store.open(avatar_id, path) as second:
        assert first.info.etag == second.info.etag


def listed_bundle(avatar_id: str, size: int = 1000, seed: int = 0) -> dict[str, bytes]:
    """Return the files of a small bundle with a valid manifest, which a service lists."""
    fields = {"id": avatar_id, "name": f"{seed:08}", "model_type": "mock", "fps": 25, "sample_rate": 16000}
    fields |= {"width": 512, "height": 512, "version": "1.0", "metadata": {}}
    return {**bundle(size, seed), MANIFEST: json.dumps(fields).encode()}


class ReadOnlyStoreContract(Contract):
    """The promises of a store that can't be written to, one test each. Subclass it and supply `store` and `behind`.

    Both fixtures return stores that are not yet entered. What is written into `behind` must be seen in `store` at once.
    """

    @pytest.fixture
    def store(self) -> BundleStore:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `store`: the read-only store")

    @pytest.fixture
    def behind(self) -> BundleStore:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `behind`: the store that `store` reads")

    @pytest.fixture
    def broken_store(self) -> BundleStore:
        """Return a store, not yet entered, whose backend is down. Override this if your backend can be down."""
        pytest.skip(f"{type(self).__name__} has no fixture `broken_store`: a store whose backend is down")

    @pytest.fixture
    def run(self) -> Iterator[Run]:
        """Return a function that runs coroutines, all in one event loop."""
        with asyncio.Runner() as runner:
            yield runner.run

    @pytest.fixture
    def writer(self, behind: BundleStore, run: Run) -> Iterator[BundleStore]:
        """Return the store behind, entered."""
        entered = run(behind.__aenter__())
        yield entered
        run(entered.__aexit__(None, None, None))

    @pytest.fixture
    def opened(self, store: BundleStore, writer: BundleStore, run: Run) -> Iterator[BundleStore]:
        """Return the read-only store, entered."""
        entered = run(store.__aenter__())
        assert run(ids(entered)) == [], "the fixture `store` must give each test an empty store of its own"
        yield entered
        run(entered.__aexit__(None, None, None))

    @pytest.mark.parametrize("avatar_id", ["a", "Anna-2_b", "-x", "數位人", "हिन्दी", "𠮷野家", "x" * 200])
    def test_bundle_is_read_byte_for_byte(
        self, opened: BundleStore, writer: BundleStore, run: Run, avatar_id: str
    ) -> None:
        """`scan`, `files` and `open` show exactly what is behind, also odd paths and empty files."""
        odd = ("a b.png", "100%25.png", "what?.png", "c#d&e=f+g.png", "框/帧 1.png", "a/b/c/d/e/f.bin", 'it\'s "q".txt')
        files = {**listed_bundle(avatar_id), "empty.bin": b"", **{path: path.encode() for path in odd}}
        run(writer.create(avatar_id, files))
        assert run(ids(opened)) == [avatar_id]
        assert run(contents(opened, avatar_id)) == files

    def test_sizes_and_entity_tags_of_files_and_open_agree(
        self, opened: BundleStore, writer: BundleStore, run: Run
    ) -> None:
        """`files` and `open` report one size and, a second after the change, one etag that fits into an HTTP header."""
        run(writer.create("anna", {**listed_bundle("anna"), "empty.bin": b""}))

        async def look() -> None:
            for path, info in (await infos(opened, "anna")).items():
                async with opened.open("anna", path) as reader:
                    assert (reader.info.path, reader.info.size, reader.info.etag) == (path, info.size, info.etag)
                    assert info.etag.isascii()
                    assert info.etag
                    assert not set(info.etag) & set('" ')
                    assert abs(reader.info.modified - info.modified) <= 1
                    assert abs(info.modified - time.time()) < 86400

        eventually(run, look)

    @pytest.mark.parametrize("size", [10, 9 * MiB + 1])
    def test_ranges_can_be_read(self, opened: BundleStore, writer: BundleStore, run: Run, size: int) -> None:
        """`chunks(start, stop)` yields the slice in pieces of at most a few MiB, and nothing beyond the end."""
        content = random.Random(2).randbytes(size)  # noqa: S311
        run(writer.create("anna", {**listed_bundle("anna"), "clip.mp4": content}))

        async def part(start: int, stop: int | None) -> bytes:
            async with opened.open("anna", "clip.mp4") as reader:
                found = [piece async for piece in reader.chunks(start, stop)]
            assert max(map(len, found), default=0) <= 8 * MiB
            return b"".join(found)

        eventually(run, functools.partial(assert_settled, opened, "anna", "clip.mp4"))
        for start, stop in ((0, None), (1, 3), (size // 2, size - 1), (size - 1, size + 9), (size, None), (3, 3)):
            assert run(part(start, stop)) == content[start:stop], (start, stop)

    def test_reader_of_replaced_file_gets_no_mixture(self, opened: BundleStore, writer: BundleStore, run: Run) -> None:
        """A reader that began before a bundle was replaced gets the old content or NotFound."""
        old, new = (random.Random(seed).randbytes(20 * MiB) for seed in (1, 2))  # noqa: S311
        run(writer.create("anna", {**listed_bundle("anna"), "clip.mp4": old}))
        eventually(run, functools.partial(assert_settled, opened, "anna", "clip.mp4"))

        async def scenario() -> None:
            async with opened.open("anna", "clip.mp4") as reader:
                chunks = reader.chunks()
                found = await anext(chunks)
                await writer.delete("anna")
                await writer.create("anna", {**listed_bundle("anna"), "clip.mp4": new})
                try:
                    found += b"".join([chunk async for chunk in chunks])
                except NotFound:
                    return
            assert found == old

        run(scenario())

    def test_unknown_avatars_and_files_are_not_found(self, opened: BundleStore, writer: BundleStore, run: Run) -> None:
        """The store raises NotFound, not an exception of the backend. A folder is not a file."""
        run(assert_absent(opened, "nobody"))
        run(writer.create("anna", listed_bundle("anna")))
        for path in ("nothing.png", "frames", "frames/nothing.png", f"{MANIFEST}/x", "x" * 1024, *NOT_PATHS):
            with pytest.raises(NotFound):
                run(read(opened, "anna", path))

    @pytest.mark.parametrize("avatar_id", NOT_IDS)
    def test_wrong_id_is_not_found(self, opened: BundleStore, writer: BundleStore, run: Run, avatar_id: str) -> None:
        run(writer.create("x", listed_bundle("x")))
        with pytest.raises(NotFound):
            run(infos(opened, avatar_id))
        with pytest.raises(NotFound):
            run(read(opened, avatar_id, MANIFEST))

    def test_deleted_bundle_is_gone(self, opened: BundleStore, writer: BundleStore, run: Run) -> None:
        run(writer.create("anna", listed_bundle("anna")))
        assert run(ids(opened)) == ["anna"]
        run(writer.delete("anna"))
        run(assert_absent(opened, "anna"))

    def test_another_manifest_is_another_version(self, opened: BundleStore, writer: BundleStore, run: Run) -> None:
        """`scan` gives a bundle another version if its manifest has changed, and the same one if not."""

        async def version() -> str:
            (found,) = [found async for found in opened.scan()]
            return found.version

        async def same_twice() -> None:
            assert await version() == await version()

        run(writer.create("anna", listed_bundle("anna", seed=1)))
        eventually(run, same_twice)
        before = run(version())
        run(writer.delete("anna"))
        run(writer.create("anna", listed_bundle("anna", seed=2)))
        assert run(version()) != before

    def test_writing_is_refused(self, opened: BundleStore, writer: BundleStore, run: Run) -> None:
        """`create` and `delete` raise NotSupported, and change nothing."""
        run(writer.create("anna", listed_bundle("anna")))
        with pytest.raises(NotSupported):
            run(opened.create("ben", listed_bundle("ben")))
        with pytest.raises(NotSupported):
            run(opened.delete("anna"))
        with pytest.raises(ValueError, match="not a bundle"):
            run(opened.create("../x", listed_bundle("x")))
        assert run(ids(writer)) == ["anna"]

    def test_backend_that_is_down_is_store_unavailable(self, broken_store: BundleStore, run: Run) -> None:
        """Entering or each method raises StoreUnavailable, never an exception of the backend."""

        async def attempt(work: Callable[[BundleStore], Awaitable[object]]) -> None:
            async with broken_store as store:
                await work(store)

        works: list[Callable[[BundleStore], Awaitable[object]]] = [
            ids,
            lambda store: infos(store, "anna"),
            lambda store: read(store, "anna", MANIFEST),
        ]
        for work in works:
            with pytest.raises(StoreUnavailable, match=r"\w"):
                run(attempt(work))
