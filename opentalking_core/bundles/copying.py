"""Copying bundles from one store to another: streamed, checked, and never half visible."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import AlreadyExists, NotFound, OpenTalkingError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from .store import BundleStore, FileInfo

Outcome = Literal["copied", "present", "would copy", "failed"]

#: A bundle whose writer died is in nobody's way for longer than this; then it is tried no more.
_PATIENCE = 90.0
_PAUSE = 3.0


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one bundle.

    Args:
        avatar_id: the bundle's id.
        outcome: "copied", "present" (the same bundle was there already), "would copy" in a dry run, or "failed".
        files: how many it has.
        size: of all of them, in bytes.
        problem: why it failed.
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
) -> AsyncGenerator[Copied, None]:
    """Copy bundles; yields what became of each as soon as it is known.

    A bundle that is there already is compared, byte for byte, and left as it is: so an interrupted copy goes on where
    it was, and never overwrites. What was copied is read back and compared with the SHA-256 of what was sent.

    Args:
        source: where they are; entered.
        target: where they shall be; entered.
        avatar_ids: which.
        at_once: so many at the same time.
        dry_run: write nothing.
        progress: called with the number of bytes that were read from the source, again and again.
    """
    todo = iter(avatar_ids)
    results: asyncio.Queue[Copied | None] = asyncio.Queue()

    async def work() -> None:
        try:
            for avatar_id in todo:
                try:
                    result = await _copy(source, target, avatar_id, dry_run, progress)
                except (OpenTalkingError, ValueError) as error:  # ValueError: the target can't hold such a name
                    result = Copied(avatar_id, "failed", problem=str(error))
                results.put_nowait(result)
        finally:
            results.put_nowait(None)

    workers = [asyncio.create_task(work()) for _ in range(at_once)]
    try:
        working = len(workers)
        while working:
            if (result := await results.get()) is None:
                working -= 1
            else:
                yield result
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _copy(
    source: BundleStore, target: BundleStore, avatar_id: str, dry_run: bool, progress: Callable[[int], object]
) -> Copied:
    infos = {info.path: info async for info in source.files(avatar_id)}
    size = sum(info.size for info in infos.values())
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        if (there := await _files(target, avatar_id)) is not None:
            for path in infos:
                difference = await _difference(source, target, avatar_id, path, infos, there, progress)
                if difference:
                    return Copied(avatar_id, "failed", len(infos), size, f"another bundle is there: {difference}")
            if extra := there.keys() - infos.keys():
                return Copied(avatar_id, "failed", len(infos), size, f"another bundle is there: it has {min(extra)}")
            return Copied(avatar_id, "present", len(infos), size)
        if dry_run:
            return Copied(avatar_id, "would copy", len(infos), size)
        sent: dict[str, str] = {}
        try:
            await target.create(avatar_id, {p: _send(source, avatar_id, i, sent, progress) for p, i in infos.items()})
            break
        except AlreadyExists:  # somebody is writing it, or died doing so
            if await _files(target, avatar_id) is None:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_PAUSE)
    for path in infos:
        if await _hash(target, avatar_id, path) != sent.get(path):
            await target.delete(avatar_id)
            problem = f"{path} came back other than it was sent; the copy was deleted"
            return Copied(avatar_id, "failed", len(infos), size, problem)
    return Copied(avatar_id, "copied", len(infos), size)


async def _files(store: BundleStore, avatar_id: str) -> dict[str, FileInfo] | None:
    try:
        return {info.path: info async for info in store.files(avatar_id)}
    except NotFound:
        return None


async def _difference(
    source: BundleStore,
    target: BundleStore,
    avatar_id: str,
    path: str,
    infos: dict[str, FileInfo],
    there: dict[str, FileInfo],
    progress: Callable[[int], object],
) -> str:
    if path not in there:
        return f"it has no {path}"
    if there[path].size != infos[path].size:
        return f"{path} has {there[path].size} bytes instead of {infos[path].size}"
    same = await _hash(source, avatar_id, path, progress) == await _hash(target, avatar_id, path)
    return "" if same else f"{path} has another content"


async def _send(
    source: BundleStore, avatar_id: str, info: FileInfo, sent: dict[str, str], progress: Callable[[int], object]
) -> AsyncIterator[bytes]:
    """The content of a file; its hash goes to `sent`. Raises StoreUnavailable if it isn't as long as it should be."""
    digest, size = hashlib.sha256(), 0
    async with source.open(avatar_id, info.path) as file:
        async for piece in file.chunks():
            digest.update(piece)
            size += len(piece)
            progress(len(piece))
            yield piece
    if size != info.size:
        raise StoreUnavailable(f"{avatar_id}/{info.path} had {info.size} bytes and then {size}; it changed meanwhile")
    sent[info.path] = digest.hexdigest()


async def _hash(
    store: BundleStore, avatar_id: str, path: str, progress: Callable[[int], object] = lambda size: None
) -> str:
    digest = hashlib.sha256()
    async with store.open(avatar_id, path) as file:
        async for piece in file.chunks():
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
