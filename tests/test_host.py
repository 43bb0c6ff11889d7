"""PluginHost: find, disable, order and list plugins; `test_failing_plugins` tests what it says of faults."""

from __future__ import annotations

import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from opentalking_core import InvalidURL, MouthLandmarks, PluginError, hookimpl
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.host.host import PluginChoice, PluginHost, PluginInfo
from opentalking_core.testing.fixtures import FakeMouth
from opentalking_core.testing.running import running_service

from .helpers.http import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = np.zeros((4, 4, 3), dtype=np.uint8)
DETECTOR = """
    from opentalking_core import hookimpl

    @hookimpl
    def detect_mouth(image):
        return None
"""


def example_type(name: object, **other: object) -> object:
    """Return a model type that finds no problems."""
    return SimpleNamespace(**{"name": name, "portrait_recipe": None, "problems": lambda bundle: [], **other})


class Install(Protocol):
    """Installs a distribution with one plugin, as pip would leave it; returns its module's name."""

    def __call__(self, name: str, code: str, *, version: str = ..., attribute: str = ...) -> str: ...


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs plugins until the end of the test."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules = []

    def install(name: str, code: str, *, version: str = "1.2.3", attribute: str = "") -> str:
        module = f"installed_{name}"
        modules.append(module)
        (site / f"{module}.py").write_text(textwrap.dedent(code))
        metadata = site / f"{module}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: opentalking-{name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[opentalking]\n{name} = {module}{attribute}\n")
        return module

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def host(*, files: tuple[str, ...] = (), disabled: tuple[str, ...] = (), detectors: tuple[str, ...] = ()) -> PluginHost:
    return PluginHost(PluginChoice(files, disabled, detectors))


def info(loaded: PluginHost, name: str) -> PluginInfo:
    (found,) = [plugin for plugin in loaded.plugins() if plugin.name == name]
    return found


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# -- finding


def test_built_in_plugins_are_loaded_by_entry_points(caplog: pytest.LogCaptureFixture) -> None:
    loaded = host().load()
    for name, hook in (("model_types", "register_model_types"), ("memory_store", "open_bundle_store")):
        found = info(loaded, name)
        assert (found.origin, found.distribution, found.status) == ("distribution", "opentalking-core", "active")
        assert found.hooks == (hook,)
        assert found.version
    assert warnings(caplog) == []


def test_installed_plugin_is_listed(install: Install) -> None:
    install("somebodys", DETECTOR)
    found = info(host().load(), "somebodys")
    assert found == PluginInfo(
        "somebodys", "distribution", "opentalking-somebodys", "1.2.3", "active", ("detect_mouth",), ""
    )
    assert str(found) == "somebodys (opentalking-somebodys 1.2.3)"


def test_entry_point_naming_an_object_is_loaded(install: Install) -> None:
    code = """
        from opentalking_core import hookimpl

        class Plugin:
            @hookimpl
            def detect_mouth(self, image):
                return None

        plugin = Plugin()
    """
    install("an_object", code, attribute=":plugin")
    assert info(host().load(), "an_object").hooks == ("detect_mouth",)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_library_that_is_not_there", "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    ],
)
def test_failed_import_is_listed_with_the_reason(
    install: Install, caplog: pytest.LogCaptureFixture, code: str, reason: str
) -> None:
    install("broken", code)
    install("working", DETECTOR)
    loaded = host().load()
    failed = info(loaded, "broken")
    assert failed.status == "failed"
    assert reason in failed.reason
    assert info(loaded, "working").status == "active"
    (logged,) = warnings(caplog)
    assert "broken (opentalking-broken 1.2.3)" in logged
    assert reason in logged
    assert reason in loaded.plugin_warnings()["broken"][0]


def test_service_with_a_failed_plugin_starts(install: Install, store_url: str) -> None:
    install("broken", "import a_library_that_is_not_there")
    with running_service(store_url, plugins={"fake": FakeMouth()}) as service:
        assert service.get("/avatars").json() == []
        assert service.get("/health").status_code == 200


# -- blocking


def test_disabled_plugin_is_listed_and_not_imported(install: Install) -> None:
    module = install("unwanted", "raise SystemExit('imported')")
    loaded = host(disabled=("unwanted",)).load()
    found = info(loaded, "unwanted")
    assert (found.status, found.distribution, found.hooks, found.reason) == ("disabled", "opentalking-unwanted", (), "")
    assert module not in sys.modules
    assert loaded.plugin_warnings() == {}


def test_built_in_plugins_can_be_disabled() -> None:
    loaded = host(disabled=("model_types", "memory_store")).load()
    assert not {"mock", "wav2lip"} & set(loaded.model_types()), "other installed plugins may register types, too"
    with pytest.raises(InvalidURL, match=r"memory_store.*disabled"):
        loaded.open_bundle_store("memory://x")


def test_disabled_file_is_not_imported(tmp_path: Path) -> None:
    file = tmp_path / "unwanted.py"
    file.write_text("1 / 0")
    assert info(host(files=(str(file),), disabled=("unwanted",)).load(), "unwanted").status == "disabled"


def test_disabled_object_is_not_asked() -> None:
    loaded = host(disabled=("fake",)).register(FakeMouth(), "fake").load()
    assert "fake" not in [detector.name for detector in loaded.detectors()]
    assert info(loaded, "fake").status == "disabled"


@pytest.mark.parametrize("choice", ["disabled", "detectors"])
def test_unknown_plugin_name_logs_a_warning(caplog: pytest.LogCaptureFixture, choice: Any) -> None:
    host(**{choice: ("mediapip_mouth",)}).load()
    (logged,) = warnings(caplog)
    assert "'mediapip_mouth'" in logged
    assert "memory_store" in logged, "the names that exist"


# -- plugins in a single file


def test_single_file_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "my_plugin.py"
    file.write_text(textwrap.dedent(DETECTOR))
    loaded = host(files=(str(file),)).load()
    found = info(loaded, "my_plugin")
    assert (found.origin, found.distribution, found.status) == ("file", str(file), "active")
    assert "my_plugin" in [detector.name for detector in loaded.detectors()]


def test_single_file_with_relative_path_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    )
    Path("relative.py").write_text(code + textwrap.dedent(DETECTOR))
    assert info(host(files=("./relative.py",)).load(), "relative").status == "active"


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("missing.py", None, "there is no file"),
        ("raising.py", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("picture.png", "x = 1", "not a Python file"),
    ],
)
def test_unusable_file_is_listed_with_the_reason(tmp_path: Path, name: str, code: str | None, reason: str) -> None:
    file = tmp_path / name
    if code is not None:
        file.write_text(code)
    failed = info(host(files=(str(file),)).load(), file.stem)
    assert failed.status == "failed"
    assert reason in failed.reason
    assert failed.distribution == str(file)


def test_file_named_like_another_plugin_fails_naming_both(tmp_path: Path) -> None:
    file = tmp_path / "memory_store.py"
    file.write_text(textwrap.dedent(DETECTOR))
    found = [plugin for plugin in host(files=(str(file),)).load().plugins() if plugin.name == "memory_store"]
    assert sorted(plugin.status for plugin in found) == ["active", "failed"]
    (failed,) = [plugin for plugin in found if plugin.status == "failed"]
    assert "opentalking-core" in failed.reason
    assert str(file) in failed.reason


# -- plugins that misuse the hooks


class Misspelt:
    @hookimpl
    def detect_mouths(self, image: object) -> None: ...


class UnknownArgument:
    @hookimpl
    def detect_mouth(self, picture: object) -> None: ...


class Asynchronous:
    @hookimpl
    async def detect_mouth(self, image: object) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Misspelt(), ["detect_mouths"]),
        (UnknownArgument(), ["detect_mouth", "picture"]),
        (Asynchronous(), ["detect_mouth", "async def"]),
    ],
)
def test_register_wrong_hook_raises_naming_plugin_and_hook(plugin: object, words: list[str]) -> None:
    fresh = host()
    with pytest.raises(PluginError) as caught:
        fresh.register(plugin, "somebodys")
    for word in ("somebodys", *words):
        assert word in str(caught.value)
    assert " at 0x" not in str(caught.value)
    assert fresh.detectors() == [], "it is not half registered"
    fresh.register(FakeMouth(), "somebodys")
    assert len(fresh.detectors()) == 1


def test_installed_plugin_with_a_misspelt_hook_is_listed_as_failed(install: Install) -> None:
    install("typo", DETECTOR.replace("detect_mouth", "detect_mouht"))
    failed = info(host().load(), "typo")
    assert failed.status == "failed"
    assert "detect_mouht" in failed.reason


def test_register_same_name_twice_raises() -> None:
    with pytest.raises(PluginError, match="two plugins are named 'fake'"):
        host().register(FakeMouth(), "fake").register(FakeMouth(), "fake")


# -- stores


class Memory:
    """A second plugin that opens memory:// and example://."""

    @hookimpl
    def open_bundle_store(self, url: str) -> MemoryStore | None:
        return MemoryStore(url) if url.startswith(("memory://", "example://")) else None


def test_open_bundle_store_uses_registered_plugin() -> None:
    store, plugin = host().register(Memory(), "mine").load().open_bundle_store("example://x")
    assert isinstance(store, MemoryStore)
    assert (plugin.name, plugin.origin) == ("mine", "registered")


def test_service_runs_over_a_registered_store() -> None:
    with running_service("example://served", plugins={"mine": Memory(), "fake": FakeMouth()}) as service:
        assert service.get("/avatars").json() == []
        assert service.get("/health").json()["store"]["plugin"] == "mine"


def test_open_bundle_store_with_two_claims_names_both_plugins() -> None:
    loaded = host().register(Memory(), "mine").load()
    with pytest.raises(PluginError) as caught:
        loaded.open_bundle_store("memory://x")
    for word in ("mine", "memory_store", "OPENTALKING_DISABLE_PLUGINS"):
        assert word in str(caught.value)
    _, plugin = host(disabled=("memory_store",)).register(Memory(), "mine").load().open_bundle_store("memory://x")
    assert plugin.name == "mine"


def test_open_bundle_store_unknown_url_shows_no_secret(install: Install) -> None:
    install("gone", "import a_library_that_is_not_there")
    with pytest.raises(InvalidURL) as caught:
        host().load().open_bundle_store("gopher://user:hunter2@host/bucket?token=abc")
    message = str(caught.value)
    assert "gopher://host/bucket" in message
    assert "hunter2" not in message
    assert "abc" not in message
    assert "a_library_that_is_not_there" in message, "a plugin that failed may be the one that is missed"


@pytest.mark.parametrize(
    ("url", "package"),
    [("/srv/avatars", "opentalking-local-storage"), ("s3://bucket/avatars", "opentalking-s3-storage")],
)
def test_open_bundle_store_without_plugins_names_the_package(url: str, package: str) -> None:
    with pytest.raises(InvalidURL, match=f"install the package {package}"):
        host().open_bundle_store(url)


@pytest.mark.parametrize("path", ["./avatars", "avatars", "/srv/my avatars", "~/avatars", "/srv/李雷#1?x%20"])
def test_open_bundle_store_turns_a_path_into_a_file_url(path: str) -> None:
    seen = []

    class Spy:
        @hookimpl
        def open_bundle_store(self, url: str) -> MemoryStore:
            seen.append(url)
            return MemoryStore(url)

    host().register(Spy(), "spy").open_bundle_store(path)
    (url,) = seen
    assert url == Path(path).expanduser().absolute().as_uri()


# -- detectors


def named(*names: str, order: tuple[str, ...] = ()) -> list[str]:
    fresh = host(detectors=order)
    for name in names:
        fresh.register(FakeMouth(), name)
    return [detector.name for detector in fresh.detectors()]


def test_detectors_are_asked_by_name() -> None:
    assert named("c", "a", "b") == ["a", "b", "c"]


def test_detectors_named_in_the_choice_are_asked_first() -> None:
    assert named("c", "a", "b", order=("b",)) == ["b", "a", "c"]
    assert named("c", "a", "b", order=("c", "b", "a")) == ["c", "b", "a"]


class FirstMouth(FakeMouth):
    @hookimpl(tryfirst=True)
    def detect_mouth(self, image: Any) -> MouthLandmarks | None:
        return None


class LastMouth(FakeMouth):
    @hookimpl(trylast=True)
    def detect_mouth(self, image: Any) -> MouthLandmarks | None:
        return None


def test_detectors_marked_tryfirst_and_trylast_are_asked_first_and_last() -> None:
    fresh = host(detectors=("chosen",)).register(LastMouth(), "a_last").register(FirstMouth(), "z_first")
    fresh.register(FakeMouth(), "chosen").register(FakeMouth(), "b").register(FakeMouth(), "c")
    assert [detector.name for detector in fresh.detectors()] == ["chosen", "z_first", "b", "c", "a_last"]


def test_newly_installed_detector_is_asked_after_the_default_one(install: Install) -> None:
    pytest.importorskip("opentalking_mediapipe_mouth")
    install("aaa_mouth", DETECTOR)
    order = [detector.name for detector in host().load().detectors()]
    assert order.index("mediapipe_mouth") < order.index("aaa_mouth")


def test_detect_mouth_asks_one_detector_only() -> None:
    one, other = FakeMouth(), FakeMouth()
    fresh = host().register(one, "one").register(other, "other")
    assert fresh.detect_mouth("one", PICTURE) == FakeMouth.landmarks
    assert (len(one.shapes), len(other.shapes)) == (1, 0)


@pytest.mark.parametrize("answer", [{"outer_lip": []}, (0.5, 0.5), "mouth", 0, False, []])
def test_detect_mouth_wrong_result_names_plugin_and_type(answer: object) -> None:
    class Rubbish:
        @hookimpl
        def detect_mouth(self, image: object) -> object:
            return answer

    with pytest.raises(PluginError, match=f"somebodys.*{type(answer).__name__}"):
        host().register(Rubbish(), "somebodys").detect_mouth("somebodys", PICTURE)


@pytest.mark.parametrize(
    "points",
    [[(0.1, 0.1), (0.2, 0.2)], [], [(0.1, 0.1), (0.2, float("nan")), (0.3, 0.3)], [(0, 0), (1, 1), (2, 1e999)]],
)
def test_landmarks_reject_points_that_are_no_mouth(points: list[tuple[float, float]]) -> None:
    good = [(0.1, 0.1), (0.2, 0.2), (0.3, 0.1)]
    for outer, inner in ((points, good), (good, points)):
        with pytest.raises(ValueError, match=r"lip|mouth"):
            MouthLandmarks(outer, inner)


# -- startup, shutdown, problems, models, model types


class Living:
    """Records which hooks are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @hookimpl
    def startup(self) -> None:
        self.calls.append("startup")

    @hookimpl
    def shutdown(self) -> None:
        self.calls.append("shutdown")


class Failing:
    @hookimpl
    def startup(self) -> None:
        raise RuntimeError("cannot start")

    @hookimpl
    def shutdown(self) -> None:
        raise RuntimeError("cannot stop")

    @hookimpl
    def report_problems(self) -> list[str]:
        raise RuntimeError("cannot tell")

    @hookimpl
    def fetch_models(self) -> list[Path]:
        raise RuntimeError("cannot fetch")


class Exiting:
    """A plugin that calls sys.exit, as a program does. SystemExit is not an Exception."""

    @hookimpl
    def startup(self) -> None:
        sys.exit("no licence")

    @hookimpl
    def shutdown(self) -> None:
        sys.exit("no licence")

    @hookimpl
    def report_problems(self) -> list[str]:
        sys.exit("no licence")

    @hookimpl
    def fetch_models(self) -> list[Path]:
        sys.exit("no licence")


def test_startup_and_shutdown_run_once_and_survive_failing_plugins(caplog: pytest.LogCaptureFixture) -> None:
    living = Living()
    fresh = host().register(Failing(), "a_failing").register(living, "b").register(Exiting(), "c_failing")
    fresh.shutdown()
    assert living.calls == [], "what never started need not end"
    for _ in range(2):
        fresh.startup()
    for _ in range(2):
        fresh.shutdown()
    assert living.calls == ["startup", "shutdown"]
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(logged) == 4
    assert all("failing" in message for message in logged)


def test_startup_plugin_error_logs_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Unready:
        @hookimpl
        def startup(self) -> None:
            raise PluginError("libEGL is missing: run `apt install libegl1`")

    caplog.set_level("INFO")
    host().register(Unready(), "unready").startup()
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None)]


def test_service_start_logs_what_keeps_plugins_from_working(caplog: pytest.LogCaptureFixture) -> None:
    with running_service("memory://x", plugins={"troubled": Troubled()}):
        wait_for(lambda: "troubled: the model file is missing" in caplog.text)
        wait_for(lambda: "install the package opentalking-mediapipe-mouth" in caplog.text)


class Troubled:
    @hookimpl
    def report_problems(self) -> list[str]:
        return ["the model file is missing: run `models fetch`"]


def test_plugin_warnings_are_grouped_by_plugin() -> None:
    fresh = host().register(Troubled(), "troubled").register(Failing(), "failing").register(FakeMouth(), "well")
    problems = fresh.register(Exiting(), "exiting").plugin_warnings()
    assert "no licence" in problems["exiting"][0]
    assert problems["troubled"] == ["the model file is missing: run `models fetch`"]
    assert "cannot tell" in problems["failing"][0]
    assert "well" not in problems


def test_health_shows_what_a_detector_reports(store_url: str) -> None:
    class TroubledMouth(FakeMouth, Troubled): ...

    with running_service(store_url, plugins={"troubled": TroubledMouth()}) as service:
        answer = service.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    (detector,) = answer.json()["detectors"]
    assert (detector["plugin"], detector["ok"]) == ("troubled", False)
    assert "models fetch" in detector["problem"]


class Slow:
    """A plugin with a slow report, as if it looked at files on a network."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()

    @hookimpl
    def report_problems(self) -> list[str]:
        self.asked += 1
        self.may_answer.wait(20)
        return []


def test_slow_report_delays_health_only(store_url: str) -> None:
    slow = Slow()
    with running_service(store_url, plugins={"slow": slow}) as service, ThreadPoolExecutor(1) as other:
        wait_for(lambda: slow.asked == 1)  # by the start of the service, which doesn't wait for the report either
        health = other.submit(service.get, "/health")
        wait_for(lambda: slow.asked == 2)
        try:
            assert service.get("/avatars", timeout=10).status_code == 200
        finally:
            slow.may_answer.set()
        assert health.result().status_code == 200
        assert slow.asked == 2


def test_fetch_models_goes_on_after_a_failing_plugin() -> None:
    class Fetching:
        @hookimpl
        def fetch_models(self) -> list[Path]:
            return [Path("model.task")]

    plugins = host().register(Exiting(), "exiting").register(Failing(), "failing").register(Fetching(), "fetching")
    results = dict(plugins.fetch_models())
    assert "no licence" in str(results["exiting"])
    assert results["fetching"] == [Path("model.task")]
    assert "cannot fetch" in str(results["failing"])


def test_model_type_registered_twice_names_both_plugins() -> None:
    class Another:
        @hookimpl
        def register_model_types(self) -> list[object]:
            return [example_type("wav2lip")]

    loaded = host().register(Another(), "another").load()
    with pytest.raises(PluginError) as caught:
        loaded.model_types()
    for word in ("wav2lip", "another", "opentalking-core", "OPENTALKING_DISABLE_PLUGINS"):
        assert word in str(caught.value)


def test_hosts_do_not_share_plugins() -> None:
    host().register(FakeMouth(), "fake")
    assert host().detectors() == []
