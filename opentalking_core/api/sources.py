"""The resources /avatars/custom and /avatars/check, which take a portrait or a video."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .. import errors
from ..scratch import scratch_folder
from .avatar import ReservedId, ReservedIdResource, operations_of_reserved_id
from .avatar_list import SUMMARY_EXAMPLE
from .operation import NAME, Operation, json_response, links, schema_reference, source_form
from .progress import EVENT_STREAM, progress_events, wants_events, while_client_waits
from .upload import AvatarForm, SourceForm, read_avatar_form, read_source_form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from .progress import OnProgress
    from .upload import NewFolder

_NOT_BLANK = r"[^\s\x00-\x1f\x7f-\x9f]"

_REPORT_EXAMPLE = {
    "passed": False,
    "checks": [
        {"name": "face_found", "passed": True, "value": True, "limit": {"equals": True}, "unit": None,
         "message": "A face was found."},
        {"name": "face_width", "passed": False, "value": 72, "limit": {"min": 84}, "unit": "px",
         "message": "The face is 72 pixels wide, less than 84: use a picture with more pixels or come closer."},
        {"name": "yaw", "passed": None, "value": None, "limit": {"min": -15, "max": 15}, "unit": "degrees",
         "message": "Not measured."},
    ],
}  # fmt: skip

_FORM_FIELDS: dict[str, dict[str, Any]] = {
    "name": NAME,
    "base_avatar_id": {
        "type": "string",
        "minLength": 1,
        "pattern": _NOT_BLANK,
        "example": "demo-wav2lip",
        "description": "The avatar to take as a template; its model type must be one that a portrait can drive, such "
        "as wav2lip.",
    },
}

Form = TypeVar("Form", bound=SourceForm)


class _SourceResource(ReservedIdResource, ABC, Generic[Form]):
    """Reads a form while it holds one of the places for uploads, and answers with a dataclass.

    The answer is JSON, or a stream of events for a client that asks for one.
    """

    result_event: ClassVar[str]  #: the name of the event with the answer

    async def on_post(self, req: Request, resp: Response) -> None:
        async with contextlib.AsyncExitStack() as resources:
            resources.enter_context(self._service.upload_slot())
            with self._service.metrics.stage("receive"):
                form = await self._read(req, resp, lambda: resources.enter_async_context(scratch_folder()))
            work = functools.partial(self._process, form)
            if wants_events(req):
                resp.set_header("Cache-Control", "no-cache")
                resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
                resp.sse = progress_events(work, self.result_event, form.size, resources.pop_all())
            elif isinstance(form.source, Path):
                resp.media = dataclasses.asdict(await while_client_waits(req, work))
            else:  # a portrait takes less time than the new worker that a cancelled one needs
                resp.media = dataclasses.asdict(await work(None))

    @abstractmethod
    async def _read(self, req: Request, resp: Response, new_folder: NewFolder) -> Form:
        """Read the request's form."""

    @abstractmethod
    async def _process(self, form: Form, on_progress: OnProgress | None) -> Any:
        """Return the dataclass with which to answer."""


def _with_events(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response that can be a stream of events, too."""
    return response | {"content": {**response["content"], EVENT_STREAM: {}}}


class CustomAvatarsResource(_SourceResource[AvatarForm]):
    """Creates an avatar from a portrait or a video."""

    result_event = "avatar"

    reserved_id: ClassVar[ReservedId] = "custom"
    operations: ClassVar[Mapping[str, Operation]] = operations_of_reserved_id(reserved_id) | {
        "POST": Operation(
            id="create_avatar",
            tag="portraits",
            summary="Create an avatar from a portrait or a video",
            description="The avatar has the model type of its base. The pictures are scaled to the service's maximum "
            "size, and the mouth is located; in a video, in each frame. If no mouth is found, the avatar is created "
            "without `metadata.animation`. The result of the portrait checks is in `metadata.portrait_checks`. "
            "With `Accept: text/event-stream` the response is a stream of events: `received`, `progress` "
            "(`frames_done`, `frames`, `seconds_left`), and at last `avatar` with the summary, or `error` with "
            "`status` and `detail`. If the client closes the connection, the work ends and nothing is stored.",
            responses={
                200: _with_events(json_response(schema_reference("AvatarSummary"), SUMMARY_EXAMPLE))
                | links("$response.body#/id", "get_avatar", "get_preview", "delete_avatar")
            },
            errors=(
                errors.InvalidRequest,
                errors.TooLarge,
                errors.Overloaded,
                errors.WorkersUnavailable,
                errors.NotFound,
                errors.NotSupported,
                errors.StoreUnavailable,
                errors.StoreFull,
            ),
            form=source_form(**_FORM_FIELDS),
        )
    }

    async def _read(self, req: Request, resp: Response, new_folder: NewFolder) -> AvatarForm:
        return await read_avatar_form(req, resp, new_folder)

    async def _process(self, form: AvatarForm, on_progress: OnProgress | None) -> Any:
        return await self._service.create(form.name, form.base_avatar_id, form.source, on_progress)


class SourceCheckResource(_SourceResource[SourceForm]):
    """Checks whether a portrait or a video can become an avatar, without storing anything."""

    result_event = "report"

    reserved_id: ClassVar[ReservedId] = "check"
    operations: ClassVar[Mapping[str, Operation]] = operations_of_reserved_id(reserved_id) | {
        "POST": Operation(
            id="check_portrait",
            tag="portraits",
            summary="Check a portrait or a video",
            description="Whether the portrait or the video is fit to become an avatar; nothing is stored. A check that "
            "the mouth detector can't make says null, and fails nothing. With `Accept: text/event-stream` the response "
            "is a stream of events as for POST /avatars/custom, and the report comes as the event `report`.",
            responses={200: _with_events(json_response(schema_reference("PortraitReport"), _REPORT_EXAMPLE))},
            errors=(
                errors.InvalidRequest,
                errors.TooLarge,
                errors.Overloaded,
                errors.WorkersUnavailable,
                errors.StoreFull,
            ),
            form=source_form(),
        )
    }

    async def _read(self, req: Request, resp: Response, new_folder: NewFolder) -> SourceForm:
        return await read_source_form(req, resp, new_folder)

    async def _process(self, form: SourceForm, on_progress: OnProgress | None) -> Any:
        return await self._service.check(form.source, on_progress)
