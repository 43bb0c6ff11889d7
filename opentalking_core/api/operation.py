"""The vocabulary in which a resource describes its operations for the OpenAPI document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import errors
from ..bundles.display_name import MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Json = dict[str, Any]

#: Headers with which a client may keep a copy of a response and ask whether the copy is still current.
COPY_HEADERS = ("ETag", "Last-Modified", "Cache-Control")
FILE_HEADERS = (*COPY_HEADERS, "Accept-Ranges")

#: Headers of requests for a file.
READING_HEADERS = ("If-None-Match", "If-Modified-Since", "Range", "If-Range")

REQUEST_HEADERS: dict[str, str] = {
    "If-None-Match": "ETags of the versions that the client has.",
    "If-Modified-Since": "Last-Modified of the client's version; ignored if If-None-Match is sent.",
    "Range": "A part of the file, such as `bytes=0-1023`.",
    "If-Match": "ETags of the versions that may be changed; without it, or with `*`, any version is changed.",
    "Last-Event-ID": "The id of the last event that the client has got.",
    "If-Range": "The ETag of the version of which the client wants a part; if the file has changed, all of it is sent.",
}

#: The schema of an avatar's name, which is not blank and contains no control characters.
NAME: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_NAME_CHARACTERS,
    "pattern": r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
    "example": "Alice",
    "description": "The name that people see.",
}

#: A sentence that a client may get, for each error.
EXAMPLES: dict[type[errors.OpenTalkingError], str] = {
    errors.InvalidRequest: "the image is not a picture that can be read: send a JPEG, PNG or WebP",
    errors.TooLarge: "the image exceeds 10 MB; send a smaller one",
    errors.NotFound: "there is no avatar 'nobody'",
    errors.NotDeletable: "avatar 'demo-avatar' is built in and can't be deleted; only custom avatars can",
    errors.NotChangeable: "avatar 'demo-avatar' is built in and can't be changed; only custom avatars can",
    errors.ManifestChanged: "avatar 'custom-alice' has changed meanwhile: read its manifest again, and send the change"
    " with the new ETag in If-Match, quotes included",
    errors.NotSupported: "avatars in shelf:///srv/avatars can't be changed: its plugin can't replace manifests",
    errors.Overloaded: "32 uploads are being worked on already; try again",
    errors.StoreUnavailable: "the folder /srv/avatars can't be read: Permission denied",
    errors.StoreFull: "the disk is full: nothing was written",
    errors.WorkersUnavailable: "worker processes can't be started (Resource temporarily unavailable); try again",
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of a resource. Resources keep theirs in the attribute `operations`, by method.

    Args:
        id: unique in the document.
        tag: the group to which the operation belongs.
        summary: a few words.
        description: Markdown.
        responses: by status, without those that follow from `errors` and `form`, and without 401, 403 and 500.
        errors: what the operation raises.
        parameters: of the query; those of the path are added to the document by the path's template.
        request_headers: keys of `REQUEST_HEADERS`.
        form: the body that the operation reads: a form from `source_form`, or JSON.
        alias_of: the id of the same operation at its usual path.
    """

    id: str
    tag: str
    summary: str
    description: str
    responses: Mapping[int, Json]
    errors: tuple[type[errors.OpenTalkingError], ...] = ()
    parameters: tuple[Json, ...] = ()
    request_headers: tuple[str, ...] = ()
    form: Json | None = None
    alias_of: str | None = None


def page_operation(operation_id: str, summary: str, *content_types: str) -> Operation:
    """Return the operation of a page for people."""
    return Operation(
        id=operation_id,
        tag="pages",
        summary=summary,
        description="The page loads nothing from other hosts.",
        responses={200: file_response(content_types, COPY_HEADERS), 304: not_modified_response()},
        request_headers=("If-None-Match",),
    )


def static_file_operation(operation_id: str, summary: str, content_types: Iterable[str], folder: str) -> Operation:
    """Return the operation of the files of a page, at /`folder`/{name}."""
    missing = error_response("There is no such file.", {"NotFound": f"there is nothing at /{folder}/nothing"})
    page = page_operation(operation_id, summary, *content_types)
    return replace(page, responses={**page.responses, 404: missing})


def response(description: str, content: Json | None = None, headers: Iterable[str] = ()) -> Json:
    """Return a response with `headers` beside the headers that all responses have."""
    names = ("X-Request-ID", "X-Content-Type-Options", *headers)
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        **({"content": content} if content else {}),
    }


def json_response(schema: Json, example: object = None, headers: Iterable[str] = ()) -> Json:
    """Return a successful response with a JSON body."""
    content = {"schema": schema} | ({"example": example} if example is not None else {})
    return response("As requested.", {"application/json": content}, headers)


def file_response(content_types: Iterable[str], headers: Iterable[str] = ()) -> Json:
    """Return a successful response whose body no schema describes."""
    return response("As requested.", {content_type: {} for content_type in content_types}, headers)


def range_responses(*content_types: str) -> dict[int, Json]:
    """Return the responses to a request with the header Range."""
    text = "The range starts after the end of the file."
    part: Json = {content_type: {} for content_type in content_types}
    return {
        206: response("The requested part.", part, (*FILE_HEADERS, "Content-Range")),
        416: error_response(text, {"Range": text}, ("Content-Range",)),
    }


def not_modified_response() -> Json:
    """Return the response to a client that has the current version."""
    return response("The client has the current version.", headers=("ETag", "Cache-Control", "Vary"))


def error_response(description: str, examples: Mapping[str, str], headers: Iterable[str] = ()) -> Json:
    """Return a response with {"detail": ...}.

    Args:
        description: when it is sent.
        examples: values of "detail", by name.
        headers: its headers beside those that all responses have.
    """
    content = {
        "schema": schema_reference("Error"),
        "examples": {name: {"value": {"detail": detail}} for name, detail in examples.items()},
    }
    return response(description, {"application/json": content}, headers)


def links(avatar_id: str, *operation_ids: str) -> Json:
    """Return links from a response to operations on the avatar whose id is found at the expression `avatar_id`."""
    return {"links": {name: {"operationId": name, "parameters": {"avatar_id": avatar_id}} for name in operation_ids}}


def query_parameter(name: str, schema: Json, description: str, example: object = None) -> Json:
    """Return an optional parameter of the query."""
    parameter = {"name": name, "in": "query", "description": description, "schema": schema}
    return parameter | ({"example": example} if example is not None else {})


def source_form(**fields: Json) -> Json:
    """Return a multipart form with `fields`, which are required, and either `image` or `video`."""
    sources: Json = {
        "image": {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP, at most 10 MB."},
        "video": {
            "type": "string", "format": "binary", "description": "An MP4, MOV, WebM or MKV, at most 200 MB."
        },
    }  # fmt: skip
    either = [
        {"type": "object", "required": [*fields, name], "properties": {**fields, name: source}}
        for name, source in sources.items()
    ]
    encoding = {
        "image": {"contentType": "image/jpeg, image/png, image/webp"},
        "video": {"contentType": "video/mp4, video/quicktime, video/webm, video/x-matroska"},
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": {"oneOf": either}, "encoding": encoding}}}


def schema_reference(name: str) -> Json:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}
