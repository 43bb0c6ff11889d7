"""Avatar bundles in a folder. Opens file:// URLs; the host turns plain paths into file:// URLs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from opentalking_core import BundleStore


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Open file:///srv/avatars."""
    if not url.lower().startswith("file:"):
        return None
    from .store import LocalStore  # every start imports every plugin, so keep the import light

    return LocalStore(url)
