"""The errors of the domain. Every message is one clear sentence: what was wrong, with which value, what to do.

    OpenTalkingError
    ├── InvalidRequest          a client's input is wrong                                        400
    ├── TooLarge                an upload exceeds a limit                                        413
    ├── NotFound                no such avatar, or no such file in its bundle                    404
    ├── NotDeletable            the avatar is built in or hidden                                 403
    ├── NotChangeable           the avatar is built in or hidden                                 403
    ├── ManifestChanged         somebody else has changed the manifest                           412
    ├── NotSupported            the store lacks an optional ability, or can only be read         501
    ├── AlreadyExists           a bundle of that id is there; nothing was written
    ├── InvalidManifest         a manifest.json can't be read
    ├── InvalidBundle           strict validation found errors; `problems` holds them all
    ├── InvalidURL              a bundle store's URL is wrong
    ├── Overloaded              more work than the machine can do; try again                     503
    ├── WorkersUnavailable      no worker process can be had at the moment; try again            503
    ├── StoreUnavailable        the backend can't be reached or denies access; try again        503
    ├── StoreFull               the backend has no room left                                     507
    └── PluginError             a plugin can't be loaded, or breaks its contract

Stores raise NotFound, AlreadyExists, ManifestChanged, StoreUnavailable and StoreFull (read-only stores also
NotSupported, when they are to be written to), and never a backend's own
exception type. The numbers are what the HTTP API answers (`opentalking_core.api.errors`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that validation found.

    Args:
        severity: an "error" keeps the bundle from working, a "warning" doesn't.
        where: the file ("frames/") or the manifest's field ("metadata.template_video") that it is about.
        message: one sentence: what is wrong and what to do.
    """

    severity: Literal["error", "warning"]
    where: str
    message: str


class OpenTalkingError(Exception):
    """Base of every error that this project raises on purpose."""


class InvalidRequest(OpenTalkingError):
    """A client's input is wrong: a blank name, an unreadable picture, a base of the wrong model type."""


class TooLarge(OpenTalkingError):
    """An upload exceeds a limit."""


class NotFound(OpenTalkingError):
    """There is no such avatar, or no such file in its bundle."""


def no_avatar(avatar_id: str) -> NotFound:
    """Return the error for an id that no avatar has, or that is no id."""
    return NotFound(f"there is no avatar {shown(avatar_id)}")


def shown(text: str) -> str:
    """Return what a client has sent, as an error may show it: quoted, and not too long."""
    return repr(text if len(text) <= 80 else text[:80] + "…")


class NotDeletable(OpenTalkingError):
    """The avatar is built in or hidden and can't be deleted through the API."""


class NotChangeable(OpenTalkingError):
    """The avatar is built in or hidden and can't be changed through the API."""


class ManifestChanged(OpenTalkingError):
    """The manifest is not the expected version, because somebody else was faster; nothing was written."""


class NotSupported(OpenTalkingError):
    """The avatars' store lacks an optional ability that the request needs."""


class AlreadyExists(OpenTalkingError):
    """A bundle with this id exists already; nothing was written."""


class InvalidManifest(OpenTalkingError):
    """A manifest.json that is not what the bundle format asks for; the message names the field."""


class InvalidBundle(OpenTalkingError):
    """Strict validation found errors; `problems` holds all of them, warnings included."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class InvalidURL(OpenTalkingError):
    """The URL of a bundle store is wrong, or no installed plugin opens it."""


class _TryAgain(OpenTalkingError):
    """Base of errors that may go away. `retry_after` says after how many seconds to try again."""

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(_TryAgain):
    """More work than this machine can do at the moment."""


class WorkersUnavailable(_TryAgain):
    """Worker processes can't be started, or the service is ending."""


class StoreUnavailable(_TryAgain):
    """The store's backend can't be reached, denies access, or failed."""


class StoreFull(OpenTalkingError):
    """The store's backend has no room left; nothing was written."""


class PluginError(OpenTalkingError):
    """A plugin can't be loaded, clashes with another one, or returned what its hook doesn't allow."""
