"""The documentation agrees with the code: generated parts are up to date, examples run, and the site works offline."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from opentalking_core import MouthLandmarks, PluginError, hookspecs
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.cli import app
from opentalking_core.host.host import PluginChoice, PluginHost
from opentalking_core.settings import Settings
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Pages that the site doesn't hold, so that its build doesn't check their links.
ROOT_PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if getattr(function, "opentalking_spec", None) is not None
}


def blocks(text: str) -> list[tuple[str, str]]:
    """Return title and code of each Python block of a page."""
    return re.findall(r'^```python(?: title="(.*?)")?\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def section(heading: str) -> str:
    """Return the text under a hook's heading in the guide."""
    found = re.search(rf"^### {heading}\n(.*?)(?=^##)", GUIDE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/plugins.md has no section {heading!r}"
    return found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_generated_part_of_a_page_is_up_to_date(page: Path) -> None:
    """If this fails, run `python docs/generate.py`."""
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]
    text = page.read_text("utf-8")
    assert generated(text) == text


def test_typescript_types_are_those_of_the_api() -> None:
    """If this fails, run `python tools/typescript_types.py`."""
    command = [sys.executable, str(ROOT / "tools" / "typescript_types.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_settings_named_in_docs_exist() -> None:
    known = {f"OPENTALKING_{name.upper()}" for name in Settings.model_fields}
    sources = [*ROOT.glob("opentalking_core/**/*.py"), *ROOT.glob("plugins/*/opentalking_*/**/*.py")]
    known |= set(re.findall(r'"(OPENTALKING_[A-Z_]+)"', "".join(path.read_text("utf-8") for path in sources)))
    for page in PAGES:
        named = set(re.findall(r"OPENTALKING_[A-Z_]+[A-Z]", page.read_text("utf-8")))
        assert named <= known, page.name


def test_commands_named_in_docs_exist() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known = {name.replace("_", "-") for name in commands} | {"models", "COMMAND"}
    for page in PAGES:
        named = set(re.findall(r"opentalking-core ([a-zA-Z][a-z-]+)", "\n".join(_code(page.read_text("utf-8")))))
        assert named <= known, page.name


def _code(text: str) -> list[str]:
    return re.findall(r"^```sh\n.*?^```|`opentalking-core [^`]+`", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ROOT_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_outside_the_site_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


# -- the plugin author's guide


def test_guide_shows_the_signature_of_each_hook() -> None:
    assert len(HOOKS) >= 8
    for name, function in HOOKS.items():
        signature = f"    {name}{inspect.signature(function)}".replace("'", "")
        assert signature in section(name).splitlines(), name


def _opens_its_urls(host: PluginHost, _: types.ModuleType) -> None:
    assert isinstance(host.open_bundle_store("scratch://x")[0], MemoryStore)
    with pytest.raises(Exception, match="names no store"):
        host.open_bundle_store("scratch://")


def _finds_mouths(host: PluginHost, _: types.ModuleType) -> None:
    assert isinstance(host.detect_mouth("example", np.full((8, 8, 3), 200, np.uint8)), MouthLandmarks)
    assert host.detect_mouth("example", np.zeros((8, 8, 3), np.uint8)) is None


def _tracks_mouths(host: PluginHost, _: types.ModuleType) -> None:
    tracker = host.open_mouth_tracker("example", 8, 8, 25.0)
    bright, dark = np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)
    tracked = [tracker.track(image, at / 25) for at, image in enumerate((bright, bright, dark, bright))]
    assert tracked[0] is tracked[1]
    assert [found is not None for found in tracked] == [True, True, False, True]
    tracker.close()


def _adds_a_model_type(host: PluginHost, _: types.ModuleType) -> None:
    from opentalking_core.testing.model_types import bundle

    puppet = host.model_types()["puppet"]
    assert [problem.where for problem in puppet.problems(bundle(puppet))] == ["strings/"]


def _decides(host: PluginHost, _: types.ModuleType) -> None:
    assert host.authorize("read", None, "Bearer the-key-of-the-reader") is True
    assert host.authorize("delete", "anna", "Bearer the-key-of-the-reader") is False
    assert host.authorize("read", None, "Bearer another") is None


def _says_that_it_can_authorize(host: PluginHost, module: types.ModuleType) -> None:
    assert module.can_authorize() is False
    assert host.can_authorize() is False


def _fetches(host: PluginHost, module: types.ModuleType) -> None:
    ((name, problem),) = host.fetch_models()
    assert name == "example"
    assert isinstance(problem, PluginError)
    module.MODEL.touch()
    assert dict(host.fetch_models()) == {"example": [module.MODEL]}


def _reports(host: PluginHost, _: types.ModuleType) -> None:
    assert host.plugin_warnings() == {"example": ["there is no /dev/accelerator: load its driver"]}


def _starts(host: PluginHost, module: types.ModuleType) -> None:
    host.startup()
    host.startup()
    assert module.loaded == ["model"]


def _stops(host: PluginHost, module: types.ModuleType) -> None:
    host.shutdown()
    assert module.released == []
    host.startup()
    host.shutdown()
    assert module.released == ["model"]


#: Checks, by hook, that the hook's example works when the host calls it.
EXAMPLES: dict[str, Callable[[PluginHost, types.ModuleType], None]] = {
    "open_bundle_store": _opens_its_urls,
    "detect_mouth": _finds_mouths,
    "open_mouth_tracker": _tracks_mouths,
    "register_model_types": _adds_a_model_type,
    "authorize": _decides,
    "can_authorize": _says_that_it_can_authorize,
    "fetch_models": _fetches,
    "report_problems": _reports,
    "startup": _starts,
    "shutdown": _stops,
}


@pytest.mark.parametrize("hook", HOOKS)
def test_guide_example_of_a_hook_works(hook: str, tmp_path: Path) -> None:
    ((_, code),) = blocks(section(hook))
    module = types.ModuleType("example")
    module.__file__ = str(tmp_path / "example.py")
    exec(compile(code, module.__file__, "exec"), module.__dict__)
    host = PluginHost().register(module, "example")
    assert host.plugins()[0].hooks == (("detect_mouth", hook) if hook == "open_mouth_tracker" else (hook,))
    EXAMPLES[hook](host, module)


@pytest.mark.parametrize(("kind", "name"), [("storage", "shelf"), ("detector", "lips"), ("model-type", "hologram")])
def test_guide_code_equals_what_new_plugin_writes(kind: str, name: str, tmp_path: Path) -> None:
    """The tests of `new-plugin` run the code that it writes."""
    done = CliRunner().invoke(app, ["new-plugin", kind, name, "--directory", str(tmp_path)])
    assert done.exit_code == 0
    shown = [(title, code) for title, code in blocks(GUIDE) if name in title]
    assert len(shown) >= 2
    for title, code in shown:
        assert code in (tmp_path / title).read_text("utf-8"), f"{title} in docs/plugins.md is not what is written"


def test_guide_listing_equals_what_new_plugin_writes(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["new-plugin", "storage", "shelf", "--directory", str(tmp_path)])
    listing = re.search(r"^opentalking-shelf/\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert listing
    listed = {line.split()[0] for line in listing[1].splitlines()}
    assert listed == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    entry_point = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert entry_point
    assert entry_point[1].splitlines() == _entry_point(tmp_path / "pyproject.toml")


def _entry_point(file: Path) -> list[str]:
    lines = file.read_text("utf-8").splitlines()
    start = lines.index("[project.entry-points.opentalking]")
    return [lines[start], lines[start + 1].partition("  #")[0]]


def test_guide_one_file_plugin_passes_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {title: code for title, code in blocks(GUIDE) if title in ("my_mouth.py", "test_service.py")}
    assert len(files) == 2
    for title, code in files.items():
        (tmp_path / title).write_text(code, "utf-8")
    host = PluginHost(PluginChoice(files=(str(tmp_path / "my_mouth.py"),), detectors=("my_mouth",))).load()
    assert host.detectors()[0].name == "my_mouth"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout


def test_guide_helpers_for_stores_read_ranges_and_write_the_manifest_last(tmp_path: Path) -> None:
    (code,) = [code for title, code in blocks(GUIDE) if title == "helpers.py"]
    module = types.ModuleType("helpers")
    exec(compile(code, "helpers.py", "exec"), module.__dict__)
    content = bytes(2_500_000)
    (tmp_path / "file").write_bytes(content)
    written: list[str] = []

    async def put(path: str, _: bytes) -> None:
        written.append(path)

    async def use() -> list[int]:
        await module.create(put, "anna", {"manifest.json": b"{}", "preview.png": b"", "frames/0.png": b""})
        with (tmp_path / "file").open("rb") as file:
            return [len(chunk) async for chunk in module.chunks(file, 500_000)]

    assert asyncio.run(use()) == [1_048_576, 951_424]
    assert written == ["anna/preview.png", "anna/frames/0.png", "anna/manifest.json"]
    with pytest.raises(ValueError, match="not a bundle"):
        asyncio.run(module.create(put, "anna", {"preview.png": b""}))


def test_guide_first_manifest_of_a_type_serves_as_a_base(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["new-plugin", "model-type", "hologram", "--directory", str(tmp_path)])
    plugin = tmp_path / "opentalking_hologram" / "__init__.py"
    (manifest,) = re.findall(r'^```json title="manifest.json"\n(.*?)^```', GUIDE, re.DOTALL | re.MULTILINE)
    base = tmp_path / "avatars" / "hologram-base"
    base.mkdir(parents=True)
    (base / "manifest.json").write_text(manifest, "utf-8")
    portrait = (ROOT / "docs" / "images" / "gallery.png").read_bytes()
    with running_service(base.parent.as_uri(), plugin_files=[plugin]) as client:
        fields = {"name": "Alice", "base_avatar_id": "hologram-base"}
        made = client.post("/avatars/custom", data=fields, files={"image": portrait})
        assert made.status_code == 200, made.text
        assert [avatar["name"] for avatar in client.get("/avatars").json()] == ["Alice"]
        metadata = client.get(f"/avatars/{made.json()['id']}").json()["metadata"]
    assert metadata["expression"] == "neutral"
    assert "hidden" not in metadata


def test_readme_detector_finds_a_mouth() -> None:
    (code,) = [code for _, code in blocks((ROOT / "README.md").read_text("utf-8")) if "detect_mouth" in code]
    module = types.ModuleType("readme")
    exec(compile(code, "README.md", "exec"), module.__dict__)
    host = PluginHost().register(module, "readme")
    assert isinstance(host.detect_mouth("readme", np.zeros((8, 8, 3), np.uint8)), MouthLandmarks)


# -- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site in a folder of its own; return that folder."""
    pytest.importorskip("zensical", reason="Zensical builds the site: pip install zensical")
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "zensical.toml", project)
    shutil.copytree(ROOT / "docs", project / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "site"


class _LoadedAddresses(HTMLParser):
    """Collects the addresses that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") != "canonical":
            self.addresses.append(values.get("href") or "")


def test_site_pages_load_only_files_of_the_site(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").glob("*.md")))
    for page in pages:
        parser = _LoadedAddresses()
        parser.feed(page.read_text("utf-8"))
        for address in filter(None, parser.addresses):
            assert not re.match(r"([a-z]+:)?//", address), f"{page.name} loads {address}"
            relative = unquote(urlsplit(address).path).lstrip("/")  # 404.html addresses the files from the root
            assert (page.parent / relative).is_file(), f"{page.name} loads {address}, which the site lacks"


def test_site_styles_load_nothing_from_other_hosts(site: Path) -> None:
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", style.read_text("utf-8")) == [], style.name


def test_site_search_opened_from_a_folder_finds_a_page(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to open the site in: apt-get install chromium")
    root_needs = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=root_needs)
        page = browser.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type("presigned", delay=10)
        page.locator("a[href*='s3.html']").filter(has_text="presigned").first.wait_for(timeout=20_000)
        browser.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
