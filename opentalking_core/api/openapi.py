"""The OpenAPI 3.1 document of the API: an entry for each operation; the schemas are made of the code's own models.

An operation that a route has and `_operations` hasn't is an error as soon as the document is made.
"""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import falcon.asgi
import falcon.inspect
from pydantic import TypeAdapter

from .. import errors
from ..bundles.manifest import AvatarManifest, AvatarSummary
from ..health import DetectorHealth, Health, StoreHealth
from ..portraits.checks import PortraitCheck, PortraitReport
from ..service import MAX_NAME
from .access import OPEN_ROUTES
from .avatars import PAGE_SIZES, THUMBNAIL_WIDTHS
from .errors import STATUS
from .upload import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Json = dict[str, Any]

_DESCRIPTION = f"""\
Keeps the avatars of a talking-head system, and makes new ones of portrait photos.

**Errors** are always JSON: `{{"detail": "<one clear sentence>"}}`. A path that doesn't exist is answered with 404, a
method that a path doesn't have with 405 and the header `Allow`.

**Ids** are letters, marks and digits of any script, `-` and `_`, at most 200 bytes of UTF-8. Where a path takes an id,
whatever can't be one is answered with 404.

**Requests** may carry an `X-Request-ID` (up to 128 letters, digits and `._:/+=@-`); every answer carries it, or one
that was made up, and so do the lines of the log.

**Copies** can be kept: an answer with an `ETag` may be asked for again with `If-None-Match`, and costs 304 while it is
the same. HEAD works wherever GET does.

**Permission** is needed where the service is told to protect itself: send `Authorization: Bearer <key>`.

**Uploads** may have an image of up to {MAX_IMAGE_BYTES // 1024**2} MiB, and must come in at a reasonable pace.
"""

#: Sentences that a client may meet, by the error.
_EXAMPLES: dict[type[errors.OpenTalkingError], str] = {
    errors.InvalidRequest: "the image is not a picture that can be read: send a JPEG, PNG or WebP",
    errors.TooLarge: "the image exceeds 10 MB; send a smaller one",
    errors.NotFound: "there is no avatar 'nobody'",
    errors.NotDeletable: "avatar 'demo-avatar' is built in and can't be deleted; only custom avatars can",
    errors.Overloaded: "32 uploads are being worked on already; try again",
    errors.StoreUnavailable: "the folder /srv/avatars can't be read: Permission denied",
    errors.StoreFull: "the disk is full: nothing was written",
}

_NOT_BLANK = r"[^\s\x00-\x1f\x7f-\x9f]"

#: A name is not blank, and holds no control characters.
_NAME = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"

_AVATAR_ID = {
    "name": "avatar_id",
    "in": "path",
    "required": True,
    "description": "The avatar's id, as GET /avatars lists it.",
    "schema": {"type": "string"},
    "example": "demo-avatar",
}

_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-ID": ("The request's id: the client's own, or a new one.", {"type": "string"}),
    "X-Content-Type-Options": ("Always `nosniff`.", {"type": "string", "const": "nosniff"}),
    "ETag": ("Names this very version.", {"type": "string", "pattern": '^"[^"]*"$'}),
    "Last-Modified": ("When it was changed.", {"type": "string"}),
    "Cache-Control": ("`no-cache`: keep a copy, but ask before each use.", {"type": "string"}),
    "Vary": ("What the answer depends on.", {"type": "string"}),
    "Accept-Ranges": ("`bytes`.", {"type": "string", "const": "bytes"}),
    "Content-Range": ("Which part this is.", {"type": "string"}),
    "X-Total-Count": ("How many avatars match, on all pages; with a query only.", {"type": "integer", "minimum": 0}),
    "Link": ('The next page, as `<…>; rel="next"`; missing on the last one.', {"type": "string"}),
    "Location": ("Where the store has the file, for a few minutes.", {"type": "string"}),
    "Retry-After": ("It is worth trying again after so many seconds.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("How to ask for permission.", {"type": "string"}),
}

_REQUEST_HEADERS: dict[str, str] = {
    "If-None-Match": "ETags of versions that the client has.",
    "If-Modified-Since": "When the client's version was changed; counts only without If-None-Match.",
    "Range": "A part of the file, such as `bytes=0-1023`.",
    "If-Range": "The ETag of which the client wants a part; of another version it gets the whole.",
}

_SUMMARY = {
    "id": "custom-alice-20260513-153012-001", "name": "Alice", "model_type": "wav2lip", "width": 1024, "height": 1024,
    "is_custom": True,
}  # fmt: skip
_MANIFEST = {
    "id": "demo-avatar", "name": "Demo", "model_type": "mock", "fps": 25, "sample_rate": 16000, "width": 512,
    "height": 512, "version": "1.0", "metadata": {},
}  # fmt: skip
_REPORT = {
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
_HEALTH = {
    "status": "ok",
    "store": {"plugin": "local_storage", "url": "file:///srv/avatars", "ok": True, "problem": None, "avatars": 2,
              "stale": False},
    "detectors": [{"plugin": "mediapipe_mouth", "ok": True, "problem": None}],
}  # fmt: skip


def openapi_document(app: falcon.asgi.App[Any, Any]) -> Json:
    """The OpenAPI document of `app`.

    Raises:
        RuntimeError: a route of `app` is not documented.
    """
    operations = _operations()
    paths: Json = {}
    for route in falcon.inspect.inspect_routes(app):
        for method in route.methods:
            if method.internal:
                continue
            try:
                operation = operations[route.path, method.method]
            except KeyError:
                raise RuntimeError(f"{method.method} {route.path} is not documented in {__name__}") from None
            paths.setdefault(route.path, {})[method.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "opentalking-core",
            "version": version("opentalking-core"),
            "summary": "Avatars for talking-head systems",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "avatars", "description": "List, read, make and delete avatars."},
            {"name": "portraits", "description": "Photos that become avatars."},
            {"name": "service", "description": "For whoever runs it."},
            {"name": "pages", "description": "For people."},
        ],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "headers": {
                name: {"description": description, "schema": schema}
                for name, (description, schema) in _HEADERS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A key of the service."}},
        },
    }  # fmt: skip


def _operations() -> dict[tuple[str, str], Json]:
    """Every operation that the API can have, by path and method."""
    summaries = {"type": "array", "items": _ref("AvatarSummary")}
    unavailable = (errors.StoreUnavailable,)
    read_errors = (errors.NotFound, errors.StoreUnavailable)
    upload_errors = (errors.InvalidRequest, errors.TooLarge, errors.Overloaded)
    copy_headers = ("ETag", "Last-Modified", "Cache-Control")
    file_headers = (*copy_headers, "Accept-Ranges")
    manifest = _operation(
        "avatars", "get_avatar", "Read an avatar's manifest", "The complete manifest.json, as it is stored.",
        {200: _json(_ref("AvatarManifest"), _MANIFEST, file_headers), 206: _part("application/json"),
         304: _unchanged()},
        read_errors, ranges=True, asks=tuple(_REQUEST_HEADERS),
    )  # fmt: skip
    deletion = _operation(
        "avatars", "delete_avatar", "Delete a custom avatar", "Only avatars that POST /avatars/custom made can go.",
        {200: _json({"type": "object", "required": ["deleted"], "properties": {"deleted": {"const": True}}},
                    {"deleted": True})},
        (*read_errors, errors.NotDeletable),
    )  # fmt: skip
    health = _operation(
        "service", "get_health", "Does it work?", "Which store and detectors are in use, and whether each works.",
        {200: _json(_ref("Health"), _HEALTH), 503: _json(_ref("Health"), {**_HEALTH, "status": "unavailable"})},
    )  # fmt: skip
    operations = {
        ("/avatars", "GET"): _operation(
            "avatars", "list_avatars", "List the avatars",
            "Those that are not hidden and whose manifest can be read, by id: all of them or, with a query, a page.",
            {200: _json(summaries, [_SUMMARY], (*copy_headers, "Vary", "X-Total-Count", "Link")), 304: _unchanged()},
            (errors.InvalidRequest, *unavailable), asks=("If-None-Match", "If-Modified-Since"),
            parameters=[
                _query("limit", {"type": "integer", "minimum": PAGE_SIZES[0], "maximum": PAGE_SIZES[-1]},
                       "At most so many."),
                _query("cursor", {"type": "string"}, "Where the page begins: as the link to it has it."),
                _query("model_type", {"type": "string"}, "Those of one model type.", "wav2lip"),
                _query("is_custom", {"type": "boolean"}, "Those that were made of a portrait, or those that were not."),
                _query("q", {"type": "string"}, "Those whose id or name contains it, in whatever case.", "ali"),
            ],
        ),
        ("/avatars/{avatar_id}", "GET"): {**manifest, "parameters": [_AVATAR_ID, *manifest["parameters"]]},
        ("/avatars/{avatar_id}", "DELETE"): {**deletion, "parameters": [_AVATAR_ID]},
        ("/avatars/{avatar_id}/preview", "GET"): _operation(
            "avatars", "get_preview", "Read an avatar's preview",
            "The raw preview.png, or with `width` a smaller copy of it: WebP where `Accept` takes it, else PNG. A "
            "store may be set up to hand previews out itself; then the answer is a redirect to it.",
            {200: _file(("image/png", "image/webp"), (*file_headers, "Vary")), 206: _part("image/png", "image/webp"),
             304: _unchanged(), 307: _response("The store hands it out.", headers=("Location", "Cache-Control"))},
            (errors.InvalidRequest, *read_errors), ranges=True, asks=tuple(_REQUEST_HEADERS),
            parameters=[
                _AVATAR_ID,
                _query("width", {"type": "integer", "minimum": THUMBNAIL_WIDTHS[0], "maximum": THUMBNAIL_WIDTHS[-1]},
                       "In pixels; a preview that isn't wider keeps its size.", 320),
            ],
        ),
        ("/avatars/custom", "POST"): _operation(
            "portraits", "create_avatar", "Make an avatar from a portrait",
            "Driven like the base, with the portrait fitted into the service's maximum size, and with its mouth "
            "located: where none is found, the avatar is made all the same, without `metadata.animation`. What the "
            "portrait checks say of it is in `metadata.portrait_checks`.",
            {200: _json(_ref("AvatarSummary"), _SUMMARY)
             | _links("$response.body#/id", "get_avatar", "get_preview", "delete_avatar")},
            (*upload_errors, errors.NotFound, *unavailable, errors.StoreFull), upload=True,
            body=_form(
                name={"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": _NAME, "example": "Alice",
                      "description": "For people to read."},
                base_avatar_id={"type": "string", "minLength": 1, "pattern": _NOT_BLANK, "example": "demo-wav2lip",
                                "description": "The avatar to take as a template; its model type must be one that a "
                                "portrait can drive, such as wav2lip."},
            ),
        ),
        ("/avatars/check", "POST"): _operation(
            "portraits", "check_portrait", "Check a portrait",
            "Whether it is fit to be an avatar; nothing is stored. A check that the mouth detector can't make says "
            "null, and fails nothing.",
            {200: _json(_ref("PortraitReport"), _REPORT)}, upload_errors, upload=True, body=_form(),
        ),
        ("/health", "GET"): health,
        ("/healthz", "GET"): {**health, "operationId": "get_healthz", "x-alias-of": "get_health"},
        ("/metrics", "GET"): _operation(
            "service", "get_metrics", "Metrics for Prometheus", "Those of the process that answers.",
            {200: _file(("text/plain",))},
        ),
        ("/openapi.json", "GET"): _operation(
            "service", "get_openapi", "This document", "In OpenAPI 3.1.",
            {200: _json({"type": "object", "required": ["openapi"]}, None, copy_headers), 304: _unchanged()},
            asks=("If-None-Match",),
        ),
        ("/docs", "GET"): _page("get_docs", "This document to read"),
        ("/docs.css", "GET"): _page("get_docs_style", "The style of that page", "text/css"),
        ("/", "GET"): _page("get_gallery", "The gallery"),
        ("/gallery/{name}", "GET"): {
            **_page("get_gallery_file", "What the gallery is made of", "text/css", "text/javascript", "image/svg+xml",
                    missing=True),
            "parameters": [{"name": "name", "in": "path", "required": True, "description": "The file.",
                            "schema": {"type": "string"}, "example": "gallery.css"}],
        },
    }  # fmt: skip
    for word in ("custom", "check"):  # these two are ids, too
        for method, operation in (("GET", manifest), ("DELETE", deletion)):
            operations[f"/avatars/{word}", method] = {
                **operation,
                "operationId": f"{operation['operationId']}_{word}",
                "summary": f"{operation['summary']}, of the id “{word}”",
                "x-alias-of": operation["operationId"],
            }
    for (path, method), operation in list(operations.items()):
        if path not in OPEN_ROUTES:
            _add_permission(operation)
        if method == "GET":
            operations[path, "HEAD"] = _head(operation)
    return operations


def _operation(
    tag: str,
    operation_id: str,
    summary: str,
    description: str,
    responses: Mapping[int, Json],
    raises: Iterable[type[errors.OpenTalkingError]] = (),
    *,
    parameters: Iterable[Json] = (),
    asks: Iterable[str] = (),
    body: Json | None = None,
    upload: bool = False,
    ranges: bool = False,
) -> Json:
    by_status: dict[int, list[type[errors.OpenTalkingError]]] = {}
    for error in raises:
        by_status.setdefault(STATUS[error], []).append(error)
    all_responses = dict(responses)
    for status, kinds in by_status.items():
        described = " Or: ".join((kind.__doc__ or "").partition("\n")[0] for kind in kinds)
        retry = ("Retry-After",) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
        all_responses[status] = _error(described, {kind.__name__: _EXAMPLES[kind] for kind in kinds}, retry)
    if upload:
        slow = "the upload came in at less than 4 KiB/s and was given up"
        all_responses[408] = _error("The upload came in too slowly.", {"TooSlow": slow})
    if ranges:
        text = "The range lies behind the file's end."
        all_responses[416] = _error(text, {"Range": text}, ("Content-Range",))
    unexpected = "the server met an error that it did not expect; its log says more"
    all_responses[500] = _error("A fault of the service.", {"Unexpected": unexpected})
    asked = [
        {"name": name, "in": "header", "description": _REQUEST_HEADERS[name], "schema": {"type": "string"}}
        for name in asks
    ]
    operation: Json = {
        "tags": [tag],
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "parameters": [*parameters, *asked],
        "responses": {str(status): all_responses[status] for status in sorted(all_responses)},
    }
    return operation | ({"requestBody": body} if body else {})


def _page(operation_id: str, summary: str, *content_types: str, missing: bool = False) -> Json:
    responses = {200: _file(content_types or ("text/html",), ("ETag", "Last-Modified", "Cache-Control"))}
    responses[304] = _unchanged()
    if missing:
        responses[404] = _error("There is no such file.", {"NotFound": "there is nothing at /gallery/nothing"})
    return _operation(
        "pages", operation_id, summary, "It needs nothing from elsewhere.", responses, asks=("If-None-Match",)
    )


def _response(description: str, content: Json | None = None, headers: Iterable[str] = ()) -> Json:
    names = ("X-Request-ID", "X-Content-Type-Options", *headers)
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        **({"content": content} if content else {}),
    }


def _json(schema: Json, example: object, headers: Iterable[str] = ()) -> Json:
    content = {"schema": schema} | ({"example": example} if example is not None else {})
    return _response("As asked for.", {"application/json": content}, headers)


def _links(avatar_id: str, *operation_ids: str) -> Json:
    """Where an id that an answer holds leads to."""
    return {"links": {name: {"operationId": name, "parameters": {"avatar_id": avatar_id}} for name in operation_ids}}


def _file(content_types: Iterable[str], headers: Iterable[str] = ()) -> Json:
    return _response("As asked for.", {content_type: {} for content_type in content_types}, headers)


def _part(*content_types: str) -> Json:
    headers = ("ETag", "Last-Modified", "Cache-Control", "Accept-Ranges", "Content-Range")
    return _response("The part that was asked for.", {content_type: {} for content_type in content_types}, headers)


def _unchanged() -> Json:
    return _response("The client has it already.", headers=("ETag", "Cache-Control", "Vary"))


def _error(description: str, examples: Mapping[str, str], headers: Iterable[str] = ()) -> Json:
    content = {
        "schema": _ref("Error"),
        "examples": {name: {"value": {"detail": detail}} for name, detail in examples.items()},
    }
    return _response(description, {"application/json": content}, headers)


def _query(name: str, schema: Json, description: str, example: object = None) -> Json:
    parameter = {"name": name, "in": "query", "description": description, "schema": schema}
    return parameter | ({"example": example} if example is not None else {})


def _form(**fields: Json) -> Json:
    image = {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP."}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [*fields, "image"],
                    "properties": {**fields, "image": image},
                },
                "encoding": {"image": {"contentType": "image/jpeg, image/png, image/webp"}},
            }
        },
    }


def _add_permission(operation: Json) -> None:
    """A key may be needed, or not: that is a setting."""
    operation["security"] = [{}, {"key": []}]
    unknown = "to read needs permission: send a key in the header Authorization: Bearer <key>"
    known = "these credentials don't allow to read this"
    responses = dict(operation["responses"])
    responses["401"] = _error("Permission is needed, and nobody known asked.", {"Key": unknown}, ("WWW-Authenticate",))
    forbidden = responses.get("403") or _error("The credentials don't allow it.", {})
    forbidden["content"]["application/json"]["examples"]["Forbidden"] = {"value": {"detail": known}}
    responses["403"] = forbidden
    operation["responses"] = dict(sorted(responses.items()))


def _head(operation: Json) -> Json:
    """As GET, without a body, and without parts of one."""
    return operation | {
        "operationId": operation["operationId"] + "_head",
        "summary": operation["summary"] + " (headers only)",
        "parameters": [each for each in operation["parameters"] if each["name"] not in ("Range", "If-Range")],
        "responses": {
            status: {key: value for key, value in response.items() if key not in ("content", "links")}
            for status, response in operation["responses"].items()
            if status not in ("206", "416")
        },
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Json:
    """The schemas of the models, with their docstrings as descriptions, and that of errors."""
    models = (AvatarSummary, AvatarManifest, PortraitReport, PortraitCheck, Health, StoreHealth, DetectorHealth)
    _, combined = TypeAdapter.json_schemas(
        [(model, "validation", TypeAdapter(model)) for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas: Json = combined["$defs"]
    for model in models:
        schema = schemas[model.__name__]
        text, fields = _described(model)
        schema["description"] = text
        for name, field in schema["properties"].items():
            field.pop("title", None)
            field["description"] = fields[name]
    schemas["Error"] = {
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {
                "type": "string",
                "description": "One clear sentence: what was wrong, with which value, what to do.",
            }
        },
    }
    return schemas


def _described(model: type) -> tuple[str, dict[str, str]]:
    """A docstring's text, and what its section «Args» says of each field."""
    text, _, args = inspect.cleandoc(model.__doc__ or "").partition("\n\nArgs:\n")
    fields = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", args, re.MULTILINE)
    sentences = {name: " ".join(words.split()).replace("None", "null") for name, words in fields}
    return text, {name: sentence[0].upper() + sentence[1:] for name, sentence in sentences.items()}
