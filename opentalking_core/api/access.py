"""Who may do what: asks the plugins' `authorize` hooks before a protected action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

    from ..hookspecs import Action
    from ..host.host import PluginHost
    from ..settings import Protection, Settings

#: What a request asks for, by its route and method (HEAD counts as GET).
_ACTIONS: dict[tuple[str, str], Action] = {
    ("/avatars", "GET"): "list",
    ("/avatars/check", "POST"): "check",
    ("/avatars/custom", "POST"): "create",
    ("/avatars/{avatar_id}", "DELETE"): "delete",
    ("/avatars/custom", "DELETE"): "delete",
    ("/avatars/check", "DELETE"): "delete",
}

#: Routes that tell nothing about avatars: a load balancer's question, the pages and what they are made of.
OPEN_ROUTES = frozenset({"/", "/gallery/{name}", "/docs", "/docs.css", "/openapi.json", "/health", "/healthz"})

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = 'Bearer realm="opentalking"'


def chosen_protection(settings: Settings, host: PluginHost) -> Protection:
    """Return what the settings protect. With "auto", that is "writes" if a plugin is set up to authorize clients."""
    if settings.protect != "auto":
        return settings.protect
    return "writes" if True in host.authorizers().values() else "nothing"


class Access:
    """Falcon middleware that lets a protected action pass only if a plugin allows it, and none forbids it.

    Args:
        host: whose plugins are asked.
        protect: which actions are protected.
    """

    def __init__(self, host: PluginHost, protect: Protection) -> None:
        self._host = host
        self._protect = protect

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Answer 401 to who isn't known and 403 to who is but may not; what a plugin raises ends in a 500."""
        if req.method == "OPTIONS" or req.uri_template in OPEN_ROUTES:
            return  # a browser asks by OPTIONS, without a key, whether it may ask with one
        action = _action(req)
        if self._protect == "writes" and action in ("list", "read"):
            return
        credentials = req.get_header("Authorization")
        answer = self._host.authorize(action, _avatar_id(req, params), credentials)
        if answer is True:
            return
        if credentials is None:
            detail = f"to {action} needs permission: send a key in the header Authorization: Bearer <key>"
            raise falcon.HTTPUnauthorized(description=detail, challenges=[_CHALLENGE])
        if answer is None:
            detail = f"to {action} needs permission, and these credentials are not known here: send a valid key"
            raise falcon.HTTPUnauthorized(description=detail, challenges=[f'{_CHALLENGE}, error="invalid_token"'])
        raise falcon.HTTPForbidden(description=f"these credentials don't allow to {action} this")

    def sees_details(self, req: Request) -> bool:
        """Whether a client may know about the machine: if reading is protected, only who may read."""
        if self._protect != "everything":
            return True
        return self._host.authorize("read", None, req.get_header("Authorization")) is True


def _action(req: Request) -> Action:
    method = "GET" if req.method == "HEAD" else req.method
    # A route that is missing above is protected all the same, as the closest thing to what it may be.
    return _ACTIONS.get((req.uri_template or "", method), "read" if req.method in _READING else "create")


def _avatar_id(req: Request, params: dict[str, Any]) -> str | None:
    if "avatar_id" in params:
        return str(params["avatar_id"])
    last = req.path.rpartition("/")[2]  # "custom" and "check" are routes, and ids
    return last if last in ("custom", "check") and req.method != "POST" else None
