"""Headers that all answers share: what pages may read, whom caches may give it to, and how browsers are to take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

#: Headers that pages of other web origins may read, beside those that every page may.
READABLE_ELSEWHERE = "ETag, Link, X-Total-Count, X-Request-ID, Retry-After"


class VaryByOrigin:
    """Falcon middleware beside `falcon.CORSMiddleware`: tells caches that an answer is for the asking origin only."""

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Add to what the answer depends on."""
        resp.append_header("Vary", "Origin")


class NoSniff:
    """Falcon middleware: no browser is to take an answer for anything but what its Content-Type says.

    That is all that JSON and pictures need; a page adds a Content-Security-Policy of its own. Each header costs a
    hundredth of the throughput.
    """

    async def process_request(self, req: Request, resp: Response) -> None:
        """Set it before anything else, so that it is on errors, too."""
        resp.set_header("X-Content-Type-Options", "nosniff")
