from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentalking_s3_storage.faulty_proxy import FaultyProxy, running_proxy
from opentalking_s3_storage.testing import SeaweedFS, s3_server, s3_url

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["s3_server", "s3_url"]


@pytest.fixture
def proxy(s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Start a faulty proxy in front of the server. Stores opened from now on use it, with a timeout of 2 seconds."""
    with running_proxy(s3_server.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        monkeypatch.setenv("OPENTALKING_S3_TIMEOUT_SECONDS", "2")
        yield running
