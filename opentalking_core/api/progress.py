"""Work on an upload that ends when its client leaves, and whose progress a client can follow as Server-Sent Events."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import falcon
from falcon.asgi import SSEvent

from .asgi import client_left
from .errors import status_and_detail

if TYPE_CHECKING:
    import contextlib
    from collections.abc import AsyncIterator, Awaitable, Callable

    from falcon.asgi import Request

    from ..source_intake import WorkProgress

    OnProgress = Callable[[WorkProgress], None]
    Work = Callable[[OnProgress | None], Awaitable[Any]]

EVENT_STREAM = "text/event-stream"

#: nginx's number for a request whose client has left, which no client sees.
_CLIENT_LEFT = "499 Client Closed Request"

#: Seconds between looks at the work.
_POLL_SECONDS = 0.25

#: Looks without news after which a comment is sent, so that proxies see a living connection.
_QUIET_LOOKS = 20


def wants_events(req: Request) -> bool:
    """Return whether the client asks for Server-Sent Events by name; `*/*` doesn't mean them."""
    ranges = (req.get_header("Accept") or "").lower().split(",")
    return EVENT_STREAM in [media_range.partition(";")[0].strip() for media_range in ranges]


async def while_client_waits(req: Request, work: Work) -> Any:
    """Return the result of `work`. If the client leaves meanwhile, cancel the work and raise falcon.HTTPStatus."""
    working = asyncio.ensure_future(work(None))
    leaving = asyncio.create_task(client_left(req.scope))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise falcon.HTTPStatus(_CLIENT_LEFT)
        return working.result()
    finally:
        await _cancel(working, leaving)


async def progress_events(
    work: Work, result_event: str, received_bytes: int, resources: contextlib.AsyncExitStack
) -> AsyncIterator[SSEvent]:
    """Yield the events of an upload: `received`, any number of `progress`, and the result or `error`.

    If the client leaves, Falcon closes this iterator, and the work is cancelled.

    Args:
        work: takes a function that is called with the progress.
        result_event: the name of the event with the work's result, which is a dataclass.
        received_bytes: size of the upload.
        resources: closed at the end.
    """
    told: list[WorkProgress] = []
    async with resources:
        working = asyncio.ensure_future(work(told.append))
        try:
            yield SSEvent(event="received", json={"bytes": received_bytes})
            quiet = 0
            while not (await asyncio.wait([working], timeout=_POLL_SECONDS))[0]:
                quiet = 0 if told else quiet + 1
                if told:
                    yield _progress_event(told[-1])
                    told.clear()
                elif quiet % _QUIET_LOOKS == 0:
                    yield SSEvent()
            yield _last_event(working, result_event)
        finally:
            await _cancel(working)


def _progress_event(progress: WorkProgress) -> SSEvent:
    seconds_left = None if progress.seconds_left is None else round(progress.seconds_left, 1)
    return SSEvent(event="progress", json=progress._asdict() | {"seconds_left": seconds_left})


def _last_event(working: asyncio.Future[Any], result_event: str) -> SSEvent:
    try:
        return SSEvent(event=result_event, json=dataclasses.asdict(working.result()))
    except Exception as error:
        status, detail = status_and_detail(error)
        return SSEvent(event="error", json={"status": status, "detail": detail})


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
