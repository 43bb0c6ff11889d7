"""A running service for tests: real HTTP on a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import threading
import time
from typing import TYPE_CHECKING

import httpx
import uvicorn

from ..api import create_app
from ..api.http_protocol import LimitedHttpProtocol
from ..host.host import PluginChoice, PluginHost
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike


#: Trusts no certificate. Tests use plain HTTP, and loading the usual certificates takes as long as starting a service.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextlib.contextmanager
def running_service(
    avatars_url: str,
    *,
    plugins: Mapping[str, object] | None = None,
    plugin_files: Iterable[str | PathLike[str]] = (),
    real_detectors: bool = False,
    **settings: object,
) -> Iterator[httpx.Client]:
    """Serve `avatars_url` in a thread with uvicorn; yield an HTTP client whose base URL is the service.

    All installed plugins are loaded, as in any service, except for the mouth detectors. Settings that are not given
    come from the environment, OPENTALKING_DISABLE_PLUGINS for one; names in it disable plugins given here, too.

    Args:
        avatars_url: URL of the bundle store.
        plugins: objects with hooks to register, by name: fake detectors, your own store.
        plugin_files: one-file plugins to load, as OPENTALKING_PLUGINS would; worker processes load them, too.
        real_detectors: also use the installed mouth detectors; without them, only those given here are asked.
        settings: fields of `Settings`; portraits are worked on in threads unless `portrait_workers` says otherwise.
    """
    chosen = Settings.model_validate({"portrait_workers": 0, **settings, "avatars_dir": avatars_url})
    disabled = () if real_detectors else installed_detectors()
    choice = PluginChoice(
        (*chosen.plugins, *map(str, plugin_files)), (*chosen.disable_plugins, *disabled), chosen.detectors
    )
    host = PluginHost(choice)
    for name, plugin in (plugins or {}).items():
        host.register(plugin, name)
    app = create_app(chosen, host.load())
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, lifespan="on", http=LimitedHttpProtocol, server_header=False
    )
    server = _Server(config)
    thread = threading.Thread(target=asyncio.run, args=[server.serve()], name="opentalking-test-server")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the service did not start; the log says why")
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        base_url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base_url, timeout=60, trust_env=False, verify=_NO_CERTIFICATES) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """Stops at once: uvicorn checks `should_exit` ten times a second, and hundreds of tests would wait for it."""

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            await asyncio.sleep(0.005)
            counter = (counter + 1) % 100

    async def shutdown(self, sockets: object = None) -> None:
        # uvicorn's own method sleeps for 0.1 s, even without a connection.
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.001)
        await self.lifespan.shutdown()


@functools.cache
def installed_detectors() -> tuple[str, ...]:
    """Return the names of the installed plugins that detect mouths."""
    return tuple(info.name for info in PluginHost().load().detectors())
