"""The plugin `api_keys`: clients that send one of the API's keys may do everything.

    OPENTALKING_API_KEYS        the keys, comma-separated
    OPENTALKING_API_KEYS_FILE   a file of keys, one per line; blank lines and lines that begin with # don't count

Both are read once, at the start. A key that is added or removed takes effect at the next restart, so that a typo in the
file can't open or close a running service.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from opentalking_core import PluginError, hookimpl

#: Shorter keys, in characters, can be guessed; `openssl rand -hex 32` makes one of 64 characters.
_SAFE_LENGTH = 20


class ApiKeys:
    """The keys of one host, kept as digests so that no dump, log or error can show a key."""

    def __init__(self) -> None:
        given, file = os.environ.get("OPENTALKING_API_KEYS", ""), os.environ.get("OPENTALKING_API_KEYS_FILE", "")
        self._is_configured = bool(given or file)  # even without any key: a mistake must not open the service
        keys = [key.strip() for key in given.split(",")]
        self._problem: str | None = None
        if file:
            try:
                lines = Path(file).expanduser().read_text("utf-8").splitlines()
                keys += [line.strip() for line in lines if not line.startswith("#")]
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                self._problem = f"OPENTALKING_API_KEYS_FILE={file} can't be read: {reason}"
        keys = [key for key in keys if key]
        self._shortest = min(map(len, keys), default=_SAFE_LENGTH)
        self._digests = [_digest(key.encode()) for key in keys]

    @hookimpl
    def can_authorize(self) -> bool:
        """Return whether one of the variables is set."""
        return self._is_configured

    @hookimpl
    def authorize(self, credentials: str | None) -> bool | None:
        """Return True for a key and None for anything else. Raise PluginError if the file of keys can't be read."""
        if self._problem is not None:
            raise PluginError(self._problem)
        scheme, _, key = (credentials or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        # Compare digests, which have one length, and compare all of them, so that the time taken reveals nothing.
        digest = _digest(key.strip().encode("latin-1", "replace"))  # as header bytes are decoded
        return True if sum([hmac.compare_digest(digest, known) for known in self._digests]) else None

    @hookimpl
    def report_problems(self) -> list[str]:
        """Report a file that can't be read, and keys that are too short."""
        problems = [self._problem] if self._problem else []
        if self._shortest < _SAFE_LENGTH:
            problems.append(
                f"a key has only {self._shortest} characters and can be guessed; make one with `openssl rand -hex 32`"
            )
        return problems


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
