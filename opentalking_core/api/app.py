"""create_app(): everything put together."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi

from ..host.host import MOUTH_PACKAGE, PluginChoice, PluginHost
from ..service import AvatarService
from ..settings import Settings
from .access import Access, chosen_protection
from .avatars import Avatar, AvatarList, CustomAvatars, PortraitChecks, Preview
from .docs import add_docs
from .errors import add_error_handlers
from .gallery import add_gallery
from .headers import READABLE_ELSEWHERE, NoSniff, VaryByOrigin
from .observability import MetricsPage, Observability
from .replay import Replay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon.asgi import Request, Response

    from .replay import Message, Receive, Scope, Send

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, host: PluginHost | None = None) -> falcon.asgi.App[Any, Any]:
    """The avatar service as an ASGI app; it connects to the store when the server starts it.

    Args:
        settings: from the environment (OPENTALKING_*) if None.
        host: the plugins, loaded; those that are installed and named in the settings if None.

    Raises:
        InvalidURL, PluginError: see `AvatarService`.
    """
    settings = settings or Settings()
    if host is None:
        host = PluginHost(PluginChoice(settings.plugins, settings.disable_plugins, settings.detectors)).load()
    service = AvatarService(settings, host)
    observability = Observability(service.metrics, settings.access_log)
    protection = chosen_protection(settings, host)
    app = _App(observability, may_replay=protection != "everything")
    app.add_middleware([_Lifespan(service, host), observability])
    if settings.cors_origins:
        origins = "*" if "*" in settings.cors_origins else settings.cors_origins
        app.add_middleware([falcon.CORSMiddleware(origins, READABLE_ELSEWHERE), VaryByOrigin()])
    app.add_middleware(NoSniff())
    access = Access(host, protection)
    if protection != "nothing":
        app.add_middleware(access)
    elif names := [name for name, can_authorize in host.authorizers().items() if can_authorize is not False]:
        message = "plugin %s implements `authorize` but is never called; set OPENTALKING_PROTECT=writes or everything"
        log.warning(message, ", ".join(names))
    app.req_options.strip_url_path_trailing_slash = True
    add_error_handlers(app)
    app.add_route("/avatars", AvatarList(service))
    app.add_route("/avatars/custom", CustomAvatars(service))
    app.add_route("/avatars/check", PortraitChecks(service))
    app.add_route("/avatars/{avatar_id}", Avatar(service))
    app.add_route("/avatars/{avatar_id}/preview", Preview(service))
    if settings.gallery:
        add_gallery(app)
    app.add_route("/metrics", MetricsPage(service.metrics))
    health = Health(service, access)
    app.add_route("/health", health)
    app.add_route("/healthz", health)
    add_docs(app)
    return app


class _App(falcon.asgi.App[Any, Any]):
    """Falcon's app, with requests that it need not see, or should see earlier.

    Args:
        observability: for the requests that Falcon doesn't see.
        may_replay: whether answers may be given again; not where each reader is asked for a key.
    """

    def __init__(self, observability: Observability, may_replay: bool) -> None:
        super().__init__()
        self._replay = Replay(observability) if may_replay else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Answer a request."""
        if scope.get("method") == "GET" and self._replay is not None:
            if await self._replay.answer(scope, send):
                return
            send = self._replay.recording(scope, send)
        if scope["type"] == "http":
            receive = _at_once(receive)
        await super().__call__(scope, receive, send)


def _at_once(receive: Receive) -> Receive:
    """A `receive` that says at once that a body is coming.

    Falcon waits for a body's first bytes before it looks at a request. So an upload that announces too large a size is
    refused before it is sent (and before «100 Continue» invites it), and a GET that announces a body doesn't wait for
    what nobody reads.
    """
    dispatched = False

    async def receive_after_dispatch() -> Message:
        nonlocal dispatched
        if dispatched:
            return await receive()
        dispatched = True
        return {"type": "http.request", "body": b"", "more_body": True}

    return receive_after_dispatch


class Health:
    """/health: which store and detectors are in use, and whether each works."""

    def __init__(self, service: AvatarService, access: Access) -> None:
        self._service = service
        self._access = access

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 if avatars can be served, 503 if not; to strangers, if reading is protected, no more than that."""
        health = await self._service.health()
        resp.media = health if self._access.sees_details(req) else {"status": health["status"]}
        resp.status = falcon.HTTP_503 if health["status"] == "unavailable" else falcon.HTTP_200

    on_head = on_get


class _Lifespan:
    """Opens the service when the server starts, closes it when it ends."""

    def __init__(self, service: AvatarService, host: PluginHost) -> None:
        self._service = service
        self._host = host

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._service.__aenter__()
        # In a daemon thread, because neither the start nor the end of the server should wait for a download.
        threading.Thread(target=_prepare_plugins, args=[self._host], daemon=True).start()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._service.__aexit__()


def _prepare_plugins(host: PluginHost) -> None:
    """Fetch missing model files, then log what keeps plugins from working, before the first upload shows it."""
    for plugin, result in host.fetch_models():
        if isinstance(result, Exception):
            log.warning("plugin %s goes without its model files: %s", plugin, result)
    for plugin, problems in host.plugin_warnings().items():
        for problem in problems:
            log.warning("plugin %s: %s", plugin, problem)
    if not host.detectors():
        log.warning("no plugin locates mouths, so new avatars get none: install the package %s", MOUTH_PACKAGE)
