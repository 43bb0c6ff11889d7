"""Access control: asks the plugins' `authorize` hooks before a protected action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from ..errors import PluginError
from .avatar import RESERVED_IDS

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

    from ..hookspecs import Action
    from ..host.host import PluginHost
    from ..host.loading import Status
    from ..settings import Protection, Settings

#: The action of a request that changes one avatar, by method.
_ACTIONS_ON_AVATAR: dict[str, Action] = {"PATCH": "update", "DELETE": "delete"}

#: The action of a request, by route and method (HEAD counts as GET).
_ACTIONS: dict[tuple[str, str], Action] = {
    ("/avatars", "GET"): "list",
    ("/avatars/check", "POST"): "check",
    ("/avatars/events", "GET"): "list",
    ("/avatars/custom", "POST"): "create",
    **{
        (f"/avatars/{avatar_id}", method): action
        for avatar_id in ("{avatar_id}", *RESERVED_IDS)
        for method, action in _ACTIONS_ON_AVATAR.items()
    },
}

#: Routes that reveal nothing about avatars: health for load balancers, the pages, and the pages' files.
OPEN_ROUTES = frozenset({"/", "/gallery/{name}", "/docs", "/docs/{name}", "/openapi.json", "/health", "/healthz"})

_GERUNDS: dict[Action, str] = {
    "list": "listing avatars",
    "read": "reading this",
    "check": "checking a portrait",
    "create": "creating an avatar",
    "update": "changing an avatar",
    "delete": "deleting an avatar",
}

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = 'Bearer realm="opentalking"'


def chosen_protection(settings: Settings, host: PluginHost) -> Protection:
    """Return what the settings protect.

    With "auto", that is "writes" if a plugin is set up to authorize clients. It is also "writes" if any plugin failed:
    the failed plugin may be the one that authorizes clients, and its failure must not open the service.

    Raises:
        PluginError: with "auto", a plugin can't say whether it is set up.
    """
    if settings.protect != "auto":
        return settings.protect
    return "writes" if host.can_authorize() or _names(host, "failed") else "nothing"


def explain_closed_writes(settings: Settings, host: PluginHost) -> str | None:
    """Return why writes are protected although no plugin is set up to authorize clients, or None if they are not.

    Raises:
        PluginError: see `chosen_protection`.
    """
    if settings.protect != "auto" or host.can_authorize() or not (failed := _names(host, "failed")):
        return None
    return (
        f"plugin {failed} failed and may be the one that authorizes clients, so creating, checking, changing and"
        f" deleting need a permission that no other plugin is set up to give; repair plugin {failed}, or set"
        " OPENTALKING_PROTECT=nothing"
    )


def explain_unasked_plugins(host: PluginHost) -> str | None:
    """Return which plugins could authorize clients but are never asked, because nothing is protected."""
    if not (authorizers := ", ".join(host.possible_authorizers())):
        return None
    return (
        f"plugin {authorizers} implements `authorize` but is never called; set OPENTALKING_PROTECT=writes or everything"
    )


def _names(host: PluginHost, status: Status) -> str:
    """Return the names of the plugins of this status, comma-separated."""
    return ", ".join(dict.fromkeys(info.name for info in host.plugins() if info.status == status))


class Access:
    """Falcon middleware that lets a protected action pass only if a plugin allows it, and no plugin forbids it.

    Args:
        host: the plugins to ask.
        protect: which actions are protected.
    """

    def __init__(self, host: PluginHost, protect: Protection) -> None:
        self._host = host
        self._protect = protect

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Respond 401 to unknown clients and 403 to known clients that lack permission.

        An exception in a plugin becomes a 500.
        """
        # Browsers send OPTIONS without a key, to ask whether they may send a request with a key.
        if req.method == "OPTIONS" or req.uri_template in OPEN_ROUTES:
            return
        action = action_of(req.uri_template or "", req.method)
        if self._protect == "writes" and action in ("list", "read"):
            return
        credentials = req.get_header("Authorization")
        answer = self._host.authorize(action, _avatar_id(req, params), credentials)
        if answer is True:
            return
        if credentials is None:
            raise falcon.HTTPUnauthorized(description=unauthorized_detail(action), challenges=[_CHALLENGE])
        if answer is None:
            detail = f"{_GERUNDS[action]} requires a valid key, and these credentials are not known here"
            raise falcon.HTTPUnauthorized(description=detail, challenges=[f'{_CHALLENGE}, error="invalid_token"'])
        raise falcon.HTTPForbidden(description=forbidden_detail(action))

    def sees_details(self, req: Request) -> bool:
        """Return whether a client may see details of the machine: if reading is protected, only readers may."""
        return self._protect != "everything" or self._permits(req, "read")

    def sees_plugins(self, req: Request) -> bool:
        """Return whether a client may see what plugins report: if anything is protected, only permitted clients may."""
        return self._protect == "nothing" or self._permits(req, "read" if self._protect == "everything" else "create")

    def _permits(self, req: Request, action: Action) -> bool:
        try:
            return self._host.authorize(action, None, req.get_header("Authorization")) is True
        except PluginError:  # the next protected request logs the failure; the health must be seen meanwhile
            return False


def unauthorized_detail(action: Action) -> str:
    """Return the sentence for a client that sends no credentials."""
    return f"{_GERUNDS[action]} requires a key: send a key in the header Authorization: Bearer <key>"


def forbidden_detail(action: Action) -> str:
    """Return the sentence for a known client that lacks permission."""
    return f"these credentials do not permit {_GERUNDS[action]}"


def action_of(route: str, method: str) -> Action:
    """Return the action of a request. A route that `_ACTIONS` lacks is protected like reading or creating an avatar."""
    method = "GET" if method == "HEAD" else method
    return _ACTIONS.get((route, method), "read" if method in _READING else "create")


def _avatar_id(req: Request, params: dict[str, Any]) -> str | None:
    if "avatar_id" in params:
        return str(params["avatar_id"])
    last = req.path.rpartition("/")[2]
    return last if last in RESERVED_IDS and req.method != "POST" else None
