"""The rules for the name that people see of an avatar."""

from __future__ import annotations

import unicodedata

from ..errors import InvalidRequest

MAX_NAME_CHARACTERS = 200


def checked_name(name: str) -> str:
    """Return `name` with each run of white space as one space.

    Raises:
        InvalidRequest: the name is blank, too long, or holds control characters.
    """
    name = " ".join(name.split())
    if not name:
        raise InvalidRequest("name is blank: give the avatar a display name")
    if len(name) > MAX_NAME_CHARACTERS:
        raise InvalidRequest(f"name has {len(name)} characters; at most {MAX_NAME_CHARACTERS} are accepted")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise InvalidRequest("name holds control characters; send plain text")
    return name
