"""Map domain errors to HTTP: one table of status codes, and one body for every error."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

import falcon
import falcon.asgi

from .. import errors
from .observability import target

log = logging.getLogger(__name__)

STATUS: dict[type[errors.OpenTalkingError], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.NotDeletable: HTTPStatus.FORBIDDEN,
    errors.NotChangeable: HTTPStatus.FORBIDDEN,
    errors.ManifestChanged: HTTPStatus.PRECONDITION_FAILED,
    errors.NotSupported: HTTPStatus.NOT_IMPLEMENTED,
    errors.Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.WorkersUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreFull: HTTPStatus.INSUFFICIENT_STORAGE,
}

UNEXPECTED_DETAIL = "an unexpected error happened in the server; its log has the details"


def add_error_handlers(app: falcon.asgi.App[Any, Any]) -> None:
    """Make `app` answer every error with {"detail": "<one clear sentence>"}, and never with a traceback."""
    app.add_error_handler(errors.OpenTalkingError, _answer_domain_error)
    app.add_error_handler(Exception, _answer_unexpected)
    app.set_error_serializer(_serialize)


def status_and_detail(error: Exception) -> tuple[int, str]:
    """Return the status and the sentence for an error. An unexpected error is logged, and its text is kept secret."""
    status = STATUS.get(type(error))  # type: ignore[arg-type]  # a type that is no key
    if status is None:
        log.error("the work on an upload failed", exc_info=error)
        return HTTPStatus.INTERNAL_SERVER_ERROR.value, UNEXPECTED_DETAIL
    return status.value, str(error)


async def _answer_domain_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: errors.OpenTalkingError, params: dict[str, Any]
) -> None:
    status = STATUS.get(type(error))
    if status is None:
        await _answer_unexpected(req, resp, error, params)
        return
    if isinstance(error, errors.Overloaded | errors.StoreUnavailable | errors.WorkersUnavailable):
        resp.set_header("Retry-After", str(error.retry_after))
    resp.status = status
    _set_detail(resp, str(error))


async def _answer_unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    log.error("%s %s failed", req.method, target(req.scope), exc_info=error)
    resp.status = HTTPStatus.INTERNAL_SERVER_ERROR
    _set_detail(resp, UNEXPECTED_DETAIL)


def _serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Serialize Falcon's own errors (unknown path, wrong method, malformed form) like domain errors."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {req.path[:200]}"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{req.method} is not allowed at {req.path[:200]}"
    else:
        detail = error.description or error.title or HTTPStatus(error.status_code).phrase
    _set_detail(resp, detail)


def _set_detail(resp: falcon.Response, detail: str) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json.dumps({"detail": detail}).encode()
    resp.text = resp.media = resp.stream = None
