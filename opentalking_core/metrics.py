"""What the service counts and times, for Prometheus."""

from __future__ import annotations

import contextlib
import itertools
import time
from bisect import bisect_left
from http import HTTPMethod
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Upper bounds in seconds: from a list out of memory to a picture that is given up.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestTimes(Collector):
    """A histogram of requests, at a third of the cost of the library's own: it is counted in one thread only."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], list[int]] = {}
        self._sums: dict[tuple[str, str, int], float] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. Called on the event loop."""
        key = method, route, status
        counts = self._counts.get(key)
        if counts is None:
            if method not in HTTPMethod.__members__:  # whoever makes one up makes no series of it, which stay for ever
                key = "other", route, status
            counts = self._counts.setdefault(key, [0] * (len(_SECONDS) + 1))
            self._sums.setdefault(key, 0.0)
        counts[bisect_left(_SECONDS, seconds)] += 1
        self._sums[key] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(
            "opentalking_request_seconds",
            "Requests answered, by the time until the answer was ready.",
            labels=("method", "route", "status"),
        )
        bounds = [*map(str, map(float, _SECONDS)), "+Inf"]
        for (method, route, status), counts in self._counts.items():
            buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
            family.add_metric((method, route, str(status)), buckets, self._sums[method, route, status])
        yield family


class Metrics:
    """The metrics of one app in one process, in a registry of their own.

    Args:
        listed_avatars: called at each scrape for how many avatars are listed.
        running_uploads: likewise, for how many uploads are being taken in or worked on.
    """

    def __init__(self, listed_avatars: Callable[[], int], running_uploads: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestTimes()
        self.registry.register(self.requests)
        self._stages = Histogram(
            "opentalking_upload_stage_seconds",
            "Stages of an upload: receive, decode, encode and detect (at the same time if cores are spare), store.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._operations = Histogram(
            "opentalking_store_operation_seconds",
            "Operations of the bundle store: scan, open, create, delete; outcome is ok or the error's name.",
            ("operation", "outcome"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.detections = Counter(
            "opentalking_detections",
            "Pictures that a mouth detector was asked about; outcome is found, none or failed.",
            ("detector", "outcome"),
            registry=self.registry,
        )
        avatars = Gauge("opentalking_avatars", "Avatars that are listed.", registry=self.registry)
        avatars.set_function(listed_avatars)
        uploads = Gauge(
            "opentalking_uploads_running", "Uploads being taken in or worked on.", registry=self.registry
        )  # fmt: skip
        uploads.set_function(running_uploads)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage of an upload, whether it succeeds or not."""
        with self._stages.labels(name).time():
            yield

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Count stages that were timed elsewhere, by their names."""
        for name, value in seconds.items():
            self._stages.labels(name).observe(value)

    @contextlib.contextmanager
    def store_operation(self, name: str) -> Iterator[None]:
        """Time one operation of the store."""
        started, outcome = time.perf_counter(), "ok"
        try:
            yield
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            self._operations.labels(name, outcome).observe(time.perf_counter() - started)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
