"""The client for runtimes: its methods, and bundles that are kept in a cache."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from opentalking_core import InvalidRequest, NotFound, load_avatar_bundle
from opentalking_core.client import (
    AsyncAvatarClient,
    AvatarClient,
    ServerError,
    ServerUnreachable,
    UploadProgress,
    fetch_bundle,
)
from opentalking_core.errors import ManifestChanged, OpenTalkingError
from opentalking_core.testing.running import running_service

from .helpers.stores import write_bundle
from .helpers.videos import make_video, talking_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

KEY = "a-key-that-nobody-would-guess"
FRAMES = {f"frames/frame_{number:05d}.png": bytes([number]) * 1000 for number in range(20)}


@pytest.fixture
def client(service: httpx.Client) -> Iterator[AvatarClient]:
    with AvatarClient(str(service.base_url)) as client:
        yield client


def test_methods_work_on_a_server(client: AvatarClient, base: str, portrait: bytes) -> None:
    made = client.create("Alice", base, portrait)
    assert made in client.list()
    assert client.show(made.id).name == "Alice"
    assert "manifest.json" in [entry.path for entry in client.files(made.id)]
    assert client.update(made.id, {"name": "Bob"}).name == "Bob"
    etag = next(entry.etag for entry in client.files(made.id) if entry.path == "manifest.json")
    client.update(made.id, {"metadata": {"mood": "calm"}}, etag)
    with pytest.raises(ManifestChanged):
        client.update(made.id, {"name": "Carol"}, etag)
    client.delete(made.id)
    assert client.check(portrait)["checks"][0]["name"] == "face_found"
    assert client.health()["status"] == "ok"


def test_asynchronous_methods_work_on_a_server(service: httpx.Client, base: str, portrait: bytes) -> None:
    async def use() -> None:
        async with AsyncAvatarClient(str(service.base_url)) as client:
            following = client.events()
            assert (await anext(following)).kind == "ready"
            made = await client.create("Alice", base, portrait)
            event = await anext(following)
            assert (event.kind, event.avatar_id) == ("created", made.id)
            assert made in await client.list()
            assert (await client.show(made.id)).name == "Alice"
            assert "manifest.json" in [entry.path for entry in await client.files(made.id)]
            assert (await client.update(made.id, {"name": "Bob"})).name == "Bob"
            assert (await client.check(portrait))["mouth"] is not None
            await client.delete(made.id)
            assert (await client.health())["status"] == "ok"
            with pytest.raises(NotFound, match="there is no avatar"):
                await client.show(made.id)

    asyncio.run(use())


def test_video_is_told_apart_from_a_portrait_and_its_progress_told(
    client: AvatarClient, base: str, tmp_path: Path
) -> None:
    video = make_video(tmp_path / "talking.mp4", talking_frames(12, 96, 128), fps=24)
    told: list[UploadProgress] = []
    made = client.create("Alice", base, video, told.append)
    assert client.show(made.id).metadata["extracted_frame_count"] == 12
    assert all(progress.frames in (0, 12) for progress in told)


def test_errors_have_the_servers_sentence(client: AvatarClient, base: str, portrait: bytes) -> None:
    with pytest.raises(InvalidRequest, match="name is blank"):
        client.create(" ", base, portrait)
    with pytest.raises(NotFound, match="there is no avatar 'nobody'"):
        client.create("Alice", "nobody", portrait)
    with pytest.raises(NotFound, match="there is no avatar"):
        client.show("../etc")
    with pytest.raises(ServerError, match="built in") as refused:
        client.delete(base)
    assert refused.value.status == 403


def test_address_that_is_no_server_is_a_sentence() -> None:
    for address in ("localhost:8000", "ftp://x", "http://"):
        with pytest.raises(OpenTalkingError, match="is not the address of a server"):
            AvatarClient(address)
    with AvatarClient("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable, match="can't be reached"):
        client.list()


def test_events_go_on_where_they_ended(client: AvatarClient, base: str, portrait: bytes) -> None:
    client.list()
    following = client.events()
    ready = next(following)
    assert ready.kind == "ready"
    made = client.create("Alice", base, portrait).id
    assert next(following).avatar_id == made
    client.delete(made)
    again = client.events(ready.id)
    assert [(event.kind, event.avatar_id) for event in (next(again), next(again))] == [
        ("created", made),
        ("deleted", made),
    ]


# -- bundles in a cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def address(service: httpx.Client, put_bundle: PutBundle) -> str:
    put_bundle("alice", {"model_type": "wav2lip"}, {"preview.png": b"preview", **FRAMES})
    service.get("/avatars")
    return str(service.base_url)


def requests(service: httpx.Client) -> int:
    """Return how many requests for avatars the service has answered."""
    lines = service.get("/metrics").text.splitlines()
    return sum(
        int(float(line.split()[-1])) for line in lines if "request_seconds_count" in line and "/avatars/" in line
    )


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bundle_is_fetched_whole_and_can_be_loaded(address: str, cache: Path) -> None:
    folder = fetch_bundle(address, "alice", cache)
    assert folder.name == "alice"
    assert {path: data for path, data in content_of(folder).items() if path != "manifest.json"} == {
        "preview.png": b"preview",
        **FRAMES,
    }
    assert load_avatar_bundle(folder).manifest.model_type == "wav2lip"


def test_unchanged_bundle_costs_one_request(service: httpx.Client, address: str, cache: Path) -> None:
    first = fetch_bundle(address, "alice", cache)
    before = requests(service)
    assert fetch_bundle(address, "alice", cache) == first
    assert requests(service) - before == 1


def test_changed_file_costs_two_requests_and_the_old_version_stays(
    folder_store: None, service: httpx.Client, address: str, cache: Path, tmp_path: Path
) -> None:
    first = fetch_bundle(address, "alice", cache)
    (tmp_path / "avatars" / "alice" / "frames" / "frame_00003.png").write_bytes(b"another frame")
    time.sleep(1.1)  # until then, the service may give the file out of its memory
    before = requests(service)
    second = fetch_bundle(address, "alice", cache)
    assert requests(service) - before <= 3
    assert (second / "frames" / "frame_00003.png").read_bytes() == b"another frame"
    assert (first / "frames" / "frame_00003.png").read_bytes() == FRAMES["frames/frame_00003.png"]
    assert second != first
    assert (first / "preview.png").samefile(second / "preview.png"), "what has not changed takes no room twice"


def test_server_that_is_down_is_replaced_by_the_last_version(
    store_url: str, put_bundle: PutBundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_bundle("alice", {}, FRAMES)
    with running_service(store_url) as service:
        address = str(service.base_url)
        folder = fetch_bundle(address, "alice", cache)
    with caplog.at_level(logging.WARNING, "opentalking_core.client"):
        assert fetch_bundle(address, "alice", cache) == folder
    assert "avatar alice is used as it was 0 minutes ago" in caplog.text
    with pytest.raises(ServerUnreachable, match="can't be reached"):
        fetch_bundle(address, "bob", cache)


def test_deleted_avatar_is_not_found_although_it_is_in_the_cache(address: str, cache: Path, delete_bundle: Any) -> None:
    fetch_bundle(address, "alice", cache)
    delete_bundle("alice")
    time.sleep(0.1)
    with pytest.raises(NotFound):
        fetch_bundle(address, "alice", cache)


def test_key_is_sent(store_url: str, put_bundle: PutBundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_bundle("alice", {}, FRAMES)
    monkeypatch.setenv("OPENTALKING_API_KEYS", KEY)
    with running_service(store_url, protect="everything") as service:
        with pytest.raises(ServerError, match="requires a key"):
            fetch_bundle(str(service.base_url), "alice", cache)
        assert fetch_bundle(str(service.base_url), "alice", cache, api_key=KEY).is_dir()


_FETCH = "import sys; from opentalking_core.client import fetch_bundle; print(fetch_bundle(*sys.argv[1:]))"


def fetching(address: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _FETCH, address, "alice", str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_four_processes_share_a_cache(address: str, cache: Path) -> None:
    processes = [fetching(address, cache) for _ in range(4)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(printed)) == 1
    assert content_of(Path(printed[0])).items() >= FRAMES.items()
    assert not list(cache.glob(".partial-*"))


def test_killed_process_leaves_nothing_that_counts(address: str, cache: Path) -> None:
    process = fetching(address, cache)
    while process.poll() is None and not list(cache.glob(".partial-*/*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = fetch_bundle(address, "alice", cache)
    assert content_of(folder).items() >= FRAMES.items()


def test_cache_is_bounded_by_removing_what_was_not_used_for_long(
    service: httpx.Client, address: str, put_bundle: PutBundle, cache: Path
) -> None:
    old = fetch_bundle(address, "alice", cache)
    os.utime(old.parent, (0, 0))
    put_bundle("bob", {}, {"preview.png": b"x" * 1000})
    service.get("/avatars")
    new = fetch_bundle(address, "bob", cache, max_bytes=5000)
    assert new.is_dir()
    assert not old.exists()
    again = fetch_bundle(address, "alice", cache, max_bytes=5000)
    assert again.is_dir(), "what was used a moment ago is kept, also beyond the limit"
    assert new.is_dir()


def test_damaged_cache_is_fetched_again(address: str, cache: Path) -> None:
    folder = fetch_bundle(address, "alice", cache)
    known = folder.parent.parent / "current.json"
    for damaged in (
        b"",
        b"{}",
        b"[1]",
        json.dumps({"version": "gone", "etag": "", "files": [], "checked": 0}).encode(),
    ):
        known.write_bytes(damaged)
        assert fetch_bundle(address, "alice", cache) == folder


def test_bundle_that_changes_while_it_is_fetched_is_never_mixed(
    folder_store: None, tmp_path: Path, cache: Path
) -> None:
    root = tmp_path / "avatars"
    write_bundle(root / "alice", {"frames.bin": b"0" * 3_000_000})
    stop = threading.Event()

    def rewrite() -> None:
        for version in range(1, 10):
            if stop.wait(0.05):
                return
            draft = root / "alice" / "frames.bin.new"
            draft.write_bytes(str(version).encode() * 3_000_000)
            draft.replace(root / "alice" / "frames.bin")

    with running_service(root.as_uri()) as service:
        writing = threading.Thread(target=rewrite)
        writing.start()
        try:
            for _ in range(5):
                with contextlib.suppress(OpenTalkingError):  # it changes faster than it can be fetched
                    folder = fetch_bundle(str(service.base_url), "alice", cache)
                    assert len(set((folder / "frames.bin").read_bytes())) == 1
        finally:
            stop.set()
            writing.join()


@pytest.mark.parametrize("source", ["portrait", "video"])
def test_documented_program_draws_the_mouth_on_each_frame(
    service: httpx.Client, client: AvatarClient, base: str, portrait: bytes, tmp_path: Path, source: str
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "runtime.md").read_text()
    (program,) = re.findall(r'```python title="draw_mouths.py"\n(.*?)```', page, re.DOTALL)
    video = make_video(tmp_path / "talking.mp4", talking_frames(3, 96, 128))
    made = client.create("Alice", base, portrait if source == "portrait" else video)
    script, target = tmp_path / "draw_mouths.py", tmp_path / "out"
    script.write_text(program)
    target.mkdir()
    arguments = [str(service.base_url), made.id, str(tmp_path / "cache"), str(target)]
    subprocess.run([sys.executable, str(script), *arguments], check=True)
    drawn = sorted(path.name for path in target.iterdir())
    assert drawn == [f"frame_{number:05d}.png" for number in range(1 if source == "portrait" else 3)]
    for path in target.iterdir():
        with Image.open(path) as picture:
            assert any(pixel == (255, 0, 0) for pixel in picture.get_flattened_data())
