"""The resource /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CONTENT_TYPE_LATEST

from .operation import Operation, file_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..metrics import Metrics


class MetricsResource:
    """Answers with the metrics of this process in Prometheus' text format."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_metrics",
            tag="service",
            summary="Metrics for Prometheus",
            description="The metrics of the process that answers.",
            responses={200: file_response(("text/plain",))},
        )
    }

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = self._metrics.exposition()

    on_head = on_get
