"""Turn obstore's exceptions into the core's errors, with messages that say what to do and hold no secrets."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from opentalking_core import AlreadyExists, NotFound, OpenTalkingError, StoreFull, StoreUnavailable

from .credentials import RETRY_SECONDS, has_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL_CODES = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "InsufficientCapacity"}
_BUSY_CODES = {"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "TooManyRequests"}
_WRONG_KEY_CODES = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
}  # fmt: skip
_BUSY_RETRY_SECONDS = 10


def http_status(error: Exception) -> int | None:
    """Return the HTTP status that obstore's message names, if any."""
    found = re.search(r"non-2xx status code: (\d{3})|status: (\d{3})", str(error))
    return int(found[1] or found[2]) if found else None


@dataclass(frozen=True, slots=True)
class Failures:
    """Explains the failures of requests to one bucket.

    Args:
        url: the store's URL.
        bucket: the bucket's name.
        endpoint: the server, as its users know it.
        timeout_seconds: the longest time that a request may take.
    """

    url: str
    bucket: str
    endpoint: str
    timeout_seconds: float

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise an error of the core instead of obstore's. NotModifiedError passes."""
        try:
            yield
        except NotModifiedError:
            raise
        except (BaseError, FileNotFoundError, NotImplementedError, TimeoutError) as error:
            raise self.explain(error) from None  # obstore's message is long and may contain secrets

    def explain(self, error: Exception) -> OpenTalkingError:
        """Return the error of the core that fits an exception of obstore's."""
        text, status = str(error), http_status(error)
        found = re.search(r"<Code>(\w+)</Code>", text)
        code = found[1] if found else f"status {status}" if status else ""
        if problem := self._configuration_problem(error, text, code, status):
            return StoreUnavailable(problem, retry_after=RETRY_SECONDS)
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{self.url} has no such object")
        if isinstance(error, AlreadyExistsError | PreconditionError):
            return AlreadyExists(f"{self.url} has such an object already, or another one")
        where = f"{self.url} at {self.endpoint}"
        if code in _FULL_CODES or status == 507:
            return StoreFull(f"{where} has no room left ({code}); nothing was written")
        if code in _BUSY_CODES or status in (429, 503):
            return StoreUnavailable(f"{where} has too much to do ({code}); try again", retry_after=_BUSY_RETRY_SECONDS)
        if isinstance(error, TimeoutError) or "timed out" in text or "TimedOut" in text:
            return StoreUnavailable(f"{where} did not answer within {self.timeout_seconds:g} seconds; try again")
        if not status and "HTTP error" in text:
            return StoreUnavailable(f"{where} can't be reached; is the server up, and the endpoint right?")
        return StoreUnavailable(f"{where} failed ({code or type(error).__name__}); try again")

    def _configuration_problem(self, error: Exception, text: str, code: str, status: int | None) -> str:
        """Return what an administrator has to correct, or "" if the configuration is not at fault."""
        # Without credentials, obstore asks the metadata service of the machine or the container for a role.
        asks_for_role = re.search(r"169\.254\.|/latest/(api/token|meta-data)", text)
        if asks_for_role or (isinstance(error, TimeoutError) and not has_credentials()):
            return (
                f"no credentials for {self.url}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine"
                " a role"
            )
        if code == "NoSuchBucket":
            return f"there is no bucket {self.bucket!r} at {self.endpoint}; create it or correct the URL {self.url}"
        if isinstance(error, FileNotFoundError | AlreadyExistsError | PreconditionError) or code in _FULL_CODES:
            return ""  # some servers answer 403 when a quota is used up
        if code in _WRONG_KEY_CODES:
            return (
                f"{self.url} at {self.endpoint} refuses the credentials ({code}); correct AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, the profile or the role"
            )
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
            return (
                f"{self.url} at {self.endpoint} refuses this ({code}); the credentials' policy must allow s3:ListBucket"
                " on the bucket and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects"
            )
        return ""
