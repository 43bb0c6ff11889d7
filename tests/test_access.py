"""Access control: API keys, the authorize hook, and the headers for browsers."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from opentalking_core.errors import PluginError
from opentalking_core.hookspecs import hookimpl
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentalking_core.testing.fixtures import PutBundle

KEY = "a-long-key-that-nobody-guesses"
BEARER = {"Authorization": f"Bearer {KEY}"}
COMMAND = [sys.executable, "-c", "from opentalking_core.cli import app; app()"]
WRITES = [
    *(("POST", "/avatars/custom"), ("DELETE", "/avatars/mine"), ("DELETE", "/avatars/custom")),
    *(("PATCH", "/avatars/mine"), ("PATCH", "/avatars/custom")),
]
READS = [("GET", "/avatars"), ("GET", "/avatars/mine"), ("GET", "/avatars/mine/preview"), ("HEAD", "/avatars/mine")]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure two keys, and return the second."""
    monkeypatch.setenv("OPENTALKING_API_KEYS", f"another-long-key-of-somebody, {KEY}")
    return KEY


@pytest.fixture
def mine(put_bundle: PutBundle) -> str:
    put_bundle("mine", {"metadata": {"custom_avatar": True}}, {"preview.png": b"\x89PNG"})
    return "mine"


class Team:
    """A plugin that lets alice do everything and bob everything but deleting, and that records its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    @hookimpl
    def authorize(self, action: str, avatar_id: str | None, credentials: str | None) -> bool | None:
        self.asked.append((action, avatar_id, credentials))
        if credentials == "Team bob":
            return action != "delete"
        return True if credentials == "Team alice" else None


def test_service_without_keys_allows_everything(service: httpx.Client, mine: str) -> None:
    assert service.get("/avatars").status_code == 200
    assert service.delete("/avatars/mine").json() == {"deleted": True}


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_writes_without_a_valid_key_respond_401(keys: str, store_url: str, mine: str, method: str, path: str) -> None:
    with running_service(store_url) as client:
        for headers in (None, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"X-Api-Key": KEY}):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
            assert "key" in answer.json()["detail"]
            assert "wrong" not in answer.text
        assert client.request(method, path, headers=BEARER).status_code != 401
        assert all(client.request(*read).status_code == 200 for read in READS if path != "/avatars/mine")


@pytest.mark.parametrize("header", [f"bearer {KEY}", f"BEARER   {KEY}", "Bearer another-long-key-of-somebody"])
def test_every_key_is_valid_with_the_scheme_in_any_case(keys: str, store_url: str, mine: str, header: str) -> None:
    with running_service(store_url) as client:
        assert client.delete("/avatars/mine", headers={"Authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"Bearer", KEY.encode(), b"Bearer \xff\xfe", b"Bearer " + b"x" * 8000),
        *(b"Bearer " + key.encode() for key in (KEY[:-1], KEY * 2, f"{KEY},another-long-key-of-somebody")),
    ],
)
def test_malformed_or_wrong_key_responds_401(keys: str, store_url: str, mine: str, header: bytes) -> None:
    with running_service(store_url) as client:
        assert client.delete("/avatars/mine", headers={b"Authorization": header}).status_code == 401


def test_key_with_non_ascii_characters_is_valid(store_url: str, mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", "schlüssel-für-die-avatare")
    with running_service(store_url) as client:
        header = b"Bearer " + "schlüssel-für-die-avatare".encode()
        assert client.delete("/avatars/mine", headers={b"Authorization": header}).status_code == 200


def test_protect_everything_requires_a_key_to_read(keys: str, store_url: str, mine: str) -> None:
    with running_service(store_url, protect="everything") as client:
        for method, path in [*READS, *WRITES, ("GET", "/metrics"), ("PUT", "/avatars"), ("GET", "/avatars/nosuch")]:
            assert client.request(method, path).status_code == 401, path
        assert all(client.request(*read, headers=BEARER).status_code == 200 for read in READS)
        assert client.get("/health").json() == {"status": "degraded"}
        assert "store" in client.get("/health", headers=BEARER).json()


def test_health_tells_of_plugins_only_clients_with_a_key(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS", "abc")
    with running_service(store_url) as client:
        anonymous, wrong = client.get("/health"), client.get("/health", headers=BEARER)
        known = client.get("/health", headers={"Authorization": "Bearer abc"})
    for answer in (anonymous, wrong):
        assert answer.json()["store"]["ok"] is True
        assert "plugins" not in answer.json()
        assert "guessed" not in answer.text
    assert "has only 3 characters" in known.json()["plugins"]["api_keys"][0]


def test_health_says_only_that_a_plugin_failed(
    store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (broken := tmp_path / "broken.py").write_text("raise ValueError('token hunter2 has expired')")
    with running_service(store_url, plugin_files=[broken], protect="nothing") as client:
        answer = client.get("/health")
    assert answer.json()["plugins"] == {"broken": ["failed; the log says why"]}
    assert "hunter2" not in answer.text
    assert "token hunter2 has expired" in caplog.text


@pytest.mark.parametrize("protect", ["writes", "everything"])
def test_health_is_seen_despite_a_failing_authorize_hook(store_url: str, protect: str) -> None:
    class Broken:
        @hookimpl
        def authorize(self) -> bool:
            raise ValueError("the directory of users is down")

    with running_service(store_url, plugins={"broken": Broken()}, protect=protect) as client:
        answer = client.get("/health")
    assert answer.status_code == 200
    assert "plugins" not in answer.json()


def test_protected_writes_without_any_authorizing_plugin_respond_401(store_url: str, mine: str) -> None:
    with running_service(store_url, protect="writes") as client:
        assert client.delete("/avatars/mine", headers=BEARER).status_code == 401
        assert client.get("/avatars/mine").status_code == 200


def test_upload_without_key_is_refused_before_it_is_read(keys: str, store_url: str) -> None:
    with running_service(store_url) as client:
        answer = client.post("/avatars/custom", files={"image": b"x" * 9_000_000})
        assert answer.status_code == 401
        assert client.get("/avatars").status_code == 200


def test_keys_are_read_from_a_file(store_url: str, mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"# of the studio\nanother-long-key-of-somebody\n\n  {KEY}  \n")
    monkeypatch.setenv("OPENTALKING_API_KEYS_FILE", str(tmp_path / "keys"))
    with running_service(store_url) as client:
        assert client.delete("/avatars/mine", headers={"Authorization": "Bearer # of the studio"}).status_code == 401
        assert client.delete("/avatars/mine", headers={"Authorization": "Bearer"}).status_code == 401
        assert client.delete("/avatars/mine", headers=BEARER).status_code == 200


def test_unreadable_key_file_responds_500_to_writes(
    store_url: str, mine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENTALKING_API_KEYS_FILE", "/nowhere/keys")
    with running_service(store_url) as client:
        answer = client.delete("/avatars/mine", headers=BEARER)
        assert answer.status_code == 500
        assert "nowhere" not in answer.text
        assert client.get("/avatars/mine").status_code == 200
    assert "OPENTALKING_API_KEYS_FILE=/nowhere/keys" in caplog.text


def test_keys_appear_neither_in_responses_nor_in_logs(
    keys: str, store_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in ("opentalking_core", "uvicorn"):
        caplog.set_level(logging.DEBUG, logger)
    with running_service(store_url, protect="everything", access_log=True) as client:
        texts = [client.get(path, headers=BEARER).text for path in ("/avatars", "/health", "/metrics", "/avatars/x")]
        texts += [client.get("/avatars", headers={"Authorization": f"Bearer {KEY}x"}).text]
    ran = subprocess.run([*COMMAND, "plugins", "--json"], capture_output=True, text=True, check=True)
    assert "api_keys" in ran.stdout
    assert not [text for text in [*texts, caplog.text, ran.stdout, ran.stderr] if KEY in text]


def test_plugin_authorizes_each_action(store_url: str, mine: str) -> None:
    team = Team()
    with running_service(store_url, plugins={"team": team}, protect="everything") as client:

        def status(method: str, path: str, who: str | None) -> int:
            return client.request(method, path, headers={"Authorization": who} if who else None).status_code

        assert status("GET", "/avatars", None) == 401
        assert status("GET", "/avatars", "Team carol") == 401
        assert status("GET", "/avatars", "Team bob") == 200
        assert status("DELETE", "/avatars/mine", "Team bob") == 403
        assert status("PATCH", "/avatars/mine", "Team carol") == 401
        assert status("PATCH", "/avatars/mine", "Team bob") == 415
        assert status("PATCH", "/avatars/custom", "Team bob") == 415
        assert status("GET", "/avatars/mine/preview", "Team bob") == 200
        assert status("DELETE", "/avatars/mine", "Team alice") == 200
        assert status("GET", "/avatars/custom", "Team alice") == 404
        assert status("POST", "/avatars/custom", "Team alice") == 400
    assert team.asked == [
        ("list", None, None),
        ("list", None, "Team carol"),
        ("list", None, "Team bob"),
        ("delete", "mine", "Team bob"),
        ("update", "mine", "Team carol"),
        ("update", "mine", "Team bob"),
        ("update", "custom", "Team bob"),
        ("read", "mine", "Team bob"),
        ("delete", "mine", "Team alice"),
        ("read", "custom", "Team alice"),
        ("create", None, "Team alice"),
    ]


def test_one_veto_outweighs_every_permission(keys: str, store_url: str, mine: str) -> None:
    class Frozen:
        @hookimpl
        def authorize(self, action: str) -> bool | None:
            return False if action == "delete" else None

    with running_service(store_url, plugins={"frozen": Frozen()}) as client:
        assert client.delete("/avatars/mine", headers=BEARER).status_code == 403
        assert client.delete("/avatars/mine").status_code == 401
        assert client.post("/avatars/custom", headers=BEARER).status_code == 400


@pytest.mark.parametrize("answer", ["yes", 1, ValueError("the directory of users is down")])
def test_failing_authorize_hook_responds_500_to_writes(
    keys: str, store_url: str, mine: str, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @hookimpl
        def authorize(self) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    with running_service(store_url, plugins={"broken": Broken()}) as client:
        refused = client.delete("/avatars/mine", headers=BEARER)
        assert refused.status_code == 500
        assert "directory" not in refused.text
        assert client.get("/avatars/mine").status_code == 200
    assert "DELETE /avatars/mine failed" in caplog.text


class Directory(Team):
    """A team whose plugin says whether it is set up."""

    def __init__(self, is_set_up: object) -> None:
        super().__init__()
        self.is_set_up = is_set_up

    @hookimpl
    def can_authorize(self) -> Any:
        return self.is_set_up


def test_protect_auto_protects_writes_if_a_plugin_is_set_up(
    store_url: str, mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(store_url, plugins={"directory": Directory(True)}) as client:
        assert client.get("/avatars/mine").status_code == 200
        assert client.delete("/avatars/mine").status_code == 401
        assert client.delete("/avatars/mine", headers={"Authorization": "Team alice"}).status_code == 200
    assert "never called" not in caplog.text


@pytest.mark.parametrize(("is_set_up", "warned"), [(False, False), (None, True)])
def test_protect_auto_protects_nothing_if_no_plugin_is_set_up(
    store_url: str, mine: str, is_set_up: bool | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(store_url, plugins={"directory": Directory(is_set_up)}) as client:
        assert client.delete("/avatars/mine").status_code == 200
    assert ("plugin directory implements `authorize` but is never called" in caplog.text) == warned


def test_protect_auto_protects_writes_if_a_plugin_failed(
    store_url: str, mine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (broken := tmp_path / "directory.py").write_text("raise ImportError('no ldap')")
    with running_service(store_url, plugin_files=[broken]) as client:
        assert client.get("/avatars/mine").status_code == 200
        assert client.delete("/avatars/mine").status_code == 401
    (said,) = [record.getMessage() for record in caplog.records if "may be the one" in record.getMessage()]
    assert "plugin directory failed" in said
    assert "OPENTALKING_PROTECT=nothing" in said
    with running_service(store_url, plugin_files=[broken], protect="nothing") as client:
        assert client.delete("/avatars/mine").status_code == 200


def test_protect_auto_needs_no_failed_plugin_if_keys_are_set(
    keys: str, store_url: str, mine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (broken := tmp_path / "directory.py").write_text("raise ImportError('no ldap')")
    with running_service(store_url, plugin_files=[broken]) as client:
        assert client.delete("/avatars/mine").status_code == 401
        assert client.delete("/avatars/mine", headers=BEARER).status_code == 200
    assert "may be the one" not in caplog.text


@pytest.mark.parametrize("protect", ["auto", "writes", "nothing"])
def test_disabled_plugin_protects_nothing_by_itself(keys: str, store_url: str, protect: str) -> None:
    with running_service(store_url, disable_plugins=("api_keys",), protect=protect) as client:
        status = client.delete("/avatars/nobody").status_code
    assert status == (401 if protect == "writes" else 404)


def test_failing_can_authorize_is_logged_if_nothing_is_protected(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(store_url, plugins={"directory": Directory("yes")}, protect="nothing") as client:
        assert client.delete("/avatars/nobody").status_code == 404
    assert "plugin directory: can_authorize returned str" in caplog.text


def test_can_authorize_is_called_once_per_start(store_url: str) -> None:
    class Counting(Directory):
        calls = 0

        @hookimpl
        def can_authorize(self) -> bool:
            self.calls += 1
            return False

    counting = Counting(False)
    with running_service(store_url, plugins={"directory": counting}):
        assert counting.calls == 1


def test_protect_nothing_wins_over_keys(keys: str, store_url: str, mine: str) -> None:
    with running_service(store_url, plugins={"directory": Directory(True)}, protect="nothing") as client:
        assert client.delete("/avatars/mine").status_code == 200


@pytest.mark.parametrize("variable", ["OPENTALKING_API_KEYS", "OPENTALKING_API_KEYS_FILE"])
def test_protect_auto_protects_writes_if_keys_hold_no_key(
    store_url: str, mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (empty := tmp_path / "keys").write_text("# none yet\n")
    monkeypatch.setenv(variable, str(empty) if variable.endswith("FILE") else ",")
    with running_service(store_url) as client:
        assert client.delete("/avatars/mine").status_code == 401


def test_start_fails_if_can_authorize_returns_no_bool(store_url: str) -> None:
    starting = running_service(store_url, plugins={"directory": Directory("yes")})
    with pytest.raises(PluginError, match="plugin directory: can_authorize returned str"), starting:
        pass


def test_plugin_that_is_never_asked_is_mentioned(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with running_service(store_url, plugins={"team": Team()}) as client:
        assert client.get("/avatars").status_code == 200
    assert "plugin team implements `authorize` but is never called" in caplog.text
    assert "api_keys" not in caplog.text, "it is not set up"


def test_page_of_another_origin_can_send_its_key(keys: str, store_url: str, mine: str) -> None:
    page = {"Origin": "https://studio.example"}
    with running_service(store_url, protect="everything", cors_origins=("https://studio.example",)) as client:
        asked = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
        preflight = client.options("/avatars/mine", headers={**page, **asked})
        assert preflight.status_code == 200
        assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
        assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
        refused = client.get("/avatars", headers=page)
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://studio.example"  # so that it can be read
        assert client.get("/avatars", headers={**page, **BEARER}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/avatars", "/avatars/mine", "/avatars/mine/preview", "/health", "/nowhere", "/metrics"]
)
def test_responses_forbid_content_sniffing(service: httpx.Client, mine: str, path: str) -> None:
    for method in ("GET", "POST"):
        headers = service.request(method, path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Type"].partition(";")[0] in ("application/json", "image/png", "text/plain")


@contextlib.contextmanager
def served(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `opentalking-core serve`, with its standard error as a pipe."""
    command = [*COMMAND, "serve", "--port", "0", "--store", str(tmp_path / "a")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        try:
            yield run
        finally:
            run.send_signal(signal.SIGTERM)


def read_until_started(run: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what the server printed before it was ready, and its address."""
    assert run.stderr is not None
    before = ""
    for line in run.stderr:
        before += line
        if "running on" in line:
            return before, json.loads(line)["message"].split()[3]
    raise AssertionError(f"it did not start: {before}")


def test_serve_on_loopback_neither_warns_nor_names_the_server(tmp_path: Path) -> None:
    with served(tmp_path) as run:
        printed, address = read_until_started(run)
        assert "warning" not in printed
        assert "Server" not in httpx.get(f"{address}/avatars", trust_env=False).headers


@pytest.mark.parametrize(("environment", "warned"), [({}, True), ({"OPENTALKING_API_KEYS": KEY}, False)])
def test_serve_on_all_addresses_without_keys_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], warned: bool
) -> None:
    import uvicorn
    from typer.testing import CliRunner

    from opentalking_core.cli import app

    monkeypatch.setattr(uvicorn, "run", lambda *args, **kwargs: None)  # no test listens on the network
    ran = CliRunner().invoke(
        app, ["serve", "--host", "0.0.0.0", "--port", "0", "--store", str(tmp_path)], env=environment
    )
    assert ran.exit_code == 0
    assert ("may create and delete avatars" in ran.stderr) == warned
    assert ("configure a plugin that authorizes clients" in ran.stderr) == warned
    assert "OPENTALKING_API_KEYS" not in ran.stderr
