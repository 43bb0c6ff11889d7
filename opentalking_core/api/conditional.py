"""Conditional requests, ranges and compression, as RFC 9110 defines them."""

from __future__ import annotations

import email.utils
import functools
import re
from typing import TYPE_CHECKING

import falcon

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

#: A client may keep a copy, but has to ask before each use whether the copy is current.
REVALIDATE = "no-cache"


def answer_not_modified(req: Request, resp: Response, etag: str, modified: float | None) -> bool:
    """Set the headers of a copy, answer 304 if the client has this version, and return whether it has.

    Args:
        req: If-None-Match decides or, if it is missing and there is a time, If-Modified-Since.
        resp: gets ETag and Cache-Control, and either status 304 or Last-Modified.
        etag: of the representation that is about to be sent, without quotes.
        modified: seconds since the epoch; None for what can change without getting a later time.
    """
    quoted = f'"{etag}"'
    resp.set_headers((("ETag", quoted), ("Cache-Control", REVALIDATE)))
    known_tags = req.get_header("If-None-Match")
    if known_tags is not None:
        unchanged = known_tags in (quoted, "*") or quoted in (
            tag.strip().removeprefix("W/") for tag in known_tags.split(",")
        )
    elif modified is not None and (since := req.get_header("If-Modified-Since")) is not None:
        unchanged = int(modified) <= _seconds(since)
    else:
        unchanged = False
    if unchanged:
        resp.status = falcon.HTTP_304
        resp.delete_header("Content-Type")  # there is no content
        resp.delete_header("Content-Encoding")
    elif modified is not None:
        resp.set_header("Last-Modified", _http_date(int(modified)))
    return unchanged


def requested_range(req: Request, size: int, etag: str) -> tuple[int, int] | None:
    """Return the (start, stop) that a Range header asks for, or None for the whole file.

    A malformed header, and a header that asks for several ranges, is ignored, as RFC 9110 allows. Only GET has ranges.

    Raises:
        falcon.HTTPRangeNotSatisfiable: the range starts after the end of the file.
    """
    header = req.get_header("Range")
    if header is None or req.method != "GET":
        return None
    condition = req.get_header("If-Range")
    if condition is not None and condition != f'"{etag}"':
        return None
    unit, _, text = header.partition("=")
    first, dash, last = text.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or not all(part.isdecimal() or not part for part in (first, last)):
        return None
    if len(text) > 40 or not (first or last):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if start >= size or stop <= start:
        raise falcon.HTTPRangeNotSatisfiable(
            size, description=f"the range {text[:40]} starts after the end of the file, which has {size} bytes"
        )
    return start, stop


def accepts_gzip(req: Request) -> bool:
    """Return whether Accept-Encoding accepts gzip."""
    header = req.get_header("Accept-Encoding") or ""
    named = accepts(header, "gzip")
    return accepts(header, "*") is True if named is None else named


def accepts(header: str, name: str) -> bool | None:
    """Return whether Accept or Accept-Encoding accepts `name` (in lower case), or None if it does not name it."""
    for offer in header.lower().split(","):
        offered, *parameters = offer.replace(" ", "").split(";")
        if offered == name:
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return None


@functools.lru_cache(4096)
def _http_date(modified: int) -> str:
    return email.utils.formatdate(modified, usegmt=True)


def _seconds(date: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return -1.0  # ignore a malformed date
