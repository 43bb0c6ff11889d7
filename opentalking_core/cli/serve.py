"""opentalking-core serve"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging.config
import os
import socket
import sys
from typing import Annotated, Any

import typer

from .options import Store

_MAX_PORT = 65535

#: How many files and connections the process may have open, if the system allows it.
_MAX_OPEN_FILES = 65536


def serve(
    store: Store = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="API processes.", min=1)] = 1,
) -> None:
    """Serve the avatars over HTTP."""
    import uvicorn

    from ..api import create_app
    from ..api.access import chosen_protection
    from ..api.http_protocol import LimitedHttpProtocol
    from ..host.host import PluginChoice, PluginHost
    from .output import err, errors_in_words, read_settings

    if store is not None:
        os.environ["OPENTALKING_AVATARS_DIR"] = store  # API processes read their settings from the environment
    settings = read_settings()
    log_config = _log_config(plain=sys.stderr.isatty())
    logging.config.dictConfig(log_config)  # uvicorn does so later, but loading plugins may log warnings
    with errors_in_words():
        choice = PluginChoice(settings.plugins, settings.disable_plugins, settings.detectors)
        host_of_plugins = PluginHost(choice).load()
        # With several API processes, too, which make their own app: an error is shown here, once.
        app = create_app(settings, host_of_plugins)
    if chosen_protection(settings, host_of_plugins) == "nothing" and not _is_loopback(host):
        err.print(
            f"[yellow]warning:[/] every client that reaches {host}:{port} may create and delete avatars;"
            " configure a plugin that authorizes clients (docs/operating.md), or listen on 127.0.0.1 behind a proxy"
            " that authenticates clients",
            soft_wrap=True,
        )
    _check_port(host, port)
    _allow_many_connections()
    uvicorn.run(
        app if workers == 1 else "opentalking_core.api:create_app",
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        http=LimitedHttpProtocol,
        ws="none",
        log_config=log_config,
        access_log=False,  # uvicorn's is written on the event loop; ours is OPENTALKING_ACCESS_LOG
        server_header=False,
        timeout_graceful_shutdown=30,
    )


def _check_port(host: str, port: int) -> None:
    """End the command with a sentence if the port can't be listened on; uvicorn would say it last, and in its words."""
    from .output import fail

    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as error:
        remedy = "correct --host or --port"
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < _MAX_PORT else port - 1
            remedy = f"is a server running already? Another port: `--port {other}`, or `make serve PORT={other}`"
        fail(f"{host}:{port} can't be listened on ({error.strerror}): {remedy}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the system allows: the usual 1,024 are used up by 1,024 idle clients."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _MAX_OPEN_FILES), hard))


def _log_config(plain: bool) -> dict[str, Any]:
    """Return the configuration that logs to standard error: this project's records from INFO up, others from WARNING.

    Args:
        plain: log lines for people on a terminal; else one JSON object on each line.
    """
    from pythonjsonlogger.core import RESERVED_ATTRS

    formatter: dict[str, Any] = (
        {"format": "%(asctime)s %(levelname)-7s %(message)s", "datefmt": "%H:%M:%S"}
        if plain
        else {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # uvicorn's message once more, with escape codes
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        }
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": "opentalking_core.api.observability.RequestIdFilter"}},
        "formatters": {"lines": formatter},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "lines", "filters": ["request_id"]},
        },
        "loggers": {"opentalking_core": {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }
