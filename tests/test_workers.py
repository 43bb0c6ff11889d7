"""Worker processes that die, hang, leak or are killed, and servers that are killed before their workers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pebble
import pytest

from opentalking_core.errors import WorkersUnavailable
from opentalking_core.testing.running import running_service
from opentalking_core.workers.pool import MAX_START_SECONDS, WorkerPool
from opentalking_core.workers.runner import WorkerCrashed
from opentalking_core.workers.threads import ThreadRunner
from opentalking_core.workers.worker_process import MAX_WORKER_MEMORY_BYTES, WORKER_NICENESS

from .helpers.processes import is_alive
from .helpers.stores import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextlib.asynccontextmanager
async def worker_pool(
    workers: int = 2, time_limit: float = 20, begin_limit: float = MAX_START_SECONDS
) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(workers, time_limit, begin_limit)
    try:
        yield pool
    finally:
        await pool.close()


async def worker_pids(pool: WorkerPool) -> set[int]:
    return set(await asyncio.gather(*(pool.run(_pid_after, 0.2) for _ in range(2))))


def _pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _wait_for_permission(folder: Path) -> int:
    """Announce this worker's pid by a file of that name, and wait for the file `go`."""
    (folder / str(os.getpid())).touch()
    wait_until((folder / "go").exists)
    return os.getpid()


def _announced_pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def _allocate(size: int) -> int:
    return len(bytearray(size))


def test_idle_workers_are_replaced_after_kill() -> None:
    """A system that is out of memory kills processes like this."""

    async def main() -> None:
        async with worker_pool() as pool:
            for _ in range(2):
                before = await worker_pids(pool)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                assert not before & await worker_pids(pool)

    asyncio.run(main())


def test_call_succeeds_at_once_though_all_idle_workers_were_killed() -> None:
    async def scenario() -> int:
        async with worker_pool(workers=3) as pool:
            pids = set(await asyncio.gather(*(pool.run(_pid_after, 0.4) for _ in range(3))))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, pids)))
            return await pool.run(os.getpid)

    assert asyncio.run(scenario())


def test_worker_killed_during_call_fails_that_call_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with worker_pool() as pool:
            calls = [asyncio.create_task(pool.run(_wait_for_permission, tmp_path)) for _ in range(2)]
            await asyncio.to_thread(wait_until, lambda: len(_announced_pids(tmp_path)) == 2)
            first, second = _announced_pids(tmp_path)
            os.kill(first, signal.SIGKILL)
            await asyncio.to_thread((tmp_path / "go").touch)
            crashed, finished = sorted(await asyncio.gather(*calls, return_exceptions=True), key=str, reverse=True)
            assert isinstance(crashed, WorkerCrashed)
            assert finished == second
            assert await pool.run(os.getpid)

    asyncio.run(main())


def test_stopped_workers_are_replaced_and_their_calls_repeated() -> None:
    """A debugger stops processes like this, and so does a system that freezes containers."""

    async def main() -> None:
        async with worker_pool(time_limit=2, begin_limit=1) as pool:
            stopped = await worker_pids(pool)
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            assert not stopped & await worker_pids(pool)

    asyncio.run(main())


def refuse_to_start(*args: object, **kwargs: object) -> None:
    """Fail as pebble's `ProcessPool.schedule` does if the system allows no more processes."""
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_pool_reports_workers_unavailable_if_none_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with worker_pool() as pool:
            with monkeypatch.context() as patched:
                patched.setattr(pebble.ProcessPool, "schedule", refuse_to_start)
                with pytest.raises(WorkersUnavailable, match="temporarily unavailable"):
                    await pool.run(os.getpid)
            assert await pool.run(os.getpid)  # the pool has recovered
        with pytest.raises(WorkersUnavailable, match="ending"):
            await pool.run(os.getpid)

    asyncio.run(main())


def test_upload_gets_503_with_retry_after_if_no_worker_can_start(
    store_url: str, base: str, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("a.jpg", portrait)}
    with running_service(store_url, portrait_workers=1) as service:
        with monkeypatch.context() as patched:
            patched.setattr(pebble.ProcessPool, "schedule", refuse_to_start)
            refused = service.post("/avatars/custom", files=form)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "can't be started" in refused.json()["detail"]
        assert service.post("/avatars/custom", files=form).status_code == 200


def _leave_note(file: Path, seconds: float) -> None:
    multiprocessing.util.Finalize(None, file.touch, exitpriority=10)
    time.sleep(seconds)


@pytest.mark.parametrize("during_call", [False, True])
def test_worker_runs_finalizers_unless_ended_during_call(tmp_path: Path, during_call: bool) -> None:
    async def main() -> None:
        async with worker_pool(1, time_limit=1) as pool:
            with pytest.raises(TimeoutError) if during_call else contextlib.nullcontext():
                await pool.run(_leave_note, tmp_path / "note", 30 if during_call else 0)

    asyncio.run(main())
    assert (tmp_path / "note").exists() is not during_call


def test_worker_yields_the_processor_to_the_server() -> None:
    async def main() -> None:
        async with worker_pool(1) as pool:
            assert await pool.run(os.nice, 0) == min(os.nice(0) + WORKER_NICENESS, 19)

    asyncio.run(main())


def test_thread_runner_runs_calls_beside_hanging_ones() -> None:
    ended = threading.Event()

    async def main() -> None:
        runner = ThreadRunner(time_limit=0.3)
        hanging = [runner.run(ended.wait) for _ in range(2 * (os.cpu_count() or 1) + 1)]
        assert {type(error) for error in await asyncio.gather(*hanging, return_exceptions=True)} == {TimeoutError}
        assert await ThreadRunner(time_limit=20).run(os.getpid) == os.getpid()

    try:
        asyncio.run(main())
    finally:
        ended.set()


def test_worker_is_replaced_if_call_exceeds_memory_limit() -> None:
    async def main() -> None:
        async with worker_pool(1) as pool:
            before = await pool.run(os.getpid)
            assert await pool.run(_allocate, MAX_WORKER_MEMORY_BYTES // 16)
            with pytest.raises(WorkerCrashed):
                await pool.run(_allocate, MAX_WORKER_MEMORY_BYTES)
            assert await pool.run(os.getpid) != before

    asyncio.run(main())


SERVER = """
import asyncio, os, sys, time
from opentalking_core.workers.pool import WorkerPool

def hang(file):
    with open(file, "w") as opened:
        opened.write(f"{os.getpid()} {os.getppid()}\\n")
    time.sleep(3600)

if __name__ == "__main__":
    asyncio.run(WorkerPool(1, 3600).run(hang, sys.argv[1]))
"""


def test_worker_and_fork_server_end_with_killed_server(tmp_path: Path) -> None:
    script, pids = tmp_path / "server.py", tmp_path / "pids"
    script.write_text(SERVER)
    with subprocess.Popen([sys.executable, script, pids]) as server:
        wait_until(lambda: server.poll() is not None or (pids.exists() and pids.read_text().endswith("\n")), 60)
        assert server.poll() is None
        worker, fork_server = map(int, pids.read_text().split())
        assert is_alive(worker)
        assert is_alive(fork_server)
        server.kill()
    wait_until(lambda: not (is_alive(worker) or is_alive(fork_server)))


DETECTOR = """
import os, pathlib, time
from opentalking_core import MouthLandmarks, hookimpl

LIPS = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))

@hookimpl
def detect_mouth(image):
    pathlib.Path({folder!r}, str(os.getpid())).touch()
    time.sleep(0.05)
    return MouthLandmarks(LIPS, LIPS)
"""


def test_uploads_succeed_while_workers_are_killed(store_url: str, base: str, portrait: bytes, tmp_path: Path) -> None:
    """Send 30 uploads. Every 0.4 s kill one of the workers that have begun a detection since the last kill."""
    (seen := tmp_path / "seen").mkdir()
    detector = tmp_path / "slow.py"
    detector.write_text(textwrap.dedent(DETECTOR).format(folder=str(seen)))
    form = {"name": (None, "Alice"), "base_avatar_id": (None, base), "image": ("a.jpg", portrait)}
    killed: set[int] = set()
    done = threading.Event()

    def kill_workers() -> None:
        while not done.wait(0.4):
            for pid in {int(path.name) for path in seen.iterdir()} - killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                break

    with running_service(store_url, plugin_files=[detector], portrait_workers=2, portrait_time_limit=10) as service:
        killer = threading.Thread(target=kill_workers)
        killer.start()
        try:
            with ThreadPoolExecutor(4) as clients:
                answers = list(clients.map(lambda _: service.post("/avatars/custom", files=form), range(30)))
        finally:
            done.set()
            killer.join()
        assert [answer.status_code for answer in answers] == [200] * 30
        assert len(service.get("/avatars").json()) == 31
        assert service.post("/avatars/custom", files=form).status_code == 200
    assert len(killed) >= 2
