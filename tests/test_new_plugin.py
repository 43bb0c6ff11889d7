"""opentalking-core new-plugin: the written package works without changes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from opentalking_core.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of each kind: the file that an author edits first, beside __init__.py.
KINDS = {"storage": "store.py", "detector": "detector.py", "model-type": None}


def new_plugin(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["new-plugin", *map(str, args)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start the tests of a new plugin of each kind, all at the same time."""
    processes = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        assert new_plugin(kind, "Fog-Bank", "--directory", folder)[0] == 0
        processes[kind] = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", folder],
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", KINDS)
def test_new_plugin_passes_its_own_tests(running: dict[str, subprocess.Popen[str]], kind: str) -> None:
    output, _ = running[kind].communicate(timeout=300)
    assert running[kind].returncode == 0, output
    assert int(re.findall(r"(\d+) passed", output)[0]) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_new_plugin_is_a_package_under_its_own_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exit_code, output = new_plugin(kind, "fog-bank")
    assert exit_code == 0
    assert "pip install -e 'opentalking-fog-bank[testing]'" in output
    package = Path("opentalking-fog-bank")
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    source = {"__init__.py", "py.typed", KINDS[kind]} - {None}
    assert files == {
        *("pyproject.toml", "README.md", "tests/test_fog_bank.py"),
        *(f"opentalking_fog_bank/{name}" for name in source),
    }
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["name"] == "opentalking-fog-bank"
    assert project["entry-points"]["opentalking"] == {"fog_bank": "opentalking_fog_bank"}
    for path in files:
        leftover = re.sub("example_manifest", "", (package / path).read_text())
        assert "example" not in leftover.lower(), path
    if kind == "storage":
        assert '"fog-bank://"' in (package / "opentalking_fog_bank/__init__.py").read_text()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "E,F,B,S,UP",
            "--ignore",
            "E501,S101",
            package,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["", "-", "../fog", "fog/bank", "1fog", "fog.bank", "class", "Ünder", "fog;bank"])
def test_new_plugin_rejects_impossible_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exit_code, output = new_plugin("storage", "--", name)
    assert exit_code == 1
    assert "can't be a plugin's name" in output
    assert list(tmp_path.iterdir()) == []


def test_new_plugin_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    exit_code, output = new_plugin("storage", "fog", "--directory", tmp_path)
    assert exit_code == 1
    assert "is there already" in output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_new_plugin_rejects_name_of_installed_plugin(tmp_path: Path) -> None:
    exit_code, output = new_plugin("storage", "local-storage", "--directory", tmp_path / "x")
    assert exit_code == 1
    assert "the plugin 'local_storage' is there already, from opentalking-local-storage" in output
