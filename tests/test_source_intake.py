"""Files that a model type makes in real worker processes: what a crash, a hang or a cancellation costs."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core.errors import InvalidRequest, PluginError, StoreFull
from opentalking_core.host.host import PluginChoice, PluginHost
from opentalking_core.metrics import Metrics
from opentalking_core.settings import Settings
from opentalking_core.source_intake import FileContent, SourceIntake, WorkProgress
from opentalking_core.testing.running import installed_detectors
from opentalking_core.workers.pool import WorkerPool
from opentalking_core.workers.threads import ThreadRunner

from .helpers.processes import is_alive
from .helpers.stores import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAKER = """\
import os, time
from pathlib import Path
from opentalking_core import BundleFile, BundleMetadata, InvalidRequest, hookimpl

class Sketch:
    name = "sketch"
    portrait_recipe = None
    sources = ("portrait",)

    def problems(self, bundle):
        return ()

    def make_files(self, source):
        BEHAVIOUR

@hookimpl
def register_model_types():
    return (Sketch(),)
"""

DETECTOR = """\
import os, time
from opentalking_core import MouthLandmarks, hookimpl

LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))

@hookimpl
def detect_mouth(image):
    BEHAVIOUR
"""

ONE_FILE = """
    for frame in source.frames():
        yield BundleFile("sketches/0.jpg", frame.jpeg())
    yield BundleMetadata({"mouth": frame.mouth.source if frame.mouth else None})
"""
FINDS = "return MouthLandmarks(LIPS, LIPS)"


def write_plugin(path: Path, template: str, behaviour: str) -> str:
    lines = [
        textwrap.indent(textwrap.dedent(behaviour).strip(), line.removesuffix("BEHAVIOUR"))
        if line.endswith("BEHAVIOUR")
        else line
        for line in template.splitlines()
    ]
    path.write_text("\n".join(lines))
    return str(path)


@contextlib.asynccontextmanager
async def intake_of(*plugins: str, **settings: Any) -> AsyncIterator[SourceIntake]:
    """Open an intake with one worker process, which loads these one-file plugins."""
    host = PluginHost(PluginChoice(files=plugins, disabled=installed_detectors())).load()
    pool = WorkerPool(1, 60)
    try:
        yield SourceIntake(Settings(**settings), host, pool, ThreadRunner(60), Metrics())
    finally:
        await pool.close()


@pytest.fixture
def upload(tmp_path: Path, portrait: bytes) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(portrait)
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


def test_maker_gets_frames_with_mouths_and_its_files_are_written(tmp_path: Path, upload: Path, made: Path) -> None:
    maker = write_plugin(tmp_path / "maker.py", MAKER, ONE_FILE)
    detector = write_plugin(tmp_path / "finder.py", DETECTOR, FINDS)

    async def process() -> None:
        async with intake_of(maker, detector) as intake:
            result = await intake.process(upload, "portrait", made, "sketch")
            assert set(result.paths) == {"sketches/0.jpg", "reference.png", "preview.png"}
            assert result.metadata == {"mouth": "finder"}
            assert (result.frames, result.frames_with_mouth, result.fps) == (1, 1, None)
            assert result.mouth is not None
            content = b"".join([chunk async for chunk in FileContent(made / "sketches/0.jpg")])
            assert content.startswith(b"\xff\xd8")

    asyncio.run(process())


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("os._exit(3)", "WorkerCrashed"),
        ("time.sleep(3600)", "made no progress for 1 s"),
        ("raise RuntimeError('no graphics card')", "no graphics card"),
    ],
)
def test_failing_detector_is_named_and_the_next_one_is_asked(
    tmp_path: Path, upload: Path, made: Path, behaviour: str, reason: str
) -> None:
    maker = write_plugin(tmp_path / "maker.py", MAKER, ONE_FILE)
    culprit = write_plugin(tmp_path / "a_culprit.py", DETECTOR, behaviour)
    finder = write_plugin(tmp_path / "b_finder.py", DETECTOR, FINDS)

    async def process() -> None:
        async with intake_of(maker, culprit, finder, portrait_time_limit=1) as intake:
            result = await intake.process(upload, "portrait", made, "sketch")
            assert result.metadata == {"mouth": "b_finder"}
            assert list(intake.failures) == ["a_culprit"]
            assert reason in intake.failures["a_culprit"]

    asyncio.run(process())


def test_refusal_of_the_model_type_is_told_with_its_sentence(tmp_path: Path, upload: Path, made: Path) -> None:
    maker = write_plugin(tmp_path / "maker.py", MAKER, "raise InvalidRequest('a sketch needs a hat')")

    async def process() -> None:
        async with intake_of(maker) as intake:
            with pytest.raises(InvalidRequest, match="a sketch needs a hat"):
                await intake.process(upload, "portrait", made, "sketch")

    asyncio.run(process())


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("yield BundleFile('../escape', b'')", "'../escape'"),
        ("yield BundleFile('manifest.json', b'{}')", "manifest.json"),
        ("yield from [BundleFile('a', b''), BundleFile('a', b'')]", "'a'"),
        ("yield 'a text'", "str"),
        ("yield BundleMetadata({'speed': float('nan')})", "ValueError"),
        ("raise KeyError('hat')", "KeyError: 'hat'"),
    ],
)
def test_mistake_of_the_model_type_is_an_error_that_names_it(
    tmp_path: Path, upload: Path, made: Path, behaviour: str, reason: str
) -> None:
    maker = write_plugin(tmp_path / "maker.py", MAKER, f"list(source.frames()); {behaviour}")

    async def process() -> None:
        async with intake_of(maker) as intake:
            with pytest.raises(PluginError, match="model type sketch can't make files") as error:
                await intake.process(upload, "portrait", made, "sketch")
            assert reason in str(error.value)

    asyncio.run(process())


def test_full_disk_is_told(tmp_path: Path, upload: Path, made: Path) -> None:
    behaviour = "list(source.frames()); raise OSError(28, 'No space left on device'); yield"
    maker = write_plugin(tmp_path / "maker.py", MAKER, behaviour)

    async def process() -> None:
        async with intake_of(maker) as intake:
            with pytest.raises(StoreFull, match="there is no room for the files of the portrait"):
                await intake.process(upload, "portrait", made, "sketch")

    asyncio.run(process())


def test_maker_that_hangs_makes_the_upload_refused(tmp_path: Path, upload: Path, made: Path) -> None:
    maker = write_plugin(tmp_path / "maker.py", MAKER, "list(source.frames()); time.sleep(3600); yield")

    async def process() -> None:
        async with intake_of(maker, portrait_time_limit=1) as intake:
            with pytest.raises(InvalidRequest, match="the portrait can't be decoded"):
                await intake.process(upload, "portrait", made, "sketch")

    asyncio.run(process())


def test_cancellation_ends_the_worker(tmp_path: Path, upload: Path, made: Path) -> None:
    pid_file = tmp_path / "pid"
    hang = f"Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(3600); yield"
    maker = write_plugin(tmp_path / "maker.py", MAKER, hang)

    async def process() -> int:
        async with intake_of(maker) as intake:
            work = asyncio.create_task(intake.process(upload, "portrait", made, "sketch"))
            await asyncio.to_thread(wait_until, lambda: pid_file.exists() and bool(pid_file.read_text()))
            pid = int(pid_file.read_text())
            work.cancel()
            await asyncio.wait([work])
            await asyncio.to_thread(wait_until, lambda: not is_alive(pid))
            assert work.cancelled()
            return pid

    asyncio.run(process())


def test_progress_is_told_while_frames_are_worked_on(tmp_path: Path, upload: Path, made: Path) -> None:
    behaviour = "list(source.frames()); time.sleep(1); yield BundleFile('a', b'')"
    maker = write_plugin(tmp_path / "maker.py", MAKER, behaviour)
    told: list[WorkProgress] = []

    async def process() -> None:
        async with intake_of(maker) as intake:
            await intake.process(upload, "portrait", made, "sketch", told.append)

    asyncio.run(process())
    assert told[-1] == WorkProgress(1, 1, 0.0)
