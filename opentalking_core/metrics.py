"""Metrics: what the service counts and times, for Prometheus."""

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
    from collections.abc import Iterator, Mapping

#: Upper bounds of the buckets: from a list that is in memory to a picture that takes too long.
_BUCKET_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestTimes(Collector):
    """A histogram of requests.

    The histogram of the library takes a lock and looks up its labels for each request, which takes 1.8 microseconds
    instead of 0.3. A list out of memory takes a few dozen microseconds in all.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], list[int]] = {}
        self._sums: dict[tuple[str, str, int], float] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. Call this on the event loop only."""
        key = method, route, status
        counts = self._counts.get(key)
        if counts is None:
            if method not in HTTPMethod.__members__:  # an invented method must not create a series: none is removed
                key = "other", route, status
            counts = self._counts.setdefault(key, [0] * (len(_BUCKET_SECONDS) + 1))
            self._sums.setdefault(key, 0.0)
        counts[bisect_left(_BUCKET_SECONDS, seconds)] += 1
        self._sums[key] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram, for the registry."""
        family = HistogramMetricFamily(
            "opentalking_request_seconds",
            "Requests answered, by the time until the answer was ready.",
            labels=("method", "route", "status"),
        )
        bounds = [*map(str, map(float, _BUCKET_SECONDS)), "+Inf"]
        for (method, route, status), counts in self._counts.items():
            buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
            family.add_metric((method, route, str(status)), buckets, self._sums[method, route, status])
        yield family


class Metrics:
    """The metrics of one app in one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestTimes()
        self.registry.register(self.requests)
        self._stages = Histogram(
            "opentalking_upload_stage_seconds",
            "Stages of an upload: receive, decode, encode, detect, store; video_decode, video_detect, video_make.",
            ("stage",),
            buckets=_BUCKET_SECONDS,
            registry=self.registry,
        )
        self._operations = Histogram(
            "opentalking_store_operation_seconds",
            "Operations of the bundle store: scan, files, open, create, replace, delete; outcome is ok or the name of"
            " the error.",
            ("operation", "outcome"),
            buckets=_BUCKET_SECONDS,
            registry=self.registry,
        )
        self.detections = Counter(
            "opentalking_detections",
            "Pictures that a mouth detector was asked about; outcome is found, none or failed.",
            ("detector", "outcome"),
            registry=self.registry,
        )
        self.avatars = Gauge("opentalking_avatars", "Avatars that are listed.", registry=self.registry)
        self.listeners = Gauge(
            "opentalking_event_listeners", "Clients that follow /avatars/events.", registry=self.registry
        )
        self.uploads = Gauge(
            "opentalking_uploads_running", "Uploads being taken in or worked on.", registry=self.registry
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage of an upload, whether it succeeds or not."""
        with self._stages.labels(name).time():
            yield

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Count stages that a worker has timed: the seconds of each, by its name."""
        for name, value in seconds.items():
            self._stages.labels(name).observe(value)

    @contextlib.contextmanager
    def store_operation(self, name: str) -> Iterator[None]:
        """Time one operation of the store, and count its outcome."""
        started, outcome = time.perf_counter(), "ok"
        try:
            yield
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            self._operations.labels(name, outcome).observe(time.perf_counter() - started)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
