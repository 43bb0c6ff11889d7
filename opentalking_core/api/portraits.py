"""The resources /avatars/custom and /avatars/check, which take a portrait."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .. import errors
from .avatar import ReservedId, ReservedIdResource, operations_of_reserved_id
from .avatar_list import SUMMARY_EXAMPLE
from .operation import NAME, Operation, image_form, json_response, links, schema_reference
from .upload import AvatarForm, read_avatar_form, read_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

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

Form = TypeVar("Form")


class _PortraitResource(ReservedIdResource, ABC, Generic[Form]):
    """Reads a form while it holds one of the places for uploads, and answers with a dataclass as JSON."""

    async def on_post(self, req: Request, resp: Response) -> None:
        with self._service.upload_slot():
            with self._service.metrics.stage("receive"):
                form = await self._read(req, resp)
            resp.media = dataclasses.asdict(await self._process(form))

    @abstractmethod
    async def _read(self, req: Request, resp: Response) -> Form:
        """Read the request's form."""

    @abstractmethod
    async def _process(self, form: Form) -> Any:
        """Return the dataclass with which to answer."""


class CustomAvatarsResource(_PortraitResource[AvatarForm]):
    """Creates an avatar from a portrait."""

    reserved_id: ClassVar[ReservedId] = "custom"
    operations: ClassVar[Mapping[str, Operation]] = operations_of_reserved_id(reserved_id) | {
        "POST": Operation(
            id="create_avatar",
            tag="portraits",
            summary="Create an avatar from a portrait",
            description="The avatar has the model type of its base. The portrait is scaled to the service's maximum "
            "size, and the mouth is located. If no mouth is found, the avatar is created without "
            "`metadata.animation`. The result of the portrait checks is in `metadata.portrait_checks`.",
            responses={
                200: json_response(schema_reference("AvatarSummary"), SUMMARY_EXAMPLE)
                | links("$response.body#/id", "get_avatar", "get_preview", "delete_avatar")
            },
            errors=(
                errors.InvalidRequest,
                errors.TooLarge,
                errors.Overloaded,
                errors.WorkersUnavailable,
                errors.NotFound,
                errors.StoreUnavailable,
                errors.StoreFull,
            ),
            form=image_form(**_FORM_FIELDS),
        )
    }

    async def _read(self, req: Request, resp: Response) -> AvatarForm:
        return await read_avatar_form(req, resp)

    async def _process(self, form: AvatarForm) -> Any:
        return await self._service.create(form.name, form.base_avatar_id, form.image)


class PortraitCheckResource(_PortraitResource[bytes]):
    """Checks whether a portrait can become an avatar, without storing anything."""

    reserved_id: ClassVar[ReservedId] = "check"
    operations: ClassVar[Mapping[str, Operation]] = operations_of_reserved_id(reserved_id) | {
        "POST": Operation(
            id="check_portrait",
            tag="portraits",
            summary="Check a portrait",
            description="Whether the portrait is fit to become an avatar; nothing is stored. A check that the mouth "
            "detector can't make says null, and does not fail the portrait.",
            responses={200: json_response(schema_reference("PortraitReport"), _REPORT_EXAMPLE)},
            errors=(errors.InvalidRequest, errors.TooLarge, errors.Overloaded, errors.WorkersUnavailable),
            form=image_form(),
        )
    }

    async def _read(self, req: Request, resp: Response) -> bytes:
        return await read_image(req, resp)

    async def _process(self, form: bytes) -> Any:
        return await self._service.check(form)
