"""The resource /avatars/{avatar_id}, also for ids that are paths with a meaning of their own."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import falcon

from .. import errors
from .conditional import REVALIDATE
from .files import answer_stored_file
from .merge_patch import BODY, WRONG_TYPE_DETAIL, expected_etags, read_patch
from .operation import (
    FILE_HEADERS,
    READING_HEADERS,
    Operation,
    error_response,
    json_response,
    not_modified_response,
    range_responses,
    schema_reference,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..service import AvatarService

ReservedId = Literal["custom", "check", "events"]

#: Words after /avatars/ that are paths of their own. An avatar may have such an id all the same.
RESERVED_IDS: tuple[ReservedId, ...] = get_args(ReservedId)

_MANIFEST_EXAMPLE = {
    "id": "demo-avatar", "name": "Demo", "model_type": "mock", "fps": 25, "sample_rate": 16000, "width": 512,
    "height": 512, "version": "1.0", "metadata": {},
}  # fmt: skip

_DELETED = {"type": "object", "required": ["deleted"], "properties": {"deleted": {"const": True}}}


class AvatarResource:
    """Answers with an avatar's manifest.json as it is stored; changes and deletes custom avatars."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_avatar",
            tag="avatars",
            summary="Read an avatar's manifest",
            description="The complete manifest.json, as it is stored.",
            responses={
                200: json_response(schema_reference("AvatarManifest"), _MANIFEST_EXAMPLE, FILE_HEADERS),
                304: not_modified_response(),
                **range_responses("application/json"),
            },
            errors=(errors.NotFound, errors.StoreUnavailable),
            request_headers=READING_HEADERS,
        ),
        "PATCH": Operation(
            id="change_avatar",
            tag="avatars",
            summary="Change a custom avatar's name and metadata",
            description="A JSON merge patch (RFC 7396) on `name` and `metadata`. Without `If-Match`, the patch is"
            " applied to the present version. The answer is the new manifest, as it is stored. `metadata.animation`"
            " takes the outlines of the mouth: the centre and the radii are computed from them, and"
            " `metadata.mouth_polygon_source` becomes `manual`.",
            responses={
                200: json_response(schema_reference("AvatarManifest"), _MANIFEST_EXAMPLE, ("ETag", "Cache-Control")),
                415: error_response(
                    "The body has another media type.",
                    {"MediaType": WRONG_TYPE_DETAIL.format("'text/plain'")},
                    ("Accept-Patch",),
                ),
            },
            errors=(
                errors.InvalidRequest,
                errors.TooLarge,
                errors.NotFound,
                errors.NotChangeable,
                errors.ManifestChanged,
                errors.NotSupported,
                errors.Overloaded,
                errors.StoreUnavailable,
                errors.StoreFull,
            ),
            request_headers=("If-Match",),
            form=BODY,
        ),
        "DELETE": Operation(
            id="delete_avatar",
            tag="avatars",
            summary="Delete a custom avatar",
            description="Only avatars that POST /avatars/custom made can be deleted.",
            responses={200: json_response(_DELETED, {"deleted": True})},
            errors=(errors.NotFound, errors.StoreUnavailable, errors.NotDeletable, errors.NotSupported),
        ),
    }

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        cached = functools.partial(self._service.cached_manifest, avatar_id)
        opened = functools.partial(self._service.manifest, avatar_id)
        await answer_stored_file(req, resp, cached, opened, falcon.MEDIA_JSON)

    on_head = on_get

    async def on_patch(self, req: Request, resp: Response, avatar_id: str) -> None:
        patch = await read_patch(req, resp)
        changed = await self._service.change(avatar_id, patch, expected_etags(req))
        resp.content_type = falcon.MEDIA_JSON
        resp.set_headers((("ETag", f'"{changed.etag}"'), ("Cache-Control", REVALIDATE)))
        resp.data = changed.content

    async def on_delete(self, req: Request, resp: Response, avatar_id: str) -> None:
        await self._service.delete(avatar_id)
        resp.media = {"deleted": True}


class ReservedIdResource(AvatarResource):
    """The resource of a path such as /avatars/custom: adds methods to those of an avatar with this id."""

    reserved_id: ClassVar[ReservedId]

    async def on_get(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        await super().on_get(req, resp, self.reserved_id)

    on_head = on_get

    async def on_patch(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        await super().on_patch(req, resp, self.reserved_id)

    async def on_delete(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        await super().on_delete(req, resp, self.reserved_id)


def operations_of_reserved_id(reserved_id: ReservedId) -> dict[str, Operation]:
    """Return the operations of `AvatarResource`, as aliases for the path of `reserved_id`."""
    return {
        method: dataclasses.replace(
            operation,
            id=f"{operation.id}_{reserved_id}",
            summary=f"{operation.summary}, of the id “{reserved_id}”",
            alias_of=operation.id,
        )
        for method, operation in AvatarResource.operations.items()
    }
