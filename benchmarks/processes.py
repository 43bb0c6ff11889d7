"""The servers to compare, each in its own process on a free port of 127.0.0.1, and their resource usage."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How long a server may take to answer its first request, including a cold scan of 100,000 bundles.
PATIENCE = 600.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    started: float  # time.perf_counter() just before the program was started

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> httpx.Response:
        """Send a GET, which must succeed. Ask for no compression, like wrk: a compressed list has another tag."""
        headers = {"Accept-Encoding": "identity"}
        return httpx.get(self.url(path), headers=headers, timeout=PATIENCE, trust_env=False).raise_for_status()

    def check(self) -> None:
        """Raise an error if the server has ended by itself."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-2000:]}")

    def memory(self) -> float:
        """Return the resident MB of the server and its child processes; shared memory counts more than once."""
        return sum(map(_resident_megabytes, self._processes()))

    def process_memory(self) -> float:
        """Return the resident MB of the server's own process."""
        return _resident_megabytes(self.process.pid)

    def largest_child(self) -> float:
        """Return the resident MB of its largest child process."""
        return max(map(_resident_megabytes, self._processes()[1:]))

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server and its child processes so far."""
        ticks = 0
        for pid in self._processes():
            fields = _proc(pid, "stat").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:  # the list grows during the loop
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return found


def _resident_megabytes(pid: int) -> float:
    return int(_proc(pid, "statm").split()[1] or 0) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@contextlib.contextmanager
def service(avatars: Path) -> Iterator[Server]:
    """Run `opentalking-core serve` with default settings. The server may not answer yet."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("OPENTALKING_")}
    command = [str(Path(sys.executable).with_name("opentalking-core")), "serve", "--store", str(avatars), "--port"]
    with _running("service", command, avatars.parent / "service.log", env) as server:
        yield server


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Server]:
    """Run the bare handler, which answers with the files in `folder` from memory."""
    command = [sys.executable, "-m", "benchmarks.bare", str(folder)]
    with _running("bare", command, folder.parent / "bare.log") as server:
        wait_for(server, "/not-modified")
        yield server


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Server | None]:
    """Run one nginx worker that serves the files in `folder`, or yield None if nginx is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    port, config = _free_port(), folder.parent / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder.parent}/nginx-{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"{'user root; ' if os.geteuid() == 0 else ''}daemon off; worker_processes 1; pid {folder.parent}/nginx.pid;\n"
        f"events {{}}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; {temporary}\n"
        f"types {{ image/png png; }} default_type application/json;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    log = folder.parent / "nginx.log"
    with _running("nginx", [program, "-e", str(log), "-c", str(config)], log, port=port) as server:
        wait_for(server, "/manifest")
        yield server


@contextlib.contextmanager
def _running(
    name: str, command: list[str], log: Path, env: dict[str, str] | None = None, port: int | None = None
) -> Iterator[Server]:
    if port is None:
        port = _free_port()
        command = [*command, str(port)]
    with log.open("ab") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        server = Server(name, port, process, log, started)
        yield server
        server.check()
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(server: Server, path: str) -> float:
    """Repeat a request until the response is 200 or 304, and return the seconds since the program was started."""
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
        while time.perf_counter() - server.started < PATIENCE:
            server.check()
            with contextlib.suppress(httpx.TransportError):
                answer = client.get(server.url(path))
                if answer.status_code in (200, 304):
                    return time.perf_counter() - server.started
                if answer.status_code != 503:
                    raise RuntimeError(f"{server.name} answers {answer.status_code} to {path}: {answer.text[:500]}")
            time.sleep(0.005)
    raise RuntimeError(f"{server.name} did not answer {path} within {PATIENCE:g} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
