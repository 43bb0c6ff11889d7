"""The command line, in a store directly and through a server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.cli import app
from opentalking_core.testing.fixtures import example_manifest
from opentalking_core.testing.running import running_service
from opentalking_core.videos.decoding import open_video

from .helpers.videos import make_video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

    Run = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("folder_store")

#: Finds a mouth in every picture that is brighter in the middle than black.
DETECTOR = """
from opentalking_core import MouthLandmarks, hookimpl

@hookimpl
def detect_mouth(image):
    lips = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))
    return MouthLandmarks(lips, lips, (0.2, 0.1, 0.8, 0.9)) if image.mean() > 1 else None
"""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use no real detector, no worker processes and an empty working directory."""
    (tmp_path / "fake.py").write_text(DETECTOR)
    monkeypatch.setenv("OPENTALKING_PLUGINS", str(tmp_path / "fake.py"))
    monkeypatch.setenv("OPENTALKING_DISABLE_PLUGINS", "mediapipe_mouth")
    monkeypatch.setenv("OPENTALKING_PORTRAIT_WORKERS", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""
    return lambda *args, **options: CliRunner().invoke(app, [str(arg) for arg in args], **options)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the demo avatars once, because drawing takes a second."""
    folder = tmp_path_factory.mktemp("demo") / "avatars"
    assert CliRunner().invoke(app, ["demo", "--store", str(folder)]).exit_code == 0
    shutil.rmtree(folder / ".opentalking", ignore_errors=True)
    return folder


@pytest.fixture
def avatars(demo: Path, tmp_path: Path) -> Path:
    """Return a folder with the demo avatars."""
    return shutil.copytree(demo, tmp_path / "demo")


@pytest.fixture(params=["store", "server"])
def where(request: pytest.FixtureRequest, avatars: Path) -> Iterator[tuple[str, ...]]:
    """Return the options that name the store or the server."""
    if request.param == "store":
        yield ("--store", str(avatars))
    else:
        with running_service(str(avatars), plugins={}, disable_plugins=("mediapipe_mouth",)) as client:
            yield ("--server", str(client.base_url))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Write a picture in which the fake detector finds a mouth."""
    Image.new("RGB", (400, 500), "#c0a080").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def black(tmp_path: Path) -> Path:
    """Write a black picture, in which no detector finds a mouth."""
    Image.new("RGB", (400, 500)).save(tmp_path / "black.png")
    return tmp_path / "black.png"


def checking(where: tuple[str, ...]) -> tuple[str, ...]:
    """Return `where` for a command that needs no store."""
    return where if where[0] == "--server" else ()


def test_create_list_show_and_delete_an_avatar(run: Run, where: tuple[str, ...], photo: Path) -> None:
    made = run("create", photo, "--name", "Älice [red]", "--base", "demo-wav2lip", "--json", *where)
    assert made.exit_code == 0, made.output
    summary = json.loads(made.stdout)
    assert {**summary, "id": ""} == {
        "id": "", "name": "Älice [red]", "model_type": "wav2lip", "width": 400, "height": 500, "is_custom": True,
    }  # fmt: skip
    listed = json.loads(run("list", *where, "--json").stdout)
    assert [avatar["id"] for avatar in listed] == [summary["id"], "demo-avatar", "demo-wav2lip"]
    assert listed[0] == summary
    table = run("list", *where).stdout
    assert "Älice [red]" in table
    assert "3 avatars" in table
    shown = run("show", summary["id"], *where).stdout
    assert "custom, made like demo-wav2lip" in shown
    assert "at 50.0%, 60.0% of the picture, 20.0% wide, 10.0% high, by fake" in shown
    manifest = json.loads(run("show", summary["id"], *where, "--json").stdout)
    assert manifest["metadata"]["animation"]["mouth_center"] == [0.5, 0.6]
    assert run("delete", summary["id"], "--yes", *where).stdout == f"deleted {summary['id']}\n"
    assert "2 avatars" in run("list", *where).stdout


def made_without_mouth(run: Run, where: tuple[str, ...], black: Path) -> str:
    """Make an avatar whose mouth isn't found, and return its id."""
    made = run("create", black, "--name", "Ben", "--base", "demo-wav2lip", "--json", *where)
    avatar_id: str = json.loads(made.stdout)["id"]
    return avatar_id


def manifest_of(run: Run, where: tuple[str, ...], avatar_id: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(run("show", avatar_id, "--json", *where).stdout)
    return manifest


def test_rename_changes_the_name_alone(run: Run, where: tuple[str, ...], black: Path) -> None:
    avatar_id = made_without_mouth(run, where, black)
    before = manifest_of(run, where, avatar_id)
    renamed = run("rename", avatar_id, "  Älice  [red] ", *where)
    assert renamed.exit_code == 0, renamed.output
    assert renamed.stdout == f"renamed {avatar_id} to Älice [red]\n"
    assert manifest_of(run, where, avatar_id) == {**before, "name": "Älice [red]"}
    assert "Älice [red]" in run("list", *where).stdout


def test_update_sets_and_removes_fields(run: Run, where: tuple[str, ...], black: Path) -> None:
    avatar_id = made_without_mouth(run, where, black)
    before = manifest_of(run, where, avatar_id)["metadata"]
    sets = ("name=42", "metadata.speed=1.5", "metadata.tags=[1]", "metadata.voice.id=zh=1", "metadata.voice.on=true")
    options = [part for each in sets for part in ("--set", each)]
    updated = run("update", avatar_id, *options, *where, "--json")
    assert updated.exit_code == 0, updated.output
    manifest = json.loads(updated.stdout)
    assert manifest == manifest_of(run, where, avatar_id)
    assert manifest["name"] == "42"
    assert manifest["metadata"] == {**before, "speed": 1.5, "tags": [1], "voice": {"id": "zh=1", "on": True}}
    removed = run("update", avatar_id, "--set", "metadata.voice=null", "--set", "metadata.tags=", *where)
    assert removed.stdout == f"updated {avatar_id}\n"
    assert manifest_of(run, where, avatar_id)["metadata"] == {**before, "speed": 1.5, "tags": ""}


@pytest.mark.parametrize(
    "sets",
    [
        *(("name",), ("=x",), ("metadata..x=1",), ("metadata.x=1", "metadata.x.y=1"), ("name=a", "name=b")),
        *(("metadata.x.y=1", "metadata.x=1"), ()),
    ],
)
def test_update_with_contradicting_fields_is_wrong_usage(run: Run, avatars: Path, sets: tuple[str, ...]) -> None:
    options = [part for each in sets for part in ("--set", each)]
    assert run("update", "demo-avatar", *options, "--store", avatars).exit_code == 2


def test_mouth_by_hand_finishes_an_avatar(run: Run, where: tuple[str, ...], black: Path, tmp_path: Path) -> None:
    avatar_id = made_without_mouth(run, where, black)
    before = manifest_of(run, where, avatar_id)["metadata"]
    lips = [[0.4, 0.6], [0.5, 0.55], [0.6, 0.6], [0.5, 0.65]]
    (file := tmp_path / "lips.json").write_text(
        json.dumps({"outer_lip": lips, "inner_mouth": lips, "face_box": [0.2, 0.1, 0.8, 0.9]})
    )
    done = run("mouth", avatar_id, "--outline", file, *where)
    assert done.exit_code == 0, done.output
    assert done.stdout == "mouth at 50.0%, 60.0% of the picture, 20.0% wide, 10.0% high, by manual\n"
    animation = {"mouth_center": [0.5, 0.6], "mouth_rx": 0.1, "mouth_ry": 0.05, "outer_lip": lips, "inner_mouth": lips}
    assert manifest_of(run, where, avatar_id)["metadata"] == {
        **before, "mouth_polygon_source": "manual", "animation": animation, "face_box": [0.2, 0.1, 0.8, 0.9],
    }  # fmt: skip


def test_wrong_outline_is_one_sentence(run: Run, avatars: Path, black: Path, tmp_path: Path) -> None:
    where = ("--store", str(avatars))
    avatar_id = made_without_mouth(run, where, black)
    for content, expected in (
        (None, "can't be read: No such file"),
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object with outer_lip"),
        ('{"animation": {}}', "must hold a JSON object with outer_lip"),
        ('{"outer_lip": [[0, 0]]}', "metadata.animation.outer_lip must be a list of at least 3 points"),
    ):
        if content is not None:
            (tmp_path / "lips.json").write_text(content)
        result = run("mouth", avatar_id, "--outline", tmp_path / "lips.json", *where)
        assert result.exit_code == 1
        assert expected in result.stderr


def test_change_of_a_built_in_avatar_is_refused(run: Run, where: tuple[str, ...]) -> None:
    for command in (("rename", "demo-avatar", "x"), ("update", "demo-avatar", "--set", "metadata.x=1")):
        result = run(*command, *where)
        assert result.exit_code == 1
        assert "is built in and can't be changed" in result.stderr
    result = run("update", "demo-avatar", "--set", "width=1", *where)
    assert result.exit_code == 1


def test_delete_asks_for_confirmation(run: Run, where: tuple[str, ...], photo: Path) -> None:
    made = run("create", photo, "--name", "Alice", "--base", "demo-wav2lip", "--json", *where)
    avatar_id = json.loads(made.stdout)["id"]
    for answer in ("n\n", ""):
        refused = run("delete", avatar_id, *where, input=answer)
        assert refused.exit_code == 1
        assert f"Delete {avatar_id} (Alice)?" in refused.output
        assert run("show", avatar_id, *where).exit_code == 0
    assert run("delete", avatar_id, *where, input="y\n").exit_code == 0
    assert run("show", avatar_id, *where).exit_code == 1


def test_create_without_a_mouth_warns(run: Run, where: tuple[str, ...], black: Path) -> None:
    made = run("create", black, "--name", "Night", "--base", "demo-wav2lip", *where)
    assert made.exit_code == 0
    assert made.stdout.startswith("made custom-night-")
    assert "warning: no mouth was found" in made.stderr
    assert "not located" in run("show", made.stdout.split()[1].strip(","), *where).stdout


def test_failing_commands_print_one_sentence(run: Run, where: tuple[str, ...], photo: Path) -> None:
    for command, reason in (
        ("show nobody", "there is no avatar 'nobody'"),
        ("show ../../etc/passwd", "there is no avatar '../../etc/passwd'"),
        ("delete demo-avatar --yes", "avatar 'demo-avatar' is built in and can't be deleted"),
        ("create photo.png --name A --base demo-avatar", "is of model type 'mock'; a portrait needs"),
        ("create photo.png --name A --base nobody", "there is no avatar 'nobody'"),
        ("create photo.png --name= --base demo-wav2lip", "name is blank"),
        ("create fake.py --name A --base demo-wav2lip", "not a picture that can be read"),
        ("create missing.png --name A --base demo-wav2lip", "can't be read: No such file"),
    ):
        result = run(*command.split(), *where)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert reason in result.stderr
        assert result.stderr.count("\n") == 1


def test_check_reports_each_check(run: Run, where: tuple[str, ...], photo: Path, black: Path) -> None:
    report = json.loads(run("check", photo, "--json", *checking(where)).stdout)
    assert report["mouth"]["mouth_polygon_source"] == "fake"
    found = run("check", photo, *checking(where))
    assert "face_found    passed  A face was found." in found.stdout
    assert "failed  The face is blurred" in found.stdout
    assert found.exit_code == 1
    nothing = run("check", black, *checking(where))
    assert "face_found    failed  No face was found" in nothing.stdout
    assert nothing.exit_code == 1


def test_detect_draws_the_mouth(run: Run, where: tuple[str, ...], photo: Path, black: Path, tmp_path: Path) -> None:
    found = run("detect", photo, "--overlay", tmp_path / "overlay.png", *checking(where))
    assert found.exit_code == 0, found.output
    assert found.stdout == "mouth at 50.0%, 60.0% of the picture, 20.0% wide, 10.0% high, by fake\n"
    with Image.open(tmp_path / "overlay.png") as drawn:
        assert drawn.size == (400, 500)
        assert drawn.getpixel((80, 250)) == (255, 212, 0)  # the left edge of the face's box
        lips = [(160, 300), (200, 275), (240, 300), (200, 325)]
        assert all(drawn.getpixel(point) != (192, 160, 128) for point in lips)
        assert drawn.getpixel((10, 10)) == drawn.getpixel((200, 300)) == (192, 160, 128)
    assert json.loads(run("detect", photo, "--json", *checking(where)).stdout)["animation"]["mouth_rx"] == 0.1
    nothing = run("detect", black, "--overlay", tmp_path / "none.png", *checking(where))
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "No face was found" in nothing.stderr
    assert not (tmp_path / "none.png").exists()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Write a video in which the fake detector finds a mouth, of an odd size."""
    frames = [np.full((65, 49, 3), 100 + number, np.uint8) for number in range(12)]
    return make_video(tmp_path / "grey.webm", frames, codec="libvpx-vp9")


def test_video_becomes_an_avatar(run: Run, where: tuple[str, ...], video: Path) -> None:
    made = run("create", video, "--name", "Alice", "--base", "demo-wav2lip", *where)
    assert made.exit_code == 0, made.stderr
    avatar_id = made.stdout.split()[1].rstrip(",")
    metadata = json.loads(run("show", avatar_id, "--json", *where).stdout)["metadata"]
    assert metadata["extracted_frame_count"] == 12
    checked = run("check", video, *checking(where))
    assert "The mouth was found in 12 of 12 frames." in checked.stdout


@pytest.mark.parametrize("name", ["overlay.mp4", "overlay.png"])
def test_detect_draws_the_mouths_of_a_video(run: Run, video: Path, tmp_path: Path, name: str) -> None:
    found = run("detect", video, "--overlay", tmp_path / name)
    assert found.exit_code == 0, found.stderr
    assert "The mouth was found in 12 of 12 frames." in found.stdout
    if name.endswith(".mp4"):
        with open_video(tmp_path / name, (1000, 1000), 100) as drawn:
            assert (drawn.size, len(list(drawn.frames()))) == ((48, 64), 12)
    else:
        with Image.open(tmp_path / name) as sheet:
            assert sheet.size == (2 * 49, 65)  # the frames 0 and 10


def test_detect_draws_no_video_of_a_server(run: Run, video: Path, tmp_path: Path) -> None:
    refused = run("detect", video, "--overlay", tmp_path / "o.mp4", "--server", "http://127.0.0.1:1")
    assert refused.exit_code == 1
    assert "on this machine: leave out --server" in refused.stderr


def test_damaged_video_is_refused_as_a_video(run: Run, avatars: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    failed = run("create", tmp_path / "bad.mp4", "--name", "X", "--base", "demo-wav2lip", "--store", avatars)
    assert failed.exit_code == 1
    assert "send an MP4, MOV, WebM or MKV" in failed.stderr


def test_detect_draws_sideways_photo_upright(run: Run, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    Image.new("RGB", (500, 400), "#c0a080").save(tmp_path / "sideways.jpg", exif=exif)
    assert run("detect", "sideways.jpg", "--overlay", "o.png").exit_code == 0
    with Image.open("o.png") as drawn:
        assert drawn.size == (400, 500)
    failed = run("detect", "sideways.jpg", "--overlay", "o.banana")
    assert failed.exit_code == 1
    assert "o.banana can't be written: unknown file extension" in failed.stderr


def test_commands_make_no_missing_folder(run: Run, photo: Path, tmp_path: Path) -> None:
    run("check", photo)
    for command in (("list",), ("show", "a"), ("delete", "a", "--yes"), ("validate",), ("doctor",)):
        result = run(*command)
        assert "there is no folder avatars; `opentalking-core demo --store avatars` makes one" in result.output
    assert not (tmp_path / "avatars").exists()


def test_list_warns_of_unreadable_manifest(run: Run, avatars: Path) -> None:
    (avatars / "broken").mkdir()
    (avatars / "broken" / "manifest.json").write_text("{")
    listed = run("list", "--store", avatars)
    assert listed.exit_code == 0
    assert "2 avatars" in listed.stdout
    assert "warning: broken is left out: manifest.json can't be used" in listed.stderr


def test_show_finds_hidden_avatar(run: Run, where: tuple[str, ...], avatars: Path) -> None:
    file = avatars / "demo-avatar" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "metadata": {"hidden": True}}))
    assert "built in, hidden" in run("show", "demo-avatar", *where).stdout


# -- which avatars


def test_environment_names_the_server_or_the_store(run: Run, avatars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_AVATARS_DIR", str(avatars))
    assert "2 avatars" in run("list").stdout
    monkeypatch.setenv("OPENTALKING_SERVER", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 can't be reached" in run("list").stderr
    assert "2 avatars" in run("list", "--store", avatars).stdout
    assert "exclude each other" in run("list", "--store", avatars, "--server", "http://127.0.0.1:1").stderr


def test_wrong_server_address_is_named(run: Run) -> None:
    for address in ("localhost:8000", "ftp://localhost", "http://", "http://localhost:many"):
        assert f"{address!r} is not the address of a server" in run("list", "--server", address).stderr
    with socket.socket() as silent:  # bound, but not listening
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        failed = run("list", "--server", url)
        assert failed.exit_code == 1
        assert f"{url} can't be reached" in failed.stderr


def test_answer_of_another_program_is_one_sentence(run: Run) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<h1>Welcome</h1>")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        failed = run("list", "--server", f"http://127.0.0.1:{server.server_port}")
    assert failed.exit_code == 1
    assert "answered 200 OK; is it an opentalking-core?" in failed.stderr


def test_api_key_is_sent_to_the_server(run: Run, avatars: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", "a-key-that-is-long-enough")
    with running_service(str(avatars), protect="everything") as client:
        server = ("--server", str(client.base_url))
        refused = run("list", *server)
        assert refused.exit_code == 1
        assert "(--api-key or OPENTALKING_API_KEY)" in refused.stderr
        assert run("list", *server, "--api-key", "a-key-that-is-long-enough").exit_code == 0
        asked = run("doctor", *server)
        assert "the server tells only clients with a key more than that" in asked.stdout
        monkeypatch.setenv("OPENTALKING_API_KEY", "a-key-that-is-long-enough")
        assert "lists 2 avatars" in run("doctor", *server).stdout
        form = ("create", photo, "--name", "A", "--base", "demo-wav2lip")
        assert run(*form, *server).exit_code == 0


# -- validate and doctor


def test_validate_checks_bundles_of_any_store(run: Run) -> None:
    async def put() -> None:
        async with MemoryStore("memory://validate") as store:
            await store.create("good", {"manifest.json": _manifest("good"), "preview.png": b"x"})
            await store.create("bad", {"manifest.json": _manifest("bad", model_type="musetalk"), "preview.png": b"x"})
            await store.create("torn", {"manifest.json": b"{"})
            mouths = {"frame_metadata": "frames/mouths.json"}
            video = _manifest("video", model_type="wav2lip", metadata=mouths)
            files = {
                "manifest.json": video,
                "preview.png": b"x",
                "frames/0.jpg": b"x",
                "frames/mouths.json": b"no JSON",
            }
            await store.create("video", files)

    asyncio.run(put())
    result = run("validate", "--store", "memory://validate", "--json")
    assert result.exit_code == 1
    found = {row["id"]: [problem["where"] for problem in row["problems"]] for row in json.loads(result.stdout)}
    assert found == {"bad": ["full_frames/"], "good": [], "torn": ["manifest.json"], "video": ["frames/mouths.json"]}
    table = run("validate", "--store", "memory://validate").stdout
    assert "4 bundles, 2 with errors" in table


def test_validate_checks_a_folder_or_one_bundle(run: Run, avatars: Path) -> None:
    assert "2 bundles, 0 with errors" in run("validate", "--store", avatars).stdout
    assert "1 bundles, 0 with errors" in run("validate", "--store", avatars / "demo-wav2lip").stdout
    (avatars / "demo-wav2lip").rename(avatars / "not an id")
    result = run("validate", "--store", avatars)
    assert result.exit_code == 1
    assert "the folder's name may hold letters" in result.stdout


def _manifest(avatar_id: str, **changes: object) -> bytes:
    return json.dumps(example_manifest(avatar_id, **changes)).encode()


def _findings(result: Result) -> dict[str, list[str]]:
    """Return the statuses by check."""
    found: dict[str, list[str]] = {}
    for finding in json.loads(result.stdout):
        found.setdefault(finding["check"], []).append(finding["status"])
    return found


def test_doctor_healthy_installation_is_ok(run: Run, avatars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_PORTRAIT_WORKERS", "1")
    before = sorted(avatars.rglob("*"))
    result = run("doctor", "--store", avatars, "--port", _free_port(), "--json")
    assert _findings(result) == {
        check: ["ok"] for check in ("python", "plugins", "store", "writable", "workers", "mouth", "port")
    }
    assert result.exit_code == 0
    assert [path for path in sorted(avatars.rglob("*")) if path.name != ".opentalking"] == before


def test_doctor_names_what_is_broken(run: Run, avatars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module")
    monkeypatch.setenv("OPENTALKING_PLUGINS", str(tmp_path / "broken.py"))
    monkeypatch.setenv("OPENTALKING_AVATARS_DIR", "s4://bucket")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("doctor", "--port", taken.getsockname()[1])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "failed   plugins    broken can't be used: ModuleNotFoundError: No module named 'no_such_module'" in lines
    assert any(line.startswith("failed   store      no installed plugin opens 's4://bucket'") for line in lines)
    assert "warning  mouth      there is no mouth detector" in lines
    assert any(line.startswith("warning  port       port") for line in lines)
    assert any(line.startswith("warning  access     plugin broken failed and may be the one") for line in lines)
    assert result.stdout.count("->") == 4


def test_doctor_names_a_plugin_that_cannot_say_whether_it_authorizes(run: Run, avatars: Path, tmp_path: Path) -> None:
    code = "\n@hookimpl\ndef can_authorize():\n    raise OSError('no directory of users')\n"
    (tmp_path / "fake.py").write_text(DETECTOR + code)
    result = run("doctor", "--store", avatars, "--port", _free_port())
    assert result.exit_code == 1
    assert "can_authorize raised OSError: no directory of users" in result.stdout


def test_doctor_mouth_not_found_fails(run: Run, avatars: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text(DETECTOR.replace("image.mean() > 1", "False"))
    result = run("doctor", "--store", avatars, "--port", _free_port())
    assert result.exit_code == 1
    assert "failed   mouth      the mouth of a drawn portrait is not found" in result.stdout


def test_serve_port_in_use_is_one_sentence(run: Run, avatars: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--store", avatars, "--port", port)
    assert result.exit_code == 1
    assert f"127.0.0.1:{port} can't be listened on" in result.stderr
    assert f"make serve PORT={port + 1}" in result.stderr


def test_serve_logs_warnings_of_loading_plugins_as_json(
    run: Run, avatars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENTALKING_DETECTORS", "mediapip")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--store", avatars, "--port", taken.getsockname()[1])
    first, *_ = result.stderr.splitlines()
    assert json.loads(first)["message"].startswith("there is no plugin 'mediapip'; installed: ")


def test_doctor_wrong_setting_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_CACHE_MB", "much")
    result = run("doctor")
    assert result.exit_code == 1
    assert "failed   settings   OPENTALKING_CACHE_MB=much: Input should be a valid integer" in result.stdout


def test_doctor_read_only_store_warns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object) -> None:
        from opentalking_core import StoreUnavailable

        raise StoreUnavailable("the backend refuses")

    monkeypatch.setattr(MemoryStore, "create", refuse)
    result = run("doctor", "--store", "memory://read-only", "--port", _free_port(), "--json")
    assert _findings(result)["writable"] == ["warning"]
    assert result.exit_code == 0


def test_doctor_asks_a_server(run: Run, avatars: Path) -> None:
    with running_service(str(avatars)) as client:
        result = run("doctor", "--server", client.base_url, "--json")
        assert _findings(result)["store"] == ["ok"]
    gone = run("doctor", "--server", client.base_url)
    assert gone.exit_code == 1
    assert gone.stdout.startswith("failed   server")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# -- the program itself


def test_help_is_fast_and_names_every_command() -> None:
    code = """
import sys
from opentalking_core.cli import app
try:
    app(["--help"])
finally:
    heavy = {"PIL", "falcon", "httpx", "mediapipe", "numpy", "pebble", "uvicorn", "opentalking_local_storage"}
    print("heavy:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    commands = [name.replace("_", "-") for name in names]
    assert {"create", "list", "show", "delete", "detect", "check", "validate", "doctor"} <= set(commands)
    assert all(f"│ {command} " in done.stdout for command in commands)
    assert "Exit codes: 0 done" in done.stdout
    assert "heavy: []" in done.stdout


def test_shell_completes_commands(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_OPENTALKING_CORE_COMPLETE": "complete_bash",
        "COMP_WORDS": "opentalking-core d",
        "COMP_CWORD": "1",
    }
    program = [sys.executable, "-c", "from opentalking_core.cli import app; app(prog_name='opentalking-core')"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert sorted(done.stdout.split()) == ["delete", "demo", "detect", "doctor"]


def test_version_is_printed(run: Run) -> None:
    assert run("--version").stdout.startswith("opentalking-core ")


def test_wrong_usage_exits_with_2(run: Run) -> None:
    assert run("create", "photo.png").exit_code == 2
    assert run("banana").exit_code == 2


def test_list_prints_whole_ids_into_a_pipe(run: Run, avatars: Path) -> None:
    long = "x" * 150
    (avatars / "demo-avatar").rename(avatars / long)
    rows: list[str] = run("list", "--store", avatars).stdout.splitlines()
    assert any(row.startswith(f"{long}  Demo ") for row in rows)
