"""What GET /health says, and how the parts' states make up the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic, which makes a schema of it, needs this one until Python 3.12

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .host.host import PluginInfo


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


def assess_health(store: StoreHealth, detectors: list[DetectorHealth]) -> Health:
    """Return the whole's health. Without any working detector, the service is degraded."""
    works = store["problem"] is None and any(detector["ok"] for detector in detectors)
    status: Literal["ok", "degraded", "unavailable"] = "ok" if works else "degraded"
    return {"status": status if store["ok"] else "unavailable", "store": store, "detectors": detectors}


def assess_detectors(
    detectors: Iterable[PluginInfo], reported: Mapping[str, Sequence[str]], failures: Mapping[str, str]
) -> list[DetectorHealth]:
    """Return the health of each detector.

    Args:
        detectors: the plugins that detect mouths.
        reported: the problems that plugins report of themselves, by plugin.
        failures: the last call's failure, of each detector whose last call failed.
    """
    health: list[DetectorHealth] = []
    for info in detectors:
        problem = "; ".join(reported.get(info.name, ())) or failures.get(info.name)
        health.append({"plugin": info.name, "ok": problem is None, "problem": problem})
    return health
