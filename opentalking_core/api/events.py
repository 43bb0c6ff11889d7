"""The resource /avatars/events: the changes of the list as Server-Sent Events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from falcon.asgi import SSEvent

from .. import errors
from .asgi import STREAM_END, client_left
from .avatar import ReservedId, ReservedIdResource, operations_of_reserved_id
from .operation import Operation, response
from .progress import EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from falcon.asgi import Request, Response

    from ..catalog.event_log import AvatarEvent, EventLog

#: Seconds without an event after which a comment is sent, so that proxies and clients see a living connection.
HEARTBEAT_SECONDS = 15.0

_DESCRIPTION = (
    "`created`, `changed` and `deleted` tell the avatar's `id` and its manifest's `etag` (null if the avatar is gone), "
    "also for changes by others. The first event is `ready`: from then on, the stream tells every change, so read the "
    "list after it. A client that comes back sends the id of the last event as `Last-Event-ID` and gets what it has "
    "missed. If the service can't tell that any more, the event `reset` comes first: read the list again. A comment is "
    "sent every 15 seconds."
)


class EventsResource(ReservedIdResource):
    """Tells changes of the list to any number of listeners."""

    reserved_id: ClassVar[ReservedId] = "events"
    operations: ClassVar[Mapping[str, Operation]] = operations_of_reserved_id(reserved_id) | {
        "GET": Operation(
            id="follow_avatars",
            tag="avatars",
            summary="Follow the changes of the list",
            description=_DESCRIPTION,
            responses={200: response("A stream of events.", {EVENT_STREAM: {}})},
            errors=(errors.StoreUnavailable,),
            request_headers=("Last-Event-ID",),
        )
    }

    async def on_get(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        leaving = asyncio.create_task(client_left(req.scope))
        req.scope[STREAM_END].append(leaving.cancel)  # when the server begins to end, perhaps while the list is read
        try:
            await self._service.listing()  # from then on, the catalog knows what a change is
        except BaseException:
            leaving.cancel()
            raise
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
        resp.sse = self._follow(leaving, req.get_header("Last-Event-ID"))

    async def on_head(self, req: Request, resp: Response, avatar_id: str = "") -> None:
        resp.content_type = EVENT_STREAM
        resp.set_header("Cache-Control", "no-cache")

    async def _follow(self, leaving: asyncio.Task[None], last_id: str | None) -> AsyncIterator[SSEvent]:
        """Yield the events until the client leaves or the service ends."""
        log = self._service.events
        position = log.position if last_id is None else last_id
        try:
            if last_id is None:
                yield SSEvent(event="ready", event_id=position, json={})
            with self._service.metrics.listeners.track_inprogress():
                while not (leaving.done() or log.is_closed):
                    missed = log.since(position)
                    if missed is None:
                        position = log.position
                        yield SSEvent(event="reset", event_id=position, json={})
                    for event in missed or ():
                        position = log.id_after(event.number)
                        yield await self._event(event, position)
                    if missed == [] and not await _wakes(log, leaving):
                        yield SSEvent()
        finally:
            leaving.cancel()

    async def _event(self, event: AvatarEvent, position: str) -> SSEvent:
        etag = event.etag
        if etag is None and event.kind != "deleted":
            etag = await self._service.manifest_etag(event.avatar_id)
        return SSEvent(event=event.kind, event_id=position, json={"id": event.avatar_id, "etag": etag})


async def _wakes(log: EventLog, leaving: asyncio.Task[Any]) -> bool:
    """Wait for an event or for the end of the stream. Return False if nothing happens for HEARTBEAT_SECONDS."""
    changing = asyncio.create_task(log.wait())
    try:
        waits = {changing, leaving}
        done, _ = await asyncio.wait(waits, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        changing.cancel()
