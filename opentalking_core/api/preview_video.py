"""The resource /avatars/{avatar_id}/preview-video."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

from .. import errors
from .files import answer_stored_file
from .media_types import FILE_OF_BUNDLE, confine, media_type
from .operation import READING_HEADERS, Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..service import AvatarService


class PreviewVideoResource:
    """Answers with the video from which an avatar was made."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_preview_video",
            tag="avatars",
            summary="Read the video from which an avatar was made",
            description="The file of the bundle that the manifest names in `metadata.source_video`.",
            responses=FILE_OF_BUNDLE,
            errors=(errors.NotFound, errors.StoreUnavailable),
            request_headers=READING_HEADERS,
        )
    }

    def __init__(self, service: AvatarService) -> None:
        self._service = service

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        path = await self._service.source_video(avatar_id)
        opened = functools.partial(self._service.bundle_files.open, avatar_id, path)
        await answer_stored_file(req, resp, lambda: None, opened, media_type(path))
        confine(resp, path)

    on_head = on_get
