"""The OpenAPI 3.1 document of the API, assembled from the operations that the resources describe.

The schemas are made from the code's own models.
"""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING

import falcon
from pydantic import TypeAdapter

from ..bundles.manifest import AvatarManifest, AvatarSummary
from ..health import DetectorHealth, Health, StoreHealth
from ..portraits.checks import PortraitCheck, PortraitReport
from .access import OPEN_ROUTES, action_of, forbidden_detail, unauthorized_detail
from .errors import STATUS, UNEXPECTED_DETAIL
from .merge_patch import patch_schema
from .operation import EXAMPLES, NAME, REQUEST_HEADERS, error_response
from .upload import MAX_IMAGE_BYTES, TOO_SLOW_DETAIL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..hookspecs import Action
    from .operation import Json, Operation

_DESCRIPTION = f"""\
Keeps the avatars of a talking-head system, and creates new avatars from portrait photos.

**Errors** are always JSON: `{{"detail": "<one clear sentence>"}}`. A path that does not exist is answered with 404, a
method that a path does not have with 405 and the header `Allow`.

**Ids** are letters, marks and digits of any script, `-` and `_`, at most 200 bytes of UTF-8. If a path takes an id, any
other text is answered with 404.

**Requests** may carry an `X-Request-ID` (up to 128 letters, digits and `._:/+=@-`). Every response carries this id, or
a new one, and the lines of the log carry it too.

**Copies** can be kept: a request for a response with an `ETag` may be repeated with `If-None-Match`, and is answered
with 304 while the response would be the same. HEAD works wherever GET does.

**Permission** is needed if the service is configured to protect itself: send `Authorization: Bearer <key>`.

**Uploads** may have an image of up to {MAX_IMAGE_BYTES // 1024**2} MiB, and must arrive at a reasonable rate.
"""

_TAGS = {
    "avatars": "List, read, create, change and delete avatars.",
    "portraits": "Photos that become avatars.",
    "service": "For operators of the service.",
    "pages": "For people.",
}

_PATH_PARAMETERS: dict[str, Json] = {
    "avatar_id": {"description": "The avatar's id, as GET /avatars lists it.", "example": "demo-avatar"},
    "name": {"description": "The name of the file, such as gallery.css or init.js."},
    "path": {
        "description": "The file's path in the bundle, as GET /avatars/{avatar_id}/files lists it. `/` may be encoded.",
        "example": "manifest.json",
    },
}

_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-ID": ("The request's id: the client's own, or a new one.", {"type": "string"}),
    "X-Content-Type-Options": ("Always `nosniff`.", {"type": "string", "const": "nosniff"}),
    "ETag": ("Names this version of the response.", {"type": "string", "pattern": '^"[^"]*"$'}),
    "Last-Modified": ("When the content was changed.", {"type": "string"}),
    "Cache-Control": ("`no-cache`: a client may keep a copy, but has to ask before each use.", {"type": "string"}),
    "Vary": ("Request headers on which the response depends.", {"type": "string"}),
    "Accept-Patch": ("The media types that a PATCH may have.", {"type": "string"}),
    "Accept-Ranges": ("`bytes`, or `none` if there are no ranges.", {"type": "string", "enum": ["bytes", "none"]}),
    "Content-Range": ("Which part of the file this is.", {"type": "string"}),
    "X-Total-Count": (
        "The number of avatars that match, on all pages; with a query only.",
        {"type": "integer", "minimum": 0},
    ),
    "Link": ('The next page, as `<…>; rel="next"`; missing on the last page.', {"type": "string"}),
    "Location": ("Where the store has the file, for a few minutes.", {"type": "string"}),
    "Content-Security-Policy": ("`sandbox`: a browser runs no script of the file.", {"type": "string"}),
    "Content-Disposition": ("Files that browsers can't show safely are saved.", {"type": "string"}),
    "Retry-After": ("After how many seconds to try again.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("How to authenticate.", {"type": "string"}),
}


def openapi_document(routes: Mapping[str, object]) -> Json:
    """Return the OpenAPI document of resources, by path.

    Raises:
        RuntimeError: a resource has a method that its attribute `operations` does not describe.
    """
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
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": {_without_converters(path): _path_item(path, resource) for path, resource in routes.items()},
        "components": {
            "schemas": _schemas(),
            "headers": {
                name: {"description": description, "schema": schema} for name, (description, schema) in _HEADERS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A key of the service."}},
        },
    }


def _path_item(path: str, resource: object) -> Json:
    operations: Mapping[str, Operation] = getattr(resource, "operations", {})
    item: Json = {}
    for method in dict.fromkeys(("GET", *falcon.COMBINED_METHODS)):  # GET first, for readers
        if not hasattr(resource, f"on_{method.lower()}"):
            continue
        described = operations.get("GET" if method == "HEAD" else method)
        if described is None:
            raise RuntimeError(f"{method} {path} is not described in {type(resource).__qualname__}.operations")
        operation = _operation_object(path, method, described)
        item[method.lower()] = _head(operation) if method == "HEAD" else operation
    return item


def _without_converters(path: str) -> str:
    """Return a path of OpenAPI for a path of Falcon, whose parameters may name a converter: {path:path}."""
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


def _operation_object(path: str, method: str, operation: Operation) -> Json:
    path_parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, **_PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", _without_converters(path))
    ]
    headers: list[Json] = [
        {"name": name, "in": "header", "description": REQUEST_HEADERS[name], "schema": {"type": "string"}}
        for name in operation.request_headers
    ]
    responses = _responses(operation)
    if path not in OPEN_ROUTES:
        _add_permission(responses, action_of(path, method))
    return {
        "tags": [operation.tag],
        "operationId": operation.id,
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*path_parameters, *operation.parameters, *headers],
        "responses": {str(status): responses[status] for status in sorted(responses)},
        **({"requestBody": operation.form} if operation.form else {}),
        **({"security": [{}, {"key": []}]} if path not in OPEN_ROUTES else {}),
        **({"x-alias-of": operation.alias_of} if operation.alias_of else {}),
    }


def _responses(operation: Operation) -> dict[int, Json]:
    """Return the responses to an operation that needs no permission."""
    responses = {
        **operation.responses,
        500: error_response("An unexpected error in the service.", {"Unexpected": UNEXPECTED_DETAIL}),
    }
    for status in {STATUS[error] for error in operation.errors}:
        kinds = [error for error in operation.errors if STATUS[error] == status]
        description = " Or: ".join((kind.__doc__ or "").partition("\n")[0] for kind in kinds)
        headers = ("Retry-After",) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
        responses[status] = error_response(description, {kind.__name__: EXAMPLES[kind] for kind in kinds}, headers)
    if operation.form:
        responses[408] = error_response("The upload arrived too slowly.", {"TooSlow": TOO_SLOW_DETAIL})
    return responses


def _add_permission(responses: dict[int, Json], action: Action) -> None:
    """Add the responses of a service that is configured to protect the operation."""
    responses[401] = error_response(
        "The service requires a valid key.", {"Key": unauthorized_detail(action)}, ("WWW-Authenticate",)
    )
    forbidden = responses.setdefault(403, error_response("The credentials do not permit the operation.", {}))
    forbidden["content"]["application/json"]["examples"]["Forbidden"] = {"value": {"detail": forbidden_detail(action)}}


def _head(operation: Json) -> Json:
    """Return the operation of HEAD beside the one of GET: without a body and without ranges."""
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


def _schemas() -> Json:
    """Return the schemas of the models, described by their docstrings, and the schema of errors."""
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
    schemas["AvatarPatch"] = patch_schema(NAME)
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
    """Return a docstring's text, and the description of each field in its section "Args"."""
    text, _, args = inspect.cleandoc(model.__doc__ or "").partition("\n\nArgs:\n")
    fields = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", args, re.MULTILINE)
    sentences = {name: " ".join(words.split()).replace("None", "null") for name, words in fields}
    return text, {name: sentence[0].upper() + sentence[1:] for name, sentence in sentences.items()}
