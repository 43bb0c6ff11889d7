"""create_app(): make the ASGI app of the service, the resources and the middleware."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import falcon
import falcon.asgi

from ..host.host import MOUTH_PACKAGE, PluginChoice, PluginHost
from ..service import AvatarService
from ..settings import Settings
from .access import Access, chosen_protection, explain_closed_writes, explain_unasked_plugins
from .asgi import DispatchBeforeBody
from .avatar import AvatarResource
from .avatar_list import AvatarListResource
from .bundle_files import FileListResource, FileResource
from .bundle_zip import BundleZipResource
from .docs import docs_routes
from .errors import add_error_handlers
from .events import EventsResource
from .gallery import gallery_routes
from .headers import CORS_EXPOSED_HEADERS, NoSniff, VaryByOrigin
from .health import HealthResource, HealthzResource
from .metrics import MetricsResource
from .observability import Observability
from .preview import PreviewResource
from .preview_video import PreviewVideoResource
from .replay import ReplayMiddleware
from .sources import CustomAvatarsResource, SourceCheckResource
from .unfinished import UnfinishedResponses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..settings import Protection
    from .asgi import ASGIApp

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, host: PluginHost | None = None) -> ASGIApp:
    """Return the avatar service as an ASGI app. The app connects to the store when the server starts the app.

    Args:
        settings: from the environment (OPENTALKING_*) if None.
        host: the loaded plugins; if None, the plugins that are installed and named in the settings.

    Raises:
        InvalidURL, PluginError: see `AvatarService`.
    """
    settings = settings or Settings()
    if host is None:
        host = PluginHost(PluginChoice(settings.plugins, settings.disable_plugins, settings.detectors)).load()
    service = AvatarService(settings, host)
    observability = Observability(service.metrics, settings.access_log)
    protection = chosen_protection(settings, host)
    if closed := explain_closed_writes(settings, host):
        log.warning("%s", closed)
    if protection == "nothing" and (unasked := explain_unasked_plugins(host)):
        log.warning("%s", unasked)
    falcon_app = _falcon_app(settings, host, service, observability, protection)
    # Falcon's annotations ask for a dict as the scope.
    app: ASGIApp = UnfinishedResponses(DispatchBeforeBody(cast("ASGIApp", falcon_app)))
    if protection != "everything":  # where reading needs a key, a response is not for every client
        app = ReplayMiddleware(app, observability)
    return app


def _falcon_app(
    settings: Settings,
    host: PluginHost,
    service: AvatarService,
    observability: Observability,
    protection: Protection,
) -> falcon.asgi.App[Any, Any]:
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    app.add_middleware([_Lifespan(service, host), observability])
    if settings.cors_origins:
        origins = "*" if "*" in settings.cors_origins else settings.cors_origins
        app.add_middleware([falcon.CORSMiddleware(origins, CORS_EXPOSED_HEADERS), VaryByOrigin()])
    app.add_middleware(NoSniff())
    access = Access(host, protection)
    if protection != "nothing":
        app.add_middleware(access)
    app.req_options.strip_url_path_trailing_slash = True
    add_error_handlers(app)
    routes: dict[str, object] = {
        "/avatars": AvatarListResource(service),
        "/avatars/custom": CustomAvatarsResource(service),
        "/avatars/check": SourceCheckResource(service),
        "/avatars/events": EventsResource(service),
        "/avatars/{avatar_id}": AvatarResource(service),
        "/avatars/{avatar_id}/preview": PreviewResource(service),
        "/avatars/{avatar_id}/preview-video": PreviewVideoResource(service),
        "/avatars/{avatar_id}/files": FileListResource(service),
        "/avatars/{avatar_id}/files/{path:path}": FileResource(service),
        "/avatars/{avatar_id}/bundle.zip": BundleZipResource(service),
        "/metrics": MetricsResource(service.metrics),
        "/health": HealthResource(service, access),
        "/healthz": HealthzResource(service, access),
        **(gallery_routes() if settings.gallery else {}),
    }
    for path, resource in {**routes, **docs_routes(routes)}.items():
        app.add_route(path, resource)
    return app


class _Lifespan:
    """Falcon middleware that opens the service when the server starts, and closes it when the server ends."""

    def __init__(self, service: AvatarService, host: PluginHost) -> None:
        self._service = service
        self._host = host

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._service.__aenter__()
        # A daemon thread, because neither the start nor the end of the server should wait for a download.
        threading.Thread(target=_prepare_plugins, args=[self._host], daemon=True).start()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._service.__aexit__()


def _prepare_plugins(host: PluginHost) -> None:
    """Fetch missing model files, then log what keeps plugins from working, before an upload fails because of it."""
    for plugin, result in host.fetch_models():
        if isinstance(result, Exception):
            log.warning("plugin %s goes without its model files: %s", plugin, result)
    for plugin, problems in host.plugin_warnings().items():
        for problem in problems:
            log.warning("plugin %s: %s", plugin, problem)
    if not host.detectors():
        log.warning("no plugin locates mouths, so new avatars get none: install the package %s", MOUTH_PACKAGE)
