"""What GET /health says."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic, which makes a schema of it, needs this one until Python 3.12


class StoreHealth(TypedDict):
    """The bundle store.

    Args:
        plugin: the storage plugin.
        url: where the bundles are, without credentials.
        ok: whether the store answers.
        problem: one sentence on what is wrong.
        avatars: how many are listed.
        stale: whether the list may lack changes.
    """

    plugin: str
    url: str
    ok: bool
    problem: str | None
    avatars: int
    stale: bool


class DetectorHealth(TypedDict):
    """A mouth detector.

    Args:
        plugin: its plugin.
        ok: whether it works.
        problem: one sentence on what keeps it from working, or on its last failure.
    """

    plugin: str
    ok: bool
    problem: str | None


class Health(TypedDict):
    """Whether the service works.

    Args:
        status: `ok`; `degraded`: avatars are served, but not all is well; `unavailable`: the store doesn't answer.
        store: the bundle store; like `detectors`, left out for strangers where reading needs a key.
        detectors: the mouth detectors, in the order in which they are asked.
    """

    status: Literal["ok", "degraded", "unavailable"]
    store: NotRequired[StoreHealth]
    detectors: NotRequired[list[DetectorHealth]]
