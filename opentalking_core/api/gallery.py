"""The gallery: a page for people at /, made of the files in static/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .operation import Operation, page_operation, static_file_operation
from .static_files import CONTENT_TYPES, PageResource, StaticFile, StaticFilesResource

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATIC = Path(__file__).parent / "static"

#: Only our own files are run, shown and talked to, and text can't become markup. blob: is for the chosen file.
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


def gallery_routes() -> dict[str, object]:
    """Return the page and the files that the page is made of."""
    files = {
        path.name: StaticFile(path, _CONTENT_SECURITY_POLICY)
        for path in _STATIC.iterdir()
        if path.suffix in CONTENT_TYPES
    }
    return {"/": GalleryResource(files.pop("index.html")), "/gallery/{name}": GalleryFileResource(files)}


class GalleryResource(PageResource):
    operations: ClassVar[Mapping[str, Operation]] = {"GET": page_operation("get_gallery", "The gallery", "text/html")}


class GalleryFileResource(StaticFilesResource):
    operations: ClassVar[Mapping[str, Operation]] = {
        "GET": static_file_operation(
            "get_gallery_file", "A file of the gallery", ("text/css", "text/javascript", "image/svg+xml"), "gallery"
        )
    }
