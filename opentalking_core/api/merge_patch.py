"""Reading the JSON merge patch and the condition of PATCH /avatars/{avatar_id}."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import falcon

from ..bundles.manifest_patch import FIXED_METADATA, FIXED_METADATA_PREFIX, parse_patch
from ..errors import TooLarge
from .upload import limited

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

    from .operation import Json

MERGE_PATCH = "application/merge-patch+json"

#: The media types that are read, for the header Accept-Patch.
ACCEPTED = (MERGE_PATCH, "application/json")

MAX_PATCH_BYTES = 1024 * 1024

WRONG_TYPE_DETAIL = f"send the patch as {MERGE_PATCH}, not as {{}}"

#: The body of the operation, for the OpenAPI document.
BODY: Json = {
    "required": True,
    "content": {
        media_type: {
            "schema": {"$ref": "#/components/schemas/AvatarPatch"},
            "example": {"name": "Alice B.", "metadata": {"language": "en", "note": None}},
        }
        for media_type in ACCEPTED
    },
}

_POINTS: Json = {
    "type": "array",
    "minItems": 3,
    "items": {
        "type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "minimum": 0, "maximum": 1},
    },
}  # fmt: skip

_ANIMATION: Json = {
    "type": ["object", "null"],
    "description": "Outlines of the mouth; null removes the mouth. The centre and the radii are computed from them.",
    "properties": {"outer_lip": _POINTS, "inner_mouth": _POINTS},
}
_FACE_BOX: Json = {
    "type": ["array", "null"],
    "description": "Left, top, right and bottom of the face.",
    "minItems": 4, "maxItems": 4, "items": {"type": "number", "minimum": 0, "maximum": 1},
}  # fmt: skip


def patch_schema(name: Json) -> Json:
    """Return the schema of a patch; `name` is the schema of an avatar's name."""
    return {
        "type": "object",
        "description": "A JSON merge patch (RFC 7396): null removes a key of `metadata`, and objects are merged.",
        "additionalProperties": False,
        "properties": {
            "name": name,
            "metadata": {
                "type": "object",
                "description": "Keys that record how the avatar was made can't be changed.",
                "properties": {"animation": _ANIMATION, "face_box": _FACE_BOX, **dict.fromkeys(FIXED_METADATA, False)},
                "patternProperties": {f"^{FIXED_METADATA_PREFIX}": False},
            },
        },
    }


async def read_patch(req: Request, resp: Response) -> dict[str, Any]:
    """Read a request's merge patch.

    Raises:
        InvalidRequest: the body is not a JSON object.
        TooLarge: the body has more than MAX_PATCH_BYTES.
        falcon.HTTPError: the body has another media type, or arrives too slowly.
    """
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type not in ACCEPTED:
        raise falcon.HTTPUnsupportedMediaType(
            description=WRONG_TYPE_DETAIL.format(repr(media_type[:80])), headers={"Accept-Patch": ", ".join(ACCEPTED)}
        )
    if (req.content_length or 0) > MAX_PATCH_BYTES:
        resp.set_header("Connection", "close")  # so that the body is not read to its end
        raise _too_large()
    body = b"".join([chunk async for chunk in limited(req.stream, MAX_PATCH_BYTES, _too_large)])
    return await asyncio.to_thread(parse_patch, body)


def expected_etags(req: Request) -> list[str] | None:
    """Return the entity tags of which If-Match accepts any, or None if any version is accepted.

    A weak tag and a malformed header match no version, as RFC 9110 demands.
    """
    header = req.get_header("If-Match")
    if header is None or header == "*":
        return None
    return [tag for weak, tag in re.findall(r'(W/)?"([^"]*)"', header) if not weak]


def _too_large() -> TooLarge:
    return TooLarge(f"the patch exceeds {MAX_PATCH_BYTES // 1024} KiB; send only what changes")
