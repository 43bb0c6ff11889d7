"""The avatars of another opentalking-core server as a read-only bundle store: http:// and https://."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from opentalking_core import BundleStore


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Open http:// and https://, the address of a server."""
    if url.partition("://")[0].lower() not in ("http", "https"):
        return None
    from .store import HttpStore  # httpx is slow to import, and every start imports every plugin

    return HttpStore(url)
