"""The resources /avatars/{avatar_id}/files and /avatars/{avatar_id}/files/{path}."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import falcon

from .. import errors
from ..bundles.bundle_zip import files_etag
from .conditional import answer_not_modified
from .files import answer_stored_file
from .media_types import FILE_OF_BUNDLE, confine, media_type
from .operation import (
    READING_HEADERS,
    Operation,
    json_response,
    not_modified_response,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from ..bundles.store import FileInfo
    from ..service import AvatarService

_LAST_SECOND = 253402300799  # of the year 9999, the last that ISO 8601 and datetime have

_FILE_EXAMPLE = {
    "path": "frames/frame_00000.png", "size": 257104, "etag": "18c2f3a5e1-3ec50", "modified": "2026-05-13T15:30:12.001Z"
}  # fmt: skip

_FILE_SCHEMA = {
    "type": "object",
    "required": ["path", "size", "etag", "modified"],
    "properties": {
        "path": {"type": "string", "description": "The file's path in the bundle, separated by `/`."},
        "size": {"type": "integer", "minimum": 0, "description": "The file's size in bytes."},
        "etag": {"type": "string", "description": "The file's ETag, without quotes."},
        "modified": {
            "type": "string", "format": "date-time", "description": "When the file was changed, in UTC (ISO 8601)."
        },
    },
}  # fmt: skip


class FileListResource:
    """Answers with the list of a bundle's files."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="list_files",
            tag="avatars",
            summary="List the files of an avatar's bundle",
            description="The files of the bundle, sorted by path.",
            responses={
                200: json_response(
                    {"type": "array", "items": _FILE_SCHEMA}, [_FILE_EXAMPLE], ("ETag", "Cache-Control")
                ),
                304: not_modified_response(),
            },
            errors=(errors.NotFound, errors.StoreUnavailable),
            request_headers=("If-None-Match",),
        )
    }

    def __init__(self, service: AvatarService) -> None:
        self._files = service.bundle_files

    async def on_get(self, req: Request, resp: Response, avatar_id: str) -> None:
        files = await self._files.list_files(avatar_id)
        if not answer_not_modified(req, resp, files_etag(files), None):
            resp.content_type = falcon.MEDIA_JSON
            resp.data = json.dumps([_listed(info) for info in files], ensure_ascii=False).encode()

    on_head = on_get


class FileResource:
    """Answers with one file of a bundle."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_file",
            tag="avatars",
            summary="Read a file of an avatar's bundle",
            description="The file as it is stored. Its suffix decides its media type. Browsers show pictures, videos, "
            "sounds, JSON and plain text, and save everything else.",
            responses=FILE_OF_BUNDLE,
            errors=(errors.NotFound, errors.StoreUnavailable),
            request_headers=READING_HEADERS,
        )
    }

    def __init__(self, service: AvatarService) -> None:
        self._files = service.bundle_files

    async def on_get(self, req: Request, resp: Response, avatar_id: str, path: str) -> None:
        cached = functools.partial(self._files.cached, avatar_id, path)
        opened = functools.partial(self._files.open, avatar_id, path)
        await answer_stored_file(req, resp, cached, opened, media_type(path))
        confine(resp, path)

    on_head = on_get


def _listed(info: FileInfo) -> dict[str, Any]:
    changed = datetime.fromtimestamp(min(max(info.modified, 0), _LAST_SECOND), UTC)
    modified = changed.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"path": info.path, "size": info.size, "etag": info.etag, "modified": modified}
