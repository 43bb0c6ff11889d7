"""Load generators: wrk for throughput, and functions that run in separate client processes."""

from __future__ import annotations

import functools
import http.client
import multiprocessing.util
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from opentalking_core.host.host import PluginHost
from opentalking_core.portraits.picture import decode_portrait
from opentalking_core.portraits.png_writer import encode_png

from .bundles import BASE

if TYPE_CHECKING:
    from .processes import Server


class Rate(NamedTuple):
    """The result of one run."""

    per_second: float
    cpu_microseconds: float  # per request of the server, all its processes; or per picture


def throughput(server: Server, path: str, seconds: float, headers: tuple[str, ...] = ()) -> Rate:
    """Measure requests per second over 8 keep-alive connections to one URL."""
    program = shutil.which("wrk")
    assert program is not None
    options = [option for header in headers for option in ("-H", header)]
    before = server.cpu_seconds()
    command = [program, "-t1", "-c8", f"-d{max(1, round(seconds))}s", "--timeout", "60s", *options, server.url(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu = server.cpu_seconds() - before
    if "Non-2xx or 3xx" in output:
        raise RuntimeError(f"{server.name} failed under load:\n{output}")
    requests = int(re.findall(r"(\d+) requests in", output)[0])
    return Rate(float(re.findall(r"Requests/sec: +([\d.]+)", output)[0]), cpu / max(1, requests) * 1e6)


def processes(count: int) -> ProcessPoolExecutor:
    """Return processes for the functions below, which inherit nothing from this process."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_quiet)


def _quiet() -> None:
    """Discard standard error, to which MediaPipe's libraries write. Errors come back as exceptions."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def paced_gets(port: int, path: str, seconds: float, interval: float = 0.01) -> list[float]:
    """Send GET requests at fixed moments over one connection.

    Returns:
        The seconds from each planned moment to the answer's last byte; so one slow answer also shows in the ones that
        had to wait for it.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    latencies = []
    start = time.perf_counter()
    for number in range(round(seconds / interval)):
        planned = start + number * interval
        if time.perf_counter() - start > 2 * seconds:  # too far behind schedule
            break
        time.sleep(max(0.0, planned - time.perf_counter()))
        connection.request("GET", path)
        _read(connection, 200)
        latencies.append(time.perf_counter() - planned)
    connection.close()
    return latencies


class Uploads(NamedTuple):
    """What uploading clients observed."""

    seconds: float
    latencies: list[float]
    refused: int  # responses of 503, because the queue was full


def uploads(port: int, image: bytes, clients: int, seconds: float, at_most: int | None = None) -> Uploads:
    """Send POST /avatars/custom from `clients` threads. Each thread uploads continuously over its own connection."""
    latencies: list[float] = []
    refused: list[float] = []
    form = _form(image)
    start = time.perf_counter()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() - start < seconds and (at_most is None or len(latencies) < at_most):
            sent = time.perf_counter()
            connection.request("POST", "/avatars/custom", *form)
            answered = _read(connection, 200, 503)
            (latencies if answered == 200 else refused).append(time.perf_counter() - sent)
            if answered == 503:
                time.sleep(0.1)
        connection.close()

    with ThreadPoolExecutor(clients) as threads:
        for done in [threads.submit(client) for _ in range(clients)]:
            done.result()
    return Uploads(time.perf_counter() - start, latencies, len(refused))


def _form(image: bytes) -> tuple[bytes, dict[str, str]]:
    def part(name: str, rest: str, data: bytes) -> bytes:
        return f'--limit\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + data + b"\r\n"

    fields = part("name", "", b"Benchmark") + part("base_avatar_id", "", BASE.encode())
    file = part("image", '; filename="portrait.jpg"\r\nContent-Type: image/jpeg', image)
    return fields + file + b"--limit--\r\n", {"Content-Type": "multipart/form-data; boundary=limit"}


def _read(connection: http.client.HTTPConnection, *expected: int) -> int:
    response = connection.getresponse()
    body = response.read()
    if response.status not in expected:
        raise RuntimeError(f"status {response.status}: {body[:500]!r}")
    return response.status


class Codec(NamedTuple):
    """Seconds of each step of processing an uploaded picture, without the service."""

    decode: float
    detect: float
    encode: float
    mouth_found: bool


def codec(image: bytes) -> Codec:
    """Process an uploaded picture once. The first call in a process also loads the detector."""
    host = _host()
    start = time.perf_counter()
    pixels = decode_portrait(image, 1080, 1920)
    decoded = time.perf_counter()
    found = any(host.detect_mouth(info.name, pixels) is not None for info in host.detectors())
    detected = time.perf_counter()
    encode_png(pixels)
    return Codec(decoded - start, detected - decoded, time.perf_counter() - detected, found)


def codec_rate(image: bytes, seconds: float, folder: Path | None = None) -> Rate:
    """Measure how often per second one process does that work, and the CPU time it takes.

    Args:
        image: an uploaded picture.
        seconds: how long to do it.
        folder: where to write what an upload writes of the picture, if anywhere: three files, flushed.
    """
    codec(image)
    png = encode_png(decode_portrait(image, 1080, 1920))
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        codec(image)
        for copy in range(3 if folder else 0):
            with Path(f"{folder}/{os.getpid()}-{count}-{copy}.png").open("xb") as file:
                file.write(png)
                os.fsync(file)
        count += 1
    return Rate(count / (time.perf_counter() - start), (time.process_time() - cpu) / count * 1e6)


@functools.cache
def _host() -> PluginHost:
    host = PluginHost().load()
    host.startup()
    multiprocessing.util.Finalize(host, host.shutdown, exitpriority=10)  # atexit does not run in these processes
    return host


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
