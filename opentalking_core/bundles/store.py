"""The bundle store: where avatar bundles live. A storage plugin returns one for a URL; this is what it promises.

A bundle is a set of files under an avatar id, one of them `manifest.json`. What makes it exist is its manifest.

* Ids and paths come validated (`manifest.is_avatar_id`, `manifest.is_bundle_path`); a store still refuses to leave its
  root, symbolic links included.
* A bundle appears whole or not at all and disappears whole. A crash at any instant leaves nothing visible, and nothing
  that a later `__aenter__` does not sweep.
* What `create` has written is durable when it returns.
* Errors are those of `opentalking_core.errors` and no others: NotFound, AlreadyExists, StoreUnavailable, StoreFull.
* The key layout is the folder layout, so that `cp -r` and `aws s3 sync` between stores just work.
* Methods are called from one event loop, many at a time; none of them may block it.

`opentalking_core.testing.BundleStoreContract` checks these promises.
"""

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
    """A bundle that is there, as `BundleStore.scan` reports it.

    Args:
        avatar_id: the bundle's folder name.
        version: a token that differs whenever manifest.json has changed; compare it, don't interpret it.
    """

    avatar_id: str
    version: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a bundle.

    Args:
        path: inside the bundle, with slashes: "frames/frame_00000.png".
        size: in bytes.
        etag: an opaque token, ASCII without quotes, that differs whenever the content does.
        modified: seconds since the epoch.
    """

    path: str
    size: int
    etag: str
    modified: float


class FileReader(Protocol):
    """An open file of a bundle; what it yields is one consistent version, even if the bundle is deleted meanwhile."""

    info: FileInfo

    def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from offset `start` up to `stop` (or the end), in pieces of at most a few MiB."""
        ...

    async def read(self) -> bytes:
        """The whole content."""
        ...


class BundleStore(Protocol):
    """Where bundles live; see the module's docstring for what it promises as a whole."""

    url: str  #: as opened, without secrets: for logs, /health and the command line

    async def __aenter__(self) -> Self:
        """Connect, and sweep what a crash has left. Raises StoreUnavailable."""
        ...

    async def __aexit__(self, *exc: object) -> None: ...

    def scan(self) -> AsyncIterator[BundleVersion]:
        """Yield every bundle that is there, in any order; as cheaply as the backend allows, for it is called often."""
        ...

    def files(self, avatar_id: str) -> AsyncIterator[FileInfo]:
        """Yield every file of the bundle, in any order. Raises NotFound."""
        ...

    def open(self, avatar_id: str, path: str) -> AbstractAsyncContextManager[FileReader]:
        """Open one file for reading. Entering raises NotFound if the bundle or the file isn't there."""
        ...

    async def create(self, avatar_id: str, files: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
        """Write a new bundle, `manifest.json` included: whole, durable, or not at all. Raises AlreadyExists, StoreFull.

        Of several creators of one id exactly one succeeds. Raises ValueError, before anything is written, for an id or
        a path that can't be one, or no manifest.json; what a stream of `files` raises comes through.
        """
        ...

    async def delete(self, avatar_id: str) -> None:
        """Make the bundle disappear, whole and for good. Raises NotFound."""
        ...


@runtime_checkable
class ChangeStamp(Protocol):
    """An optional ability of a store: to say in microseconds that nothing was added or removed."""

    def change_stamp(self) -> Hashable:
        """A value that differs after a bundle was added or removed, by anybody. Called on the event loop."""
        ...


@runtime_checkable
class PresignedURLs(Protocol):
    """An optional ability of a store: to let clients fetch a file from the backend itself, for a while."""

    async def presigned_url(self, avatar_id: str, path: str, seconds: float) -> str:
        """A URL that anybody can GET the file from for so long. Raises NotFound, StoreUnavailable."""
        ...
