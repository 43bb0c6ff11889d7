"""The protocol of a bundle store, and of its optional abilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Self

#: The file that makes a bundle exist.
MANIFEST = "manifest.json"

#: The picture that represents a bundle in lists.
PREVIEW = "preview.png"


@dataclass(frozen=True, slots=True)
class BundleVersion:
    """An existing bundle, as `BundleStore.scan` reports it.

    Args:
        avatar_id: the bundle's folder name.
        version: an opaque token that differs whenever manifest.json has changed.
    """

    avatar_id: str
    version: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a bundle.

    Args:
        path: path inside the bundle, separated by `/`: "frames/frame_00000.png".
        size: size in bytes.
        etag: an opaque token, ASCII without quotes, that differs whenever the content does. `files` and `open` give an
            unchanged file the same one. In the first second after a change, each look may give another one.
        modified: time of the last change, in seconds since the epoch.
    """

    path: str
    size: int
    etag: str
    modified: float


class FileReader(Protocol):
    """An open file of a bundle. All reads see the same version, even if the bundle is changed or deleted meanwhile."""

    info: FileInfo

    def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from offset `start` up to `stop` (or the end), in chunks of at most a few MiB."""
        ...

    async def read(self) -> bytes:
        """Return the whole content."""
        ...


class BundleStore(Protocol):
    """A store of avatar bundles. A storage plugin returns a store for a URL. A store promises:

    A bundle is a set of files under an avatar id, among them `manifest.json`. A bundle exists if its manifest exists.

    * Ids and paths come validated (`is_avatar_id`, `is_bundle_path`), but a store still refuses to leave its root, also
      through symbolic links.
    * A bundle appears and disappears whole. A crash at any time leaves nothing visible, and nothing that a later
      `__aenter__` does not sweep.
    * A bundle is durable when `create` returns.
    * Stores raise NotFound, AlreadyExists, ManifestChanged, StoreUnavailable and StoreFull, and no other errors.
      In a store that can only be read, `create` and `delete` raise NotSupported.
    * The key layout is the folder layout, so that `cp -r` and `aws s3 sync` work between stores.
    * Methods are called concurrently from one event loop and must not block it.

    `opentalking_core.testing.stores.BundleStoreContract` checks these promises, and
    `ReadOnlyStoreContract` those of a store that can only be read.
    """

    url: str  #: the URL as opened, without secrets: for logs, /health and the command line

    async def __aenter__(self) -> Self:
        """Connect, and remove what a crash has left. Raises StoreUnavailable."""
        ...

    async def __aexit__(self, *exc: object) -> None: ...

    def scan(self) -> AsyncIterator[BundleVersion]:
        """Yield every bundle, in any order. Called often, so as cheaply as the backend allows."""
        ...

    def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """Yield every file of the bundle, in any order. Raises NotFound."""
        ...

    def open(self, avatar_id: str, path: str) -> AbstractAsyncContextManager[FileReader]:
        """Open a file for reading. Entering raises NotFound if there is no such bundle or file, StoreUnavailable."""
        ...

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """Write a new bundle, `manifest.json` included: whole and durable, or not at all.

        Of several concurrent creators of one id, exactly one succeeds. Exceptions of streams in `files` propagate.

        Raises:
            AlreadyExists: there is a bundle with this id, or another creator is writing it.
            StoreFull, StoreUnavailable: the backend has no room or can't be used.
            ValueError: the id or a path is malformed, or manifest.json is missing. Nothing was written.
        """
        ...

    async def delete(self, avatar_id: str) -> None:
        """Delete the bundle, whole and durably. Raises NotFound, StoreUnavailable."""
        ...


@runtime_checkable
class ChangeStamp(Protocol):
    """An optional ability of a store: to tell within microseconds that no bundle was added, removed or changed.

    A store whose stamp may be late, even by milliseconds, must not have this method: the host would answer requests
    with a list that lacks avatars.
    """

    def change_stamp(self) -> Hashable:
        """Return a value that differs as soon as any process's `create`, `delete` or `replace_manifest` has returned.

        Called on the event loop, for most requests.
        """
        ...


@runtime_checkable
class PresignedURLs(Protocol):
    """An optional ability of a store: to let clients fetch a file directly from the backend for a limited time."""

    async def presigned_url(self, avatar_id: str, path: str, seconds: float) -> str:
        """Return a URL with which anyone can GET the file for `seconds`. Raises NotFound, StoreUnavailable."""
        ...


@runtime_checkable
class ReplaceableManifests(Protocol):
    """An optional ability of a store: to replace the manifest of an existing bundle, if nobody else was faster."""

    async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
        """Write a new manifest.json in the place of the present one, whole and durable, or not at all.

        A reader sees the old manifest or the new one, and so does the next start after a crash. Of several writers
        that expect one version, exactly one succeeds. A bundle that is deleted meanwhile stays deleted. `expected_etag`
        is the `FileInfo.etag` of the manifest that the caller has read. While the manifest stays the same, this tag
        must stay the same, also right after the manifest was written.

        Args:
            avatar_id: the bundle's id.
            manifest: the content of the new manifest.json.
            expected_etag: the entity tag of the manifest.json to replace.

        Returns:
            the entity tag of the new manifest.json.

        Raises:
            ManifestChanged: the present manifest has another entity tag. Nothing was written.
            NotFound: there is no such bundle, or it was deleted meanwhile.
            StoreFull: the backend has no room left. Nothing was written.
            StoreUnavailable: the backend can't be used. If it failed halfway, the new manifest may be there.
        """
        ...
