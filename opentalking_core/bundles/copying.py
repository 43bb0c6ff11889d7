"""Copy bundles from one store to another: streamed, verified, and never visible half copied."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import AlreadyExists, NotFound, OpenTalkingError, StoreUnavailable
from .store import MANIFEST
from .store_helpers import concurrently

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from .store import BundleStore, FileInfo

Outcome = Literal["copied", "present", "would copy", "failed"]

#: How long to retry while the target says that the id is being written. A dead writer's claim expires sooner than this.
CLAIM_WAIT_SECONDS = 90.0
CLAIM_POLL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class CopyResult:
    """The outcome of copying one bundle.

    Args:
        avatar_id: the bundle's id.
        outcome: "copied", "present" (the target already had the same bundle), "would copy" in a dry run, or "failed".
        files: number of files in the bundle.
        size: size of all files together, in bytes.
        problem: why copying failed.
    """

    avatar_id: str
    outcome: Outcome
    files: int = 0
    size: int = 0
    problem: str = ""


async def copy_bundles(
    source: BundleStore,
    target: BundleStore,
    avatar_ids: Sequence[str],
    *,
    at_once: int = 4,
    dry_run: bool = False,
    progress: Callable[[int], object] = lambda size: None,
    wait_seconds: float = CLAIM_WAIT_SECONDS,
    poll_seconds: float = CLAIM_POLL_SECONDS,
) -> AsyncGenerator[CopyResult, None]:
    """Copy bundles, and yield the result of each bundle as soon as it is known.

    A bundle that the target already has is compared byte for byte and never overwritten, so an interrupted copy
    can be repeated. Each copied file is read back and compared with the SHA-256 of what was sent.

    Args:
        source: the store to copy from, entered.
        target: the store to copy to, entered.
        avatar_ids: the ids of the bundles to copy.
        at_once: number of bundles copied at the same time.
        dry_run: write nothing.
        progress: called with the number of bytes in each chunk read from the source.
        wait_seconds: how long to retry while the target says that an id is being written.
        poll_seconds: pause between two such retries.
    """
    copier = _Copier(source, target, dry_run, progress, wait_seconds, poll_seconds)
    results: asyncio.Queue[CopyResult | None] = asyncio.Queue()

    async def copy(avatar_id: str) -> None:
        try:
            result = await copier.copy(avatar_id)
        except (OpenTalkingError, ValueError) as error:  # ValueError: the target can't hold a file of this name
            result = CopyResult(avatar_id, "failed", problem=str(error))
        results.put_nowait(result)

    copying = asyncio.create_task(concurrently(avatar_ids, copy, at_once))
    copying.add_done_callback(lambda _: results.put_nowait(None))
    try:
        while (result := await results.get()) is not None:
            yield result
        await copying
    finally:
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Copier:
    """Copies single bundles; see `copy_bundles` for the arguments."""

    source: BundleStore
    target: BundleStore
    dry_run: bool
    progress: Callable[[int], object]
    wait_seconds: float
    poll_seconds: float

    async def copy(self, avatar_id: str) -> CopyResult:
        """Copy one bundle. Raises OpenTalkingError, ValueError."""
        infos = {info.path: info async for info in self.source.files(avatar_id)}
        sent: dict[str, str] = {}
        problem = ""
        if (present := await _files(self.target, avatar_id)) is None:
            if self.dry_run:
                outcome: Outcome = "would copy"
            elif (present := await self._create(avatar_id, infos, sent)) is None:
                outcome = "copied"
                problem = await self._verify(avatar_id, infos, sent)
        if present is not None:
            outcome = "present"
            problem = await self._compare(avatar_id, infos, present)
        size = sum(info.size for info in infos.values())
        return CopyResult(avatar_id, "failed" if problem else outcome, len(infos), size, problem)

    async def _create(
        self, avatar_id: str, infos: Mapping[str, FileInfo], sent: dict[str, str]
    ) -> dict[str, FileInfo] | None:
        """Create the bundle, or return the files of the bundle that another writer has created meanwhile.

        Raises:
            AlreadyExists: the target still says after `wait_seconds` that the id is being written.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.wait_seconds
        while True:
            files = {path: self._send(avatar_id, info, sent) for path, info in infos.items()}
            try:
                await self.target.create(avatar_id, files)
            except AlreadyExists:  # another writer is creating the bundle, has created it, or died doing so
                if (present := await _files(self.target, avatar_id)) is not None:
                    return present
                if clock() > deadline:
                    raise
                await asyncio.sleep(self.poll_seconds)
            else:
                return None

    async def _send(self, avatar_id: str, info: FileInfo, sent: dict[str, str]) -> AsyncIterator[bytes]:
        """Yield the content of a file of the source, and store its SHA-256 in `sent`.

        Raises:
            StoreUnavailable: the file has another size than `info` says.
        """
        digest, size = hashlib.sha256(), 0
        async with self.source.open(avatar_id, info.path) as file:
            async for chunk in file.chunks():
                digest.update(chunk)
                size += len(chunk)
                self.progress(len(chunk))
                yield chunk
        if size != info.size:
            raise StoreUnavailable(
                f"{avatar_id}/{info.path} changed while it was copied: it had {info.size} bytes and then {size}"
            )
        sent[info.path] = digest.hexdigest()

    async def _verify(self, avatar_id: str, infos: Mapping[str, FileInfo], sent: Mapping[str, str]) -> str:
        """Read the copy back. If it differs from what was sent, delete it and return a sentence that says so.

        A copy with another manifest stays: a client may have changed the avatar since it was copied.
        """
        for path in infos:
            if await _hash(self.target, avatar_id, path) != sent.get(path):
                if path == MANIFEST:
                    return f"{path} came back with another content than was sent; it may have been changed meanwhile"
                await self.target.delete(avatar_id)
                return f"{path} came back with another content than was sent; the copy was deleted"
        return ""

    async def _compare(self, avatar_id: str, infos: Mapping[str, FileInfo], present: Mapping[str, FileInfo]) -> str:
        """Return how the target's bundle differs from the source's; "" if they are the same."""
        for path in infos:
            if difference := await self._difference(avatar_id, path, infos, present):
                return f"another bundle is there: {difference}"
        if extra := present.keys() - infos.keys():
            return f"another bundle is there: it has {min(extra)}"
        return ""

    async def _difference(
        self, avatar_id: str, path: str, infos: Mapping[str, FileInfo], present: Mapping[str, FileInfo]
    ) -> str:
        if path not in present:
            return f"it has no {path}"
        if present[path].size != infos[path].size:
            return f"{path} has {present[path].size} bytes instead of {infos[path].size}"
        expected = await _hash(self.source, avatar_id, path, self.progress)
        return "" if await _hash(self.target, avatar_id, path) == expected else f"{path} has another content"


async def _files(store: BundleStore, avatar_id: str) -> dict[str, FileInfo] | None:
    try:
        return {info.path: info async for info in store.files(avatar_id)}
    except NotFound:
        return None


async def _hash(
    store: BundleStore, avatar_id: str, path: str, progress: Callable[[int], object] = lambda size: None
) -> str:
    digest = hashlib.sha256()
    async with store.open(avatar_id, path) as file:
        async for chunk in file.chunks():
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()
