"""The media types of a bundle's files, and the headers that keep such a file from running as a page of ours."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from falcon import secure_filename

from .operation import FILE_HEADERS, file_response, not_modified_response, range_responses

if TYPE_CHECKING:
    from falcon.asgi import Response

    from .operation import Json

#: Browsers show these and run nothing in them. SVG, HTML and XML are missing on purpose: they can hold scripts.
_SHOWN_TYPES = {
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
}
_SAVED_TYPES = {".zip": "application/zip"}
_UNKNOWN_TYPE = "application/octet-stream"

_ALL_TYPES = tuple(sorted({*_SHOWN_TYPES.values(), *_SAVED_TYPES.values(), _UNKNOWN_TYPE}))

#: The successful responses of an operation that answers with a file of a bundle.
FILE_OF_BUNDLE: dict[int, Json] = {
    200: file_response(_ALL_TYPES, (*FILE_HEADERS, "Content-Security-Policy", "Content-Disposition")),
    304: not_modified_response(),
    **range_responses(*_ALL_TYPES),
}


def media_type(path: str) -> str:
    """Return the media type of a file, by its suffix."""
    suffix = PurePosixPath(path).suffix.lower()
    return _SHOWN_TYPES.get(suffix) or _SAVED_TYPES.get(suffix, _UNKNOWN_TYPE)


def confine(resp: Response, path: str) -> None:
    """Set the headers for a file of a bundle, whose content anybody may have made.

    A browser that shows the file treats it as a page of no origin, without scripts. Files that browsers don't show
    safely are saved.
    """
    resp.set_header("Content-Security-Policy", "sandbox")
    if PurePosixPath(path).suffix.lower() not in _SHOWN_TYPES:
        save_as(resp, PurePosixPath(path).name)


def save_as(resp: Response, name: str) -> None:
    """Let browsers save the response under this name, which may hold any characters."""
    # Falcon's `downloadable_as` does not escape quotes and line ends of ASCII names.
    encoded = quote(name, safe="")
    resp.set_header(
        "Content-Disposition", f"attachment; filename=\"{secure_filename(name)}\"; filename*=UTF-8''{encoded}"
    )
