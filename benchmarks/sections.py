"""The sections of `make bench`. Each section measures and yields rows for a table."""

from __future__ import annotations

import contextlib
import json
import operator
import time
from concurrent.futures import wait
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple

import httpx

from . import load
from .bundles import BASE, add_frames, make_bundles, portrait_jpeg, preview_png
from .processes import Server, bare, nginx, service, wait_for
from .report import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .report import Costs

SIZES = (10, 1_000, 10_000)
MANY = 100_000

#: A bundle of a video of five seconds, 25 frames a second.
FRAMES = 125
FRAME_BYTES = 200_000


class Effort(NamedTuple):
    """How long to measure."""

    rounds: int
    seconds: float  # each run of the load generator
    uploads: int  # by the single client, per round
    sizes: tuple[int, ...]
    many: int


FULL = Effort(11, 1, 6, SIZES, MANY)  # many short rounds, so that the median ignores other load
QUICK = Effort(1, 1, 5, (10, 1_000), 10_000)


class Request(NamedTuple):
    """A request to the service, and the request to compare it with."""

    what: str
    path: str
    bare: str
    conditional: bool = False
    target: float | None = None
    nginx_target: float | None = None


def list_(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure GET /avatars, 304 and GET manifest."""
    for count in effort.sizes:
        target = 0.8 if count >= 1_000 else None
        requests = [
            Request("GET /avatars", "/avatars", "/list", target=target),
            Request("304 on /avatars", "/avatars", "/list", True, 0.7),
            Request("GET manifest", f"/avatars/{BASE}", "/manifest"),
            Request("304 on manifest", f"/avatars/{BASE}", "/manifest", True),
        ]
        yield from _throughput(folder / str(count), count, requests, effort, costs)


def preview(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure GET preview."""
    for count in effort.sizes:
        requests = [
            Request("GET preview", f"/avatars/{BASE}/preview", "/preview.png", target=0.8, nginx_target=0.5),
            Request("304 on preview", f"/avatars/{BASE}/preview", "/preview.png", True),
        ]
        yield from _throughput(folder / str(count), count, requests, effort, costs)


def files(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure GET files/{path} against GET preview of the same bytes, and the throughput of bundle.zip."""
    avatars = make_bundles(folder / "avatars", 10, preview_png())
    add_frames(avatars / BASE, FRAMES, FRAME_BYTES)
    file, preview, archive = (f"/avatars/{BASE}/{path}" for path in ("files/preview.png", "preview", "bundle.zip"))
    rates: dict[str, list[load.Rate]] = {file: [], preview: [], archive: []}
    with service(avatars) as ours:
        wait_complete(ours, 10)
        size = len(ours.get(archive).content)
        for _ in range(effort.rounds):
            for path, measured in rates.items():
                measured.append(load.throughput(ours, path, effort.seconds))
    what = f"GET files/{{path}}, {len(preview_png()) // 1000} KB"
    yield _throughput_row(what, "preview", rates[file], rates[preview], 0.8)
    speed = median(rate.per_second for rate in rates[archive]) * size / 1e6
    yield Row(f"bundle.zip, {FRAMES} frames of {FRAME_BYTES // 1000} KB", speed, "MB/s", target=300, absolute=True)


def _throughput(folder: Path, count: int, requests: Sequence[Request], effort: Effort, costs: Costs) -> Iterator[Row]:
    folder.mkdir()
    avatars = make_bundles(folder / "avatars", count, preview_png())
    with service(avatars) as ours:
        wait_complete(ours, count)
        with compared(ours, folder) as others:
            for request in requests:
                yield from _compare(request, count, [ours, *others], effort, costs)


@contextlib.contextmanager
def compared(ours: Server, folder: Path) -> Iterator[list[Server]]:
    """Run the bare handler, and nginx if installed, with the same bytes as the service."""
    files = folder / "files"
    files.mkdir()
    (files / "list").write_bytes(ours.get("/avatars").content)
    (files / "manifest").write_bytes(ours.get(f"/avatars/{BASE}").content)
    (files / "preview.png").write_bytes(ours.get(f"/avatars/{BASE}/preview").content)
    with bare(files) as bare_server, nginx(files) as nginx_server:
        yield [bare_server, nginx_server] if nginx_server else [bare_server]


def _compare(request: Request, count: int, servers: list[Server], effort: Effort, costs: Costs) -> Iterator[Row]:
    """Run wrk against each server in several rounds, and yield the median of the ratios."""
    runs: dict[str, tuple[Server, str, tuple[str, ...]]] = {}
    for server in servers:
        path = request.path if server.name == "service" else request.bare
        headers: tuple[str, ...] = ()
        if request.conditional and server.name == "bare":
            path = "/not-modified"
        elif request.conditional:
            tag = server.get(path).headers.get("etag")
            if tag is None:
                yield Row(f"{request.what}, {count:,} bundles", None, "/s", "bare", None, target=request.target)
                return
            headers = (f"If-None-Match: {tag}",)
            conditional = {"If-None-Match": tag, "Accept-Encoding": "identity"}
            status = httpx.get(server.url(path), headers=conditional, trust_env=False).status_code
            assert status == 304, f"{server.name} answers {status} to its own entity tag"
        runs[server.name] = server, path, headers
    rates: dict[str, list[load.Rate]] = {name: [] for name in runs}
    for run in runs.values():
        load.throughput(run[0], run[1], 1, run[2])  # warm-up
    for _ in range(effort.rounds):
        for name, (server, path, headers) in runs.items():
            rates[name].append(load.throughput(server, path, effort.seconds, headers))
    if request.bare == "/list" and not request.conditional:
        for name, measured in rates.items():
            costs.setdefault(name, {})[count] = median(rate.cpu_microseconds for rate in measured)
    for other, target in (("bare", request.target), ("nginx", request.nginx_target)):
        if other in rates:
            what = f"{request.what}, {count:,} bundles"
            yield _throughput_row(what, other, rates["service"], rates[other], target)


def upload(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure POST /avatars/custom: the latency of one client, and the throughput of eight."""
    image, cores, seconds = portrait_jpeg(), load.cores(), 5 * effort.seconds
    avatars = make_bundles(folder / "avatars", 1_000, preview_png())
    with load.processes(cores) as workers, load.processes(1) as clients, service(avatars) as ours:
        wait_complete(ours, 1_000)
        wait([workers.submit(load.codec_rate, image, 2) for _ in range(cores)])  # loads the detectors
        clients.submit(load.uploads, ours.port, image, 8, 600, 5 * cores).result()
        latencies, sums, ratios = [], [], []
        for _ in range(effort.rounds):
            seen = clients.submit(load.uploads, ours.port, image, 1, 600, effort.uploads).result()
            steps = [workers.submit(load.codec, image).result() for _ in range(effort.uploads)]
            assert all(step.mouth_found for step in steps), "no mouth found: run `opentalking-core models fetch`"
            latencies.append(median(seen.latencies) * 1e3)
            sums.append(1e3 * median(step.decode + step.detect for step in steps))
            ratios.append(latencies[-1] / sums[-1])
        name = "decode + detect"
        yield Row("one upload", median(latencies), "ms", name, median(sums), median(ratios), 1.5, at_most=True)
        with_http, refused = [], 0
        without: dict[str, list[load.Rate]] = {"codecs on all cores": [], "the same, writing the files": []}
        for number in range(effort.rounds):
            before = ours.cpu_seconds()
            seen = clients.submit(load.uploads, ours.port, image, 8, seconds).result()
            cpu, count = ours.cpu_seconds() - before, len(seen.latencies)
            with_http.append(load.Rate(count / seen.seconds, cpu / count * 1e6))
            refused += seen.refused
            written = folder / str(number)
            written.mkdir()
            for (_, rates), place in zip(without.items(), (None, written), strict=True):
                done = [workers.submit(load.codec_rate, image, seconds, place) for _ in range(cores)]
                each = [rate.result() for rate in done]
                rates.append(load.Rate(sum(r.per_second for r in each), median(r.cpu_microseconds for r in each)))
        what = "uploads of 8 clients" + (f" ({refused} answered 503)" if refused else "")
        for (against, rates), target in zip(without.items(), (0.8, None), strict=True):
            yield _throughput_row(what, against, with_http, rates, target)


def video(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure POST /avatars/custom with a video, in turn with OpenCV's and MediaPipe's loop."""
    from . import videos  # imports MediaPipe and OpenCV

    path = folder / "video.mp4"
    videos.write_video(path)
    avatars = make_bundles(folder / "avatars", 10, preview_png())
    with load.processes(1) as workers, service(avatars) as ours:
        wait_complete(ours, 10)
        workers.submit(videos.opencv_loop, path).result()
        before = ours.process_memory()
        videos.post(ours.port, path)
        times, loops, cpu = [], [], []
        for _ in range(effort.rounds):
            started = ours.cpu_seconds()
            times.append(videos.post(ours.port, path))
            cpu.append(ours.cpu_seconds() - started)
            loops.append(workers.submit(videos.opencv_loop, path).result())
        ratio = median(one / other for one, other in zip(times, loops, strict=True))
        duration = videos.FRAMES / videos.FPS
        what = f"a video of {videos.FRAMES} frames, {videos.WIDTH}x{videos.HEIGHT}"
        loop = "OpenCV, MediaPipe and JPEG in a loop"
        yield Row(what, median(times), "s", loop, median(loops), ratio, 0.5, at_most=True)
        yield Row(what, median(times), "s", "its duration", duration, median(times) / duration, 1.0, at_most=True)
        yield Row("CPU time of this", median(cpu), "s")
        yield Row("memory of the largest worker", ours.largest_child(), "MB", target=600.0, at_most=True, absolute=True)
        grown = ours.process_memory() - before
        yield Row("growth of the API process", grown, "MB", target=32.0, at_most=True, absolute=True)


def _throughput_row(
    what: str, against: str, measured: Sequence[load.Rate], baseline: Sequence[load.Rate], target: float | None
) -> Row:
    pairs = list(zip(measured, baseline, strict=True))
    return Row(
        what,
        median(one.per_second for one in measured),
        "/s",
        against,
        median(two.per_second for two in baseline),
        median(one.per_second / max(two.per_second, 0.01) for one, two in pairs),
        target,
        by_cpu=median(two.cpu_microseconds / max(one.cpu_microseconds, 0.01) for one, two in pairs),
    )


def latency(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure GET /avatars at 100 requests per second, alone and while eight clients upload."""
    image, seconds = portrait_jpeg(), 20 * effort.seconds
    avatars = make_bundles(folder / "avatars", 1_000, preview_png())
    with load.processes(3) as clients, service(avatars) as ours:
        wait_complete(ours, 1_000)
        with compared(ours, folder) as others:
            warm_up = clients.submit(load.uploads, ours.port, image, 8, 600, 10)
            gets = [clients.submit(load.paced_gets, ours.port, "/avatars", 1) for _ in range(2)]
            assert warm_up.result().latencies
            assert all(run.result() for run in gets)
            for busy in (False, True):
                uploads = clients.submit(load.uploads, ours.port, image, 8, seconds + 3) if busy else None
                time.sleep(2 if busy else 0)  # until the queue is full
                runs = [(ours.port, "/avatars"), (others[0].port, "/list")]
                both = [clients.submit(load.paced_gets, *run, seconds) for run in runs]
                measured, baseline = ([1e3 * value for value in run.result()] for run in both)
                done = uploads.result() if uploads else None
                when = f"while 8 clients upload {len(done.latencies) / done.seconds:.1f} /s" if done else "idle"
                for percent, target in ((50, None), (99, 25.0 if busy else None)):
                    one, two = (quantiles(values, n=100)[percent - 1] for values in (measured, baseline))
                    what = f"p{percent} of GET /avatars, {when}"
                    yield Row(what, one, "ms", "bare, meanwhile", two, one / two, target, at_most=True, absolute=True)


def startup(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure the time to the first responses, and the memory before the first detection, with 1,000 bundles."""
    avatars = make_bundles(folder / "avatars", 1_000, preview_png())
    files = folder / "files"
    files.mkdir()
    first, complete, memory, bare_start, bare_memory = [], [], [], [], []
    for _ in range(effort.rounds + 1):
        with service(avatars) as ours:
            first.append(wait_for(ours, "/avatars"))
            complete.append(wait_complete(ours, 1_000))
            for path in ("/avatars", f"/avatars/{BASE}", f"/avatars/{BASE}/preview", "/health"):
                ours.get(path)
            memory.append(ours.memory())
        (files / "manifest").touch()
        with bare(files) as other:
            bare_start.append(wait_for(other, "/not-modified"))
            bare_memory.append(other.memory())
    for what, measured, unit, baseline, target in (
        ("first 200 on GET /avatars", first, "s", bare_start, 1.0),
        ("GET /avatars lists all 1,000", complete, "s", bare_start, None),
        ("memory before the first detection", memory, "MB", bare_memory, 150.0),
    ):
        one, two = median(measured[1:]), median(baseline[1:])  # the first start only warms up the file cache
        yield Row(what, one, unit, "bare", two, one / two, target, at_most=True, absolute=True)


def scan(folder: Path, effort: Effort, costs: Costs) -> Iterator[Row]:
    """Measure a start with 100,000 bundles."""
    count = effort.many
    avatars = make_bundles(folder / "avatars", count, preview_png())
    with service(avatars) as ours:
        first = wait_for(ours, "/health")
        seconds = wait_complete(ours, count)
        yield Row(f"/health answers, {count:,} bundles", first, "s")
        yield Row(f"first scan of {count:,} bundles", seconds, "s", target=30.0, at_most=True, absolute=True)
        yield Row("memory after it", ours.memory(), "MB", target=300.0, at_most=True, absolute=True)
        with compared(ours, folder) as others:
            request = Request("GET /avatars", "/avatars", "/list", target=0.8)
            yield from _compare(request, count, [ours, *others], effort, costs)
        yield Row("memory after these", ours.memory(), "MB", target=300.0, at_most=True, absolute=True)


def wait_complete(server: Server, count: int) -> float:
    """Wait until GET /avatars lists `count` avatars, and return the seconds since the program was started."""
    wait_for(server, "/avatars")
    while True:
        answer = server.get("/avatars").content
        elapsed = time.perf_counter() - server.started
        if answer.count(b'"model_type"') >= count:
            assert len({*map(operator.itemgetter("id"), json.loads(answer))}) == count
            return elapsed
        if elapsed > 600:
            raise RuntimeError(f"after {elapsed:.0f} s GET /avatars lists {answer.count(b'model_type')} of {count}")
        time.sleep(0.02 if count <= 10_000 else 0.5)


#: name -> section, whether it needs wrk
SECTIONS = {
    "list": (list_, True),
    "preview": (preview, True),
    "files": (files, True),
    "upload": (upload, False),
    "video": (video, False),
    "latency": (latency, False),
    "startup": (startup, False),
    "scan": (scan, True),
}
