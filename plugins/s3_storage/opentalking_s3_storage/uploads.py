"""Write the objects of a new bundle in parallel."""

from __future__ import annotations

import asyncio
import mimetypes
from typing import TYPE_CHECKING

from opentalking_core import finish

from .bucket import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping

    from .bucket import Bucket

PARALLEL_UPLOADS = 16  # number of objects of one bundle that are written at the same time


async def upload(bucket: Bucket, contents: Mapping[str, bytes | AsyncIterable[bytes]]) -> None:
    """Write objects, given by key. After a failure or a cancellation, no request is running when this raises.

    Raises:
        StoreFull, StoreUnavailable: a request failed.
        Exception: an exception of a stream in `contents` propagates.
    """
    slots, stop = asyncio.Semaphore(PARALLEL_UPLOADS), asyncio.Event()

    async def upload_one(key: str, content: bytes | AsyncIterable[bytes]) -> None:
        media_type = mimetypes.guess_type(key)[0]
        async with slots:
            if not isinstance(content, bytes):
                await _upload_stream(bucket, key, _until(stop, content), media_type)
            elif not stop.is_set():
                await bucket.put(key, content, media_type=media_type)

    uploads = [asyncio.ensure_future(upload_one(key, content)) for key, content in contents.items()]
    try:
        while uploads:
            done, pending = await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
            uploads = list(pending)
            for ended in done:
                ended.result()
    except BaseException:
        stop.set()  # cancelling an upload would leave its request running
        await asyncio.gather(*uploads, return_exceptions=True)
        raise


async def _upload_stream(bucket: Bucket, key: str, chunks: AsyncIterator[bytes], media_type: str | None) -> None:
    start = bytearray()
    async for chunk in chunks:
        start += chunk
        if len(start) > PART_BYTES:
            await bucket.put_stream(key, _chain(bytes(start), chunks), media_type)
            return
    await bucket.put(key, bytes(start), media_type=media_type)


async def _chain(start: bytes, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in chunks:
        yield chunk


async def _until(stop: asyncio.Event, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks. Raise InterruptedError once `stop` is set, even while waiting for a chunk."""
    stopping = asyncio.ensure_future(stop.wait())
    iterator = aiter(chunks)

    async def next_chunk() -> bytes | None:
        return await anext(iterator, None)

    try:
        while True:
            step = asyncio.ensure_future(next_chunk())
            await asyncio.wait([step, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                await finish(asyncio.wait([step]))
                raise InterruptedError
            chunk = step.result()
            if chunk is None:
                return
            yield chunk
    finally:
        stopping.cancel()
