"""What the service counts and times, for Prometheus."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Upper bounds in seconds: from a list out of memory to a picture that is given up.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one app in one process, in a registry of their own.

    Args:
        listed_avatars: called at each scrape for how many avatars are listed.
        running_uploads: likewise, for how many uploads are being taken in or worked on.
    """

    def __init__(self, listed_avatars: Callable[[], int], running_uploads: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "opentalking_request_seconds",
            "Requests answered, by the time until the answer was ready.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "opentalking_upload_stage_seconds",
            "Stages of an upload: receive, decode, detect, encode, store.",
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
