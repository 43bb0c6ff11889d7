"""What GET /health says, and how it follows from the state of the store and the plugins."""

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
        status: `ok`; `degraded`: avatars are served, but something else doesn't work; `unavailable`: the store doesn't
            answer.
        store: the bundle store. If reading is protected, only readers get this field and the next ones.
        detectors: the mouth detectors, in the order in which they are asked.
        plugins: what keeps other plugins from working, one sentence each, by plugin. The status doesn't depend on them.
            Left out for clients without permission where anything needs one. Of a plugin that can't be imported, only
            the log and the command line say why, because an exception's text may hold a secret.
    """

    status: Literal["ok", "degraded", "unavailable"]
    store: NotRequired[StoreHealth]
    detectors: NotRequired[list[DetectorHealth]]
    plugins: NotRequired[dict[str, list[str]]]


def assess_health(
    store: StoreHealth, detectors: list[DetectorHealth], reported: Mapping[str, Sequence[str]], failed: Iterable[str]
) -> Health:
    """Return the health of the service. Without a working detector, the service is degraded.

    Args:
        store: the store's health.
        detectors: the health of each detector.
        reported: what keeps plugins from working, by plugin.
        failed: the plugins that could not be loaded.
    """
    works = store["problem"] is None and any(detector["ok"] for detector in detectors)
    status: Literal["ok", "degraded", "unavailable"] = "ok" if works else "degraded"
    elsewhere = {store["plugin"], *(detector["plugin"] for detector in detectors)}
    return {
        "status": status if store["ok"] else "unavailable",
        "store": store,
        "detectors": detectors,
        "plugins": {
            **{name: list(sentences) for name, sentences in reported.items() if name not in elsewhere},
            **{name: ["failed; the log says why"] for name in failed},
        },
    }


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
