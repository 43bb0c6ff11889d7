"""Avatar bundles on any file system that fsspec knows: gs://, az://, sftp://, webdav:// ... and fsspec+<scheme>://."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import hookimpl

if TYPE_CHECKING:
    from opentalking_core import BundleStore

#: Schemes of other plugins, and file systems that can't hold bundles. `fsspec+s3://` asks for fsspec's own S3.
_EXCLUDED_SCHEMES = {
    "file", "local", "memory", "s3", "s3a", "data", "http", "https", "zip", "tar", "reference", "git", "github",
}  # fmt: skip


@hookimpl
def open_bundle_store(url: str) -> BundleStore | None:
    """Open a URL whose scheme fsspec knows and no other plugin opens, or fsspec+<scheme>://."""
    scheme, found, _ = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme in _EXCLUDED_SCHEMES:
        return None
    import fsspec  # type: ignore[import-untyped]  # slow to import, and every start imports every plugin

    if not scheme.startswith("fsspec+") and scheme not in fsspec.available_protocols():
        return None
    from .store import FsspecStore

    return FsspecStore(url)
