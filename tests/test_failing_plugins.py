"""Plugins that fail: each failure is one sentence that names the plugin, and stops only what needs the plugin."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from opentalking_core import InvalidURL, PluginError, hookimpl
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.host.host import PluginChoice, PluginHost
from opentalking_core.host.secrets import without_secrets
from opentalking_core.testing.fixtures import FakeMouth
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PICTURE = np.zeros((4, 4, 3), dtype=np.uint8)


def raises(error: BaseException) -> Callable[[], object]:
    """Return a hook that raises `error`."""

    def hook() -> object:
        raise error

    return hook


def returns(result: object) -> Callable[[], object]:
    """Return a hook that returns `result`."""
    return lambda: result


def fails_midway() -> Any:
    """A hook that is a generator and raises after its first item."""
    yield "one"
    raise KeyError("two")


def plugin(hook: str, function: Callable[[], object]) -> object:
    """Return a plugin that implements one hook, and `detect_mouth` if that hook needs it."""
    hooks: dict[str, Callable[..., object]] = {hook: function}
    if hook == "open_mouth_tracker":
        hooks["detect_mouth"] = returns(None)
    return type("Plugin", (), {name: staticmethod(hookimpl(each)) for name, each in hooks.items()})()


def model_type(name: object = "lips", **other: object) -> object:
    """Return a model type that finds no problems."""
    return SimpleNamespace(**{"name": name, "portrait_recipe": None, "problems": lambda bundle: [], **other})


class RaisingType:
    """A model type whose name can't be read."""

    @property
    def name(self) -> str:
        raise KeyError("name")


class NoCreate:
    """A store that can't be written to."""

    url = "x://"
    __aenter__ = __aexit__ = scan = files = open = delete = lambda self: None


class RaisingURL(NoCreate):
    """A store whose URL can't be read."""

    create = NoCreate.open

    @property
    def url(self) -> str:  # type: ignore[override]
        raise KeyError("bucket")


class RaisingScan(NoCreate):
    """A store one of whose methods can't be looked up."""

    create = NoCreate.open

    @property
    def scan(self) -> object:  # type: ignore[override]
        raise OSError("gone")


class RaisingTracker:
    """A tracker whose method can't be looked up."""

    @property
    def track(self) -> object:
        raise OSError("gone")

    def close(self) -> None: ...


class Fault(NamedTuple):
    """What a hook does wrong, and the sentence about it."""

    hook: str
    function: Callable[[], object]
    sentence: str


FAULTS = {
    "store raises": Fault("open_bundle_store", raises(KeyError("k")), "open_bundle_store raised KeyError: 'k'"),
    "store exits": Fault("open_bundle_store", raises(SystemExit("no")), "open_bundle_store called sys.exit('no')"),
    "store is a str": Fault(
        "open_bundle_store",
        returns("x"),
        "open_bundle_store returned str, not a bundle store:"
        " it lacks __aenter__, __aexit__, scan, files, open, create, delete, url",
    ),
    "store lacks create": Fault(
        "open_bundle_store",
        returns(NoCreate()),
        "open_bundle_store returned NoCreate, not a bundle store: it lacks create",
    ),
    "store with a raising url": Fault(
        "open_bundle_store", returns(RaisingURL()), "a store's `url` raised KeyError: 'bucket'"
    ),
    "store with a raising method": Fault(
        "open_bundle_store", returns(RaisingScan()), "a store's `scan` raised OSError: gone"
    ),
    "types raises": Fault("register_model_types", raises(OSError("gone")), "register_model_types raised OSError: gone"),
    "types exits": Fault("register_model_types", raises(SystemExit()), "register_model_types called sys.exit()"),
    "types stops midway": Fault("register_model_types", fails_midway, "register_model_types raised KeyError: 'two'"),
    "types is a str": Fault(
        "register_model_types", returns("wav2lip"), "register_model_types returned str, not an iterable of model types"
    ),
    "types is an int": Fault(
        "register_model_types", returns(3), "register_model_types returned int, not an iterable of model types"
    ),
    "types holds a str": Fault(
        "register_model_types",
        returns(["wav2lip"]),
        "register_model_types yielded str, not a model type: it has no `name`",
    ),
    "type without a name": Fault(
        "register_model_types",
        returns([object()]),
        "register_model_types yielded object, not a model type: it has no `name`",
    ),
    "type without problems": Fault(
        "register_model_types",
        returns([model_type(problems=None)]),
        "register_model_types yielded SimpleNamespace, not a model type: 'lips' has no method `problems`",
    ),
    "type with a wrong recipe": Fault(
        "register_model_types",
        returns([model_type(portrait_recipe=("reference.png",))]),
        "register_model_types yielded SimpleNamespace, not a model type:"
        " 'lips' has no `portrait_recipe` that is a PortraitRecipe or None",
    ),
    "type twice": Fault(
        "register_model_types",
        returns([model_type(), model_type()]),
        "register_model_types yielded two model types named 'lips'",
    ),
    "type with a raising name": Fault(
        "register_model_types", returns([RaisingType()]), "a model type's `name` raised KeyError: 'name'"
    ),
    "authorize raises": Fault("authorize", raises(KeyError("k")), "authorize raised KeyError: 'k'"),
    "authorize exits": Fault("authorize", raises(SystemExit(2)), "authorize called sys.exit(2)"),
    "authorize refuses": Fault("authorize", raises(PluginError("no file of keys")), "no file of keys"),
    "authorize is a str": Fault("authorize", returns("yes"), "authorize returned str, not True, False or None"),
    "authorize is an int": Fault("authorize", returns(1), "authorize returned int, not True, False or None"),
    "can_authorize raises": Fault("can_authorize", raises(OSError("gone")), "can_authorize raised OSError: gone"),
    "can_authorize is a str": Fault(
        "can_authorize", returns("yes"), "can_authorize returned str, not True, False or None"
    ),
    "mouth is a str": Fault("detect_mouth", returns("lips"), "detect_mouth returned str, not MouthLandmarks or None"),
    "tracker raises": Fault("open_mouth_tracker", raises(KeyError("k")), "open_mouth_tracker raised KeyError: 'k'"),
    "tracker exits": Fault("open_mouth_tracker", raises(SystemExit("no")), "open_mouth_tracker called sys.exit('no')"),
    "tracker refuses": Fault("open_mouth_tracker", raises(PluginError("no model")), "no model"),
    "tracker is a str": Fault(
        "open_mouth_tracker",
        returns("lips"),
        "open_mouth_tracker returned str, not a mouth tracker: it lacks track and close",
    ),
    "tracker lacks close": Fault(
        "open_mouth_tracker",
        returns(SimpleNamespace(track=print)),
        "open_mouth_tracker returned SimpleNamespace, not a mouth tracker: it lacks close",
    ),
    "tracker with a raising method": Fault(
        "open_mouth_tracker", returns(RaisingTracker()), "a mouth tracker's `track` raised OSError: gone"
    ),
    "fetch raises": Fault("fetch_models", raises(OSError("full")), "fetch_models raised OSError: full"),
    "fetch exits": Fault("fetch_models", raises(SystemExit("no")), "fetch_models called sys.exit('no')"),
    "fetch gives up": Fault("fetch_models", raises(PluginError("download it by hand")), "download it by hand"),
    "fetch is a str": Fault("fetch_models", returns("a.task"), "fetch_models returned str, not an iterable of paths"),
    "fetch holds a str": Fault("fetch_models", returns(["a.task"]), "fetch_models yielded str, not Path"),
    "report raises": Fault("report_problems", raises(ValueError()), "report_problems raised ValueError"),
    "report exits": Fault("report_problems", raises(SystemExit("no")), "report_problems called sys.exit('no')"),
    "report is a str": Fault(
        "report_problems", returns("no model"), "report_problems returned str, not an iterable of texts"
    ),
    "report is an int": Fault("report_problems", returns(1), "report_problems returned int, not an iterable of texts"),
    "report holds an int": Fault("report_problems", returns([3]), "report_problems yielded int, not str"),
    "startup raises": Fault("startup", raises(OSError("gone")), "startup raised OSError: gone"),
    "startup exits": Fault("startup", raises(SystemExit("no")), "startup called sys.exit('no')"),
    "startup refuses": Fault("startup", raises(PluginError("run `apt install x`")), "run `apt install x`"),
    "shutdown raises": Fault("shutdown", raises(OSError("gone")), "shutdown raised OSError: gone"),
    "shutdown exits": Fault("shutdown", raises(SystemExit("no")), "shutdown called sys.exit('no')"),
}


def sentence_about(host: PluginHost, hook: str, logged: Callable[[], list[str]]) -> str:
    """Ask the plugins by `hook`, and return what the host says of the plugin `somebodys`."""
    match hook:
        case "open_bundle_store":
            with pytest.raises(PluginError) as caught:
                host.open_bundle_store("x://y")
            return str(caught.value)
        case "authorize":
            with pytest.raises(PluginError) as caught:
                host.authorize("list", None, None)
            return str(caught.value)
        case "can_authorize":
            with pytest.raises(PluginError) as caught:
                host.can_authorize()
            return str(caught.value)
        case "detect_mouth":
            with pytest.raises(PluginError) as caught:
                host.detect_mouth("somebodys", PICTURE)
            return str(caught.value)
        case "open_mouth_tracker":
            with pytest.raises(PluginError) as caught:
                host.open_mouth_tracker("somebodys", 4, 4, 25.0)
            return str(caught.value)
        case "fetch_models":
            ((name, result),) = [(name, found) for name, found in host.fetch_models() if name == "somebodys"]
            return f"plugin {name}: {result}"
        case "register_model_types" | "report_problems":
            (sentence,) = host.plugin_warnings()["somebodys"]
            return f"plugin somebodys: {sentence}"
        case _:
            host.startup()
            host.shutdown()
            (sentence,) = logged()
            return sentence


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_failing_hook_is_one_sentence_naming_plugin_and_hook(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    host = PluginHost().register(plugin(fault.hook, fault.function), "somebodys")
    said = sentence_about(host, fault.hook, lambda: [record.getMessage() for record in caplog.records])
    assert f"plugin somebodys: {fault.sentence}" in said
    assert "\n" not in said


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.hook == "open_bundle_store"])
def test_store_of_another_plugin_is_opened_despite_a_failing_plugin(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = PluginHost().register(plugin("open_bundle_store", FAULTS[name].function), "a_broken").load()
    store, opened_by = host.open_bundle_store("memory://x?token=hunter2")
    assert isinstance(store, MemoryStore)
    assert opened_by.name == "memory_store"
    (warning,) = [record.getMessage() for record in caplog.records if "a_broken" in record.getMessage()]
    assert FAULTS[name].sentence in warning


def test_store_that_fails_shows_no_secret() -> None:
    class Careless:
        @hookimpl
        def open_bundle_store(self, url: str) -> None:
            raise ValueError(f"can't parse {url}")

    with pytest.raises(PluginError, match="somebodys") as caught:
        PluginHost().register(Careless(), "somebodys").open_bundle_store("example://user:hunter2@host/y?token=abc")
    assert "hunter2" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("pg://u:p@ss@host/db", "pg://host/db"),
        ("pg://u:p/w@host/db", "pg://host/db"),
        ("pg://u:p?w@host/db", "pg://host/db"),
        ("pg://u:p#w@host", "pg://host"),
        ("pg://token@host/db?key=abc", "pg://host/db"),
        ("pg://u:pw@host/db?mail=a@b", "pg://host/db"),
        ("pg://host/db?mail=a@b", "pg://host/db"),
        ("s3://bucket/portraits@2x", "s3://bucket/portraits@2x"),
        ("pg://host:5432/a@b", "pg://host:5432/a@b"),
        ("pg://[::1]:5432/a@b", "pg://[::1]:5432/a@b"),
        ("file:///srv/a@b", "file:///srv/a@b"),
        ("memory:x?key=abc", "memory:x"),
        ("memory:x?at=//y", "memory:x"),
        ("simplecache::s3://u:p@bucket/x", "simplecache::s3://bucket/x"),
    ],
)
def test_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize("error", [ValueError, InvalidURL])
@pytest.mark.parametrize(
    "sentence",
    ["can't reach u:hunter%402@host", "port 'hunter%402' is no number", "no user u with hunter@2", "key=abc is wrong"],
)
def test_failing_store_shows_no_part_of_the_secrets(sentence: str, error: type[Exception]) -> None:
    refuses = plugin("open_bundle_store", raises(error(sentence)))
    with pytest.raises((PluginError, InvalidURL)) as caught:
        PluginHost().register(refuses, "somebodys").open_bundle_store("pg://u:hunter%402@host/db?key=abc")
    assert "hunter" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_failing_store_with_a_short_user_keeps_its_sentence() -> None:
    refuses = plugin("open_bundle_store", raises(InvalidURL("a bucket at a@host is a bad idea")))
    with pytest.raises(InvalidURL, match=r"^a bucket at host is a bad idea$"):
        PluginHost().register(refuses, "somebodys").open_bundle_store("pg://a@host")


def test_store_with_a_wrong_url_raises_the_plugins_own_sentence() -> None:
    refuses = plugin("open_bundle_store", raises(InvalidURL("x://y names no bucket")))
    host = PluginHost().register(refuses, "somebodys")
    with pytest.raises(InvalidURL, match=r"^x://y names no bucket$"):
        host.open_bundle_store("x://y")


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.hook == "register_model_types"])
def test_broken_model_types_lose_only_their_own(name: str, store_url: str) -> None:
    broken = plugin("register_model_types", FAULTS[name].function)
    with running_service(store_url, plugins={"somebodys": broken, "fake": FakeMouth()}) as service:
        assert service.get("/avatars").status_code == 200
        assert service.get("/health").json()["plugins"]["somebodys"] == [FAULTS[name].sentence]
    types = PluginHost().register(broken, "somebodys").load().model_types()
    assert {"mock", "wav2lip"} <= set(types)
    assert "lips" not in types


def test_health_asks_no_plugin_for_model_types_again(store_url: str) -> None:
    calls: list[str] = []

    def register_model_types() -> object:
        calls.append("asked")
        raise OSError("gone")

    broken = plugin("register_model_types", register_model_types)
    with running_service(store_url, plugins={"somebodys": broken, "fake": FakeMouth()}) as service:
        for _ in range(2):
            sentences = service.get("/health").json()["plugins"]["somebodys"]
            assert sentences == ["register_model_types raised OSError: gone"]
    assert calls == ["asked"]


@pytest.mark.parametrize("hook", ["fetch_models", "report_problems", "startup", "shutdown"])
def test_hook_of_other_plugins_is_called_despite_a_failing_one(hook: str) -> None:
    called = []
    host = PluginHost()
    for name in ("a", "c"):
        host.register(plugin(hook, raises(SystemExit("no"))), name)
    host.register(plugin(hook, lambda: called.append("b")), "b")
    host.startup()
    host.shutdown()
    list(host.fetch_models())
    host.plugin_warnings()
    assert called == ["b"]


def test_authorize_that_raises_allows_nothing(store_url: str) -> None:
    broken = plugin("authorize", raises(SystemExit("no")))
    with running_service(store_url, plugins={"somebodys": broken}, protect="everything") as service:
        answer = service.get("/avatars")
    assert answer.status_code == 500
    assert "somebodys" not in answer.text


# -- sys.path


SPOILING = "import sys; sys.path.insert(1, '/left/behind'); raise ImportError('libGL.so.1')"


def test_failed_import_leaves_sys_path_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "spoiling.py").write_text(SPOILING)
    before = sys.path[:]
    (failed,) = [
        info
        for info in PluginHost(PluginChoice((str(tmp_path / "spoiling.py"),))).load().plugins()
        if info.name == "spoiling"
    ]
    assert (failed.status, failed.reason) == ("failed", "ImportError: libGL.so.1")
    assert sys.path == before


def test_failing_hook_keeps_what_another_thread_adds_to_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fetch_models` runs for minutes in a background thread."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    added = threading.Thread(target=sys.path.append, args=["/of/another/thread"])

    def fetch_models() -> None:
        added.start()
        added.join()
        raise OSError("no network")

    host = PluginHost().register(plugin("fetch_models", fetch_models), "somebodys")
    assert "no network" in str(dict(host.fetch_models())["somebodys"])
    assert sys.path[-1] == "/of/another/thread"
