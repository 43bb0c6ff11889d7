"""Avatar bundles in a folder: opens file:// URLs; the host turns plain paths into those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from opentalking_core import BundleStore


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Opens file:///srv/avatars."""
    if not url.lower().startswith("file:"):
        return None
    from .store import LocalStore  # every plugin is imported at every start, most of them for nothing

    return LocalStore(url)
