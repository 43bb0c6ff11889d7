"""An AvatarService without HTTP in front of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from opentalking_core.host.host import PluginChoice, PluginHost
from opentalking_core.service import AvatarService
from opentalking_core.settings import Settings
from opentalking_core.testing.running import installed_detectors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime


@contextlib.asynccontextmanager
async def opened_service(
    store_url: str,
    plugins: Mapping[str, object] | None = None,
    now: Callable[[], datetime] | None = None,
    **settings: Any,
) -> AsyncIterator[AvatarService]:
    """Open a service over a store; see `running_service` for the plugins and settings."""
    host = PluginHost(PluginChoice(disabled=installed_detectors()))
    for name, plugin in (plugins or {}).items():
        host.register(plugin, name)
    chosen = Settings.model_validate({"portrait_workers": 0, **settings, "avatars_dir": store_url})
    async with AvatarService(chosen, host.load(), now) as service:
        yield service
