"""opentalking-core serve"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer


def serve(
    avatars: Annotated[
        str | None, typer.Option(help="Folder or URL of the avatars. [default: $OPENTALKING_AVATARS_DIR or ./avatars]")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="API processes.", min=1)] = 1,
) -> None:
    """Serve the avatars over HTTP."""
    import uvicorn

    from ..api import create_app
    from .output import errors_in_words, read_settings

    if avatars is not None:
        os.environ["OPENTALKING_AVATARS_DIR"] = avatars  # where the API processes look too
    settings = read_settings()
    with errors_in_words():
        app = create_app(settings)  # also when several processes make their own: what is wrong shows here, once
    uvicorn.run(
        app if workers == 1 else "opentalking_core.api:create_app",
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        log_config=_log_config(uvicorn.config.LOGGING_CONFIG),
        access_log=False,  # a line for each request costs a tenth of the throughput; a proxy in front writes one anyway
        server_header=False,
        timeout_graceful_shutdown=30,
    )


def _log_config(base: dict[str, Any]) -> dict[str, Any]:
    """uvicorn's logging, with this project's messages from INFO up and everybody else's from WARNING up."""
    ours = {"opentalking_core": {"level": "INFO"}}
    return base | {"loggers": base["loggers"] | ours, "root": {"handlers": ["default"], "level": "WARNING"}}
