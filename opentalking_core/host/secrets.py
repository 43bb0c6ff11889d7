"""Keep the secrets of a store's URL out of logs and errors."""

from __future__ import annotations

import re
from urllib.parse import unquote

#: Shorter secrets are not replaced where they stand alone: their characters occur in every sentence.
_MIN_SECRET_CHARACTERS = 4


def without_secrets(url: str) -> str:
    """Return `url` as it may appear in logs and errors: without user, password and query."""
    start, _, rest = _split(url)
    return start + rest.partition("?")[0]


def hide_secrets(text: str, url: str) -> str:
    """Return a plugin's sentence about `url` without the secrets in `url`, whole or in parts."""
    _, userinfo, rest = _split(url)
    text = text.replace(url, without_secrets(url))
    if userinfo:
        text = text.replace(f"{userinfo}@", "")
    for secret in (userinfo, userinfo.partition(":")[2], rest.partition("?")[2]):
        if len(secret) >= _MIN_SECRET_CHARACTERS:
            for written in (secret, unquote(secret)):
                text = text.replace(written, "***")
    return text


def _split(url: str) -> tuple[str, str, str]:
    """Return the scheme with its slashes, user and password, and the rest. The second is empty if there are none.

    A password may hold unquoted "@", "/", "?" and "#". With "@" in the host's place, the userinfo ends at the last "@"
    there. If what stands there is no host and port, such as "user:pass" in "pg://user:pass/word@host", the userinfo
    ends at the last "@" of the URL: showing too little is safe.
    """
    scheme = re.match("[^/?#]*?://|[^/?#:]*:", url)
    start = scheme[0] if scheme else ""
    rest = url.removeprefix(start)
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        end = authority.rindex("@")
    elif not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", authority) and "@" in rest:
        end = rest.rindex("@")
    else:
        return start, "", rest
    return start, rest[:end], rest[end + 1 :]
