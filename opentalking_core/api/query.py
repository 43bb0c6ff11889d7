"""Reading query parameters strictly: Falcon's own readers accept values such as 3_20 or a blank boolean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from falcon.asgi import Request


def read_integer(req: Request, name: str, allowed: range) -> int | None:
    """Return a query parameter as an integer, or None if it is missing. Raise InvalidRequest if it is not allowed."""
    text = req.get_param(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) in allowed):
        raise InvalidRequest(f"{name} is {text[:80]!r}; it may be {allowed[0]} to {allowed[-1]}")
    return int(text)


def read_boolean(req: Request, name: str) -> bool | None:
    """Return a query parameter as a boolean, or None if it is missing. Raise InvalidRequest for any other text."""
    text = req.get_param(name)
    if text is None:
        return None
    if text.lower() not in ("true", "false"):
        raise InvalidRequest(f"{name} is {text[:80]!r}; it may be true or false")
    return text.lower() == "true"
