"""Request ids, request metrics and the access log."""

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..metrics import Metrics

access_log = logging.getLogger("opentalking_core.access")

#: The id of the request that the current task answers; log records carry it as `request_id`.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

#: Lines of the access log that may wait to be written: the reader of stderr may be slow, or may have stopped.
_MAX_QUEUED_LINES = 10_000

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # no character that could forge a line in a log


def target(scope: Mapping[str, Any]) -> str:
    """Return the path and query of a request for a log: percent-encoded to printable ASCII, and truncated."""
    path, query = quote(scope["path"], errors="replace"), scope["query_string"]
    return (f"{path}?{quote(query, _PRINTABLE)}" if query else path)[:500]


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to log records, for use in a logging configuration. Drops no record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class Observability:
    """Falcon middleware that returns the request's X-Request-ID or a new one, counts requests and logs them.

    Args:
        metrics: where requests are counted.
        log_requests: whether to write a line for each request to the logger `opentalking_core.access`.
    """

    def __init__(self, metrics: Metrics, log_requests: bool) -> None:
        self._requests = metrics.requests
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._writer = _AccessLogWriter() if log_requests else None

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.started = time.perf_counter()
        resp.set_header("X-Request-ID", self.identify(req.get_header("X-Request-ID")))

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        self.finish(req.scope, req.uri_template or "unknown", resp.status_code, req.context.started)

    def identify(self, sent: str | None) -> str:
        """Set and return the id of the current task's request: the id that was `sent` if it is valid, or a new one."""
        own = sent if sent is not None and _CLIENT_ID.fullmatch(sent) else f"{self._prefix}-{next(self._numbers):x}"
        request_id.set(own)
        return own

    def finish(self, scope: Mapping[str, Any], route: str, status: int, started: float) -> None:
        """Count and log the current task's request when the response is ready.

        Args:
            scope: the ASGI scope of the request.
            route: the template of the request's path.
            status: of the response.
            started: `time.perf_counter()` when the request arrived.
        """
        seconds = time.perf_counter() - started
        self._requests.observe(scope["method"], route, status, seconds)
        if self._writer is not None:
            self._writer.write(
                {
                    "request_id": request_id.get(),
                    "client": scope["client"][0] if scope.get("client") else "",
                    "method": scope["method"],
                    "path": target(scope),
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                }
            )


class _AccessLogWriter:
    """Writes the access log in a thread of its own, so that no response waits for a terminal or a pipe.

    `logging.handlers.QueueHandler` would build and format each record on the event loop, which takes about 12 µs a
    request instead of 0.3 µs, and would report a full queue as an error instead of counting the dropped lines.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[dict[str, Any] | int] = SimpleQueue()
        self._dropped = 0
        threading.Thread(target=self._run, name="access-log", daemon=True).start()

    def write(self, line: dict[str, Any]) -> None:
        """Queue a line, or drop it if too many lines wait. Called on the event loop."""
        # Once lines are dropped, half of the queue has to drain first. Otherwise, under constant overload, a single
        # free place would alternate with a gap, and each line with a warning.
        if self._queue.qsize() >= (_MAX_QUEUED_LINES // 2 if self._dropped else _MAX_QUEUED_LINES):
            self._dropped += 1
            return
        if self._dropped:
            self._queue.put(self._dropped)
            self._dropped = 0
        self._queue.put(line)

    def _run(self) -> None:
        while True:
            line = self._queue.get()
            if isinstance(line, int):
                access_log.warning("dropped the lines of %d requests: they came faster than lines can be written", line)
            else:
                access_log.info("%(method)s %(path)s %(status)s %(milliseconds)s ms", line, extra=line)
