"""Request ids, request metrics and the access log, kept off the hot path."""

from __future__ import annotations

import contextvars
import itertools
import logging
import re
import secrets
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..metrics import Metrics

access_log = logging.getLogger("opentalking_core.access")

#: The id of the request that the current task works on; log records carry it as `request_id`.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

#: So many lines of the access log wait at most: whoever reads stderr may be slow, or have stopped.
_MOST_LINES = 10_000

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # nothing that could forge a line of a log


def target(scope: Mapping[str, Any]) -> str:
    """The path and query of a request, for a log: as they are sent, but printable ASCII whatever that was, and cut."""
    path, query = quote(scope["path"], errors="replace"), scope["query_string"]
    return (f"{path}?{quote(query, _PRINTABLE)}" if query else path)[:500]


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to log records; name it in a logging configuration to have it there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class Observability:
    """Falcon middleware: answers with the request's X-Request-ID, or with a new one, and counts and logs requests.

    Args:
        metrics: where requests are counted.
        log_requests: also write a line for each to the logger `opentalking_core.access`.
    """

    def __init__(self, metrics: Metrics, log_requests: bool) -> None:
        self._requests = metrics.requests
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._lines = _Lines() if log_requests else None

    async def process_request(self, req: Request, resp: Response) -> None:
        """Note the time, and give the request its id."""
        req.context.started = time.perf_counter()
        resp.set_header("X-Request-ID", self.identify(req.get_header("X-Request-ID")))

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Count the request."""
        self.finish(req.scope, req.uri_template or "unknown", resp.status_code, req.context.started)

    def identify(self, sent: str | None) -> str:
        """The id of the current task's request from now on: the one that it was `sent` with, or a new one."""
        own = sent if sent is not None and _CLIENT_ID.fullmatch(sent) else f"{self._prefix}-{next(self._numbers):x}"
        request_id.set(own)
        return own

    def finish(self, scope: Mapping[str, Any], route: str, status: int, started: float) -> None:
        """Count the current task's request, and log it: its answer is ready.

        Args:
            scope: the request, as ASGI has it.
            route: the template of its path.
            status: of the answer.
            started: `time.perf_counter()` when it came.
        """
        seconds = time.perf_counter() - started
        self._requests.observe(scope["method"], route, status, seconds)
        if self._lines is not None:
            self._lines.put(
                {
                    "request_id": request_id.get(),
                    "client": scope["client"][0] if scope.get("client") else "",
                    "method": scope["method"],
                    "path": target(scope),
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                }
            )


class MetricsPage:
    """/metrics"""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:
        """The metrics of this process, for Prometheus."""
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = self._metrics.exposition()

    on_head = on_get


class _Lines:
    """The access log, written by a thread of its own, so that no answer waits for a terminal or a pipe."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[dict[str, Any] | int] = SimpleQueue()
        self._left_out = 0
        threading.Thread(target=self._write, name="access-log", daemon=True).start()

    def put(self, line: dict[str, Any]) -> None:
        """Have a line written, or left out where too many wait. Called on the event loop."""
        # Once lines are left out, half of the places have to become free: if one were enough, then as long as too many
        # come there would be a gap, and a warning of it, around each line.
        if self._waiting.qsize() >= (_MOST_LINES // 2 if self._left_out else _MOST_LINES):
            self._left_out += 1
            return
        if self._left_out:
            self._waiting.put(self._left_out)
            self._left_out = 0
        self._waiting.put(line)

    def _write(self) -> None:
        while True:
            line = self._waiting.get()
            if isinstance(line, int):
                access_log.warning("%d requests have no line here: they came faster than lines could be written", line)
            else:
                access_log.info("%(method)s %(path)s %(status)s %(milliseconds)s ms", line, extra=line)
