"""Avatar bundles on S3. Opens s3://bucket/prefix."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentalking_core import BundleStore


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Open s3://bucket/prefix."""
    if not url.lower().startswith("s3:"):
        return None
    from .store import S3Store  # every start imports every plugin, so keep the import light

    return S3Store(url)


@hookimpl
def report_problems() -> Iterable[str]:
    """Report what the servers of the open stores can't do or don't allow."""
    module = sys.modules.get(f"{__name__}.store")
    return module.problems_of_open_stores() if module else ()
