"""Opens example:// URLs. Every plugin is imported at every start, so what is heavy is imported in the hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from opentalking_core import BundleStore


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Return the store at example:///path/to/file.db; None for any other URL, which is another plugin's."""
    if not url.startswith("example://"):
        return None
    from .store import ExampleStore

    return ExampleStore(url)
