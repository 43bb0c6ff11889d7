"""The resource /avatars/{avatar_id}/bundle.zip."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .. import errors
from .conditional import answer_not_modified
from .media_types import save_as
from .operation import Operation, file_response, not_modified_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from falcon.asgi import Request, Response

    from ..bundles.bundle_zip import BundleZip
    from ..service import AvatarService


class BundleZipResource:
    """Answers with a bundle as a ZIP archive."""

    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": Operation(
            id="get_bundle_zip",
            tag="avatars",
            summary="Download an avatar's bundle",
            description="An uncompressed ZIP archive with one folder, named by the avatar's id. All files are of one "
            "version: if the bundle changes meanwhile, the connection is closed before the archive is complete.",
            responses={
                200: file_response(
                    ("application/zip",), ("ETag", "Cache-Control", "Accept-Ranges", "Content-Disposition")
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
        archive = await self._files.archive(avatar_id)
        resp.content_type = "application/zip"
        save_as(resp, f"{avatar_id}.zip")
        if answer_not_modified(req, resp, archive.etag, None):
            return
        resp.set_header("Accept-Ranges", "none")
        resp.content_length = archive.size
        if req.method != "HEAD":
            resp.stream = _ArchiveStream(archive)  # type: ignore[assignment]  # an iterable will do

    on_head = on_get


class _ArchiveStream:
    """An archive as the body of a response. Falcon calls `close()` even if the client disconnects."""

    def __init__(self, archive: BundleZip) -> None:
        self._chunks = archive.chunks()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def close(self) -> None:
        await self._chunks.aclose()
