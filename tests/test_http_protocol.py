"""uvicorn's private names that opentalking_core.api.http_protocol uses."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Names that the protocol reads, calls or overrides, by class.
USED_NAMES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        HttpToolsProtocol,
        (
            *("connection_made", "connection_lost", "data_received", "resume_writing", "send_400_response"),
            *("cycle", "flow", "loop", "pipeline", "scope", "timeout_keep_alive_task", "transport"),
        ),
    ),
    (FlowControl, ("read_paused", "resume_reading", "write_paused")),
    (RequestResponseCycle, ("more_body", "response_complete", "response_started", "scope")),
)


@pytest.mark.parametrize(("owner", "names"), USED_NAMES, ids=lambda value: getattr(value, "__name__", ""))
def test_uvicorn_has_the_private_names_that_the_protocol_uses(owner: type, names: tuple[str, ...]) -> None:
    set_by_init = inspect.getsource(owner.__init__)  # type: ignore[misc]
    missing = [name for name in names if not hasattr(owner, name) and f"self.{name}" not in set_by_init]
    assert not missing, (
        f"uvicorn {version('uvicorn')} no longer has {', '.join(missing)} in {owner.__qualname__}:"
        " adapt opentalking_core/api/http_protocol.py before raising the upper bound in pyproject.toml"
    )
