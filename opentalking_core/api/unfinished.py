"""Ends streamed responses that can't be finished."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..errors import OpenTalkingError
from .observability import target

if TYPE_CHECKING:
    from .asgi import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class UnfinishedResponses:
    """ASGI middleware: end a streamed response as soon as it can't be finished.

    If the store fails after the response has started, log why. The server then closes the connection, so that the
    client notices. If the client is gone, stop reading from the store: the server ignores what is sent to that client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = _Sender(receive, send)
        try:
            await self._app(scope, receive, sender.send)
        except _ClientGone:
            pass
        except OpenTalkingError as error:
            log.error("%s %s was broken off: %s", scope["method"], target(scope), error)
        finally:
            sender.stop()


class _ClientGone(Exception):
    """The client has closed the connection."""


class _Sender:
    """Sends the messages of one response, and raises `_ClientGone` in the middle of a file if the client is gone."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_file = False
        self._disconnect: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # A response without a length, such as a stream of events, looks for its client itself.
            self._is_file = any(name == b"content-length" for name, _ in message["headers"])
        elif self._is_file and message.get("more_body"):
            if self._disconnect is None:
                self._disconnect = asyncio.create_task(self._wait_for_disconnect())
            await asyncio.sleep(0)  # a store in memory never lets the event loop notice the disconnect
            if self._disconnect.done():
                raise _ClientGone
        await self._send(message)

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def stop(self) -> None:
        if self._disconnect is not None:
            self._disconnect.cancel()
