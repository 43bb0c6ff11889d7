"""The resources /health and /healthz."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import falcon

from .operation import Operation, json_response, schema_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..service import AvatarService
    from .access import Access

_EXAMPLE = {
    "status": "ok",
    "store": {"plugin": "local_storage", "url": "file:///srv/avatars", "ok": True, "problem": None, "avatars": 2,
              "stale": False},
    "detectors": [{"plugin": "mediapipe_mouth", "ok": True, "problem": None}],
    "plugins": {"lips": ["ModuleNotFoundError: No module named 'torch'"]},
}  # fmt: skip


class HealthResource:
    """Answers 200 if avatars can be served, else 503.

    Where reading is protected, only readers see more than that. Where anything is protected, only clients with
    permission see what plugins report.
    """

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_health",
            tag="service",
            summary="Does it work?",
            description="Which store and detectors are in use, whether each works, and what other plugins report.",
            responses={
                200: json_response(schema_reference("Health"), _EXAMPLE),
                503: json_response(schema_reference("Health"), {**_EXAMPLE, "status": "unavailable"}),
            },
        )
    }

    def __init__(self, service: AvatarService, access: Access) -> None:
        self._service = service
        self._access = access

    async def on_get(self, req: Request, resp: Response) -> None:
        health = await self._service.health()
        if not self._access.sees_details(req):
            resp.media = {"status": health["status"]}
        elif not self._access.sees_plugins(req):
            resp.media = {field: value for field, value in health.items() if field != "plugins"}
        else:
            resp.media = health
        resp.status = falcon.HTTP_503 if health["status"] == "unavailable" else falcon.HTTP_200

    on_head = on_get


class HealthzResource(HealthResource):
    """Answers like /health at /healthz, the path that examples for Kubernetes use."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": dataclasses.replace(HealthResource.operations["GET"], id="get_healthz", alias_of="get_health")
    }
