"""Avatar bundles on S3: opens s3://bucket/prefix."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentalking_core import BundleStore


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Opens s3://bucket/prefix."""
    if not url.lower().startswith("s3:"):
        return None
    from .store import S3Store  # every plugin is imported at every start, most of them for nothing

    return S3Store(url)


@hookimpl
def report_problems() -> Iterable[str]:
    """What the servers of the stores that are open don't do, or don't let us do."""
    module = sys.modules.get(f"{__name__}.store")
    return module.problems_of_open_stores() if module else ()
