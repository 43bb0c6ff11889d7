"""WorkerPlugins: the plugins as a worker uses them."""

from __future__ import annotations

import functools
import multiprocessing.util
from typing import NamedTuple

from ..host.host import PluginChoice, PluginHost


class WorkerPlugins(NamedTuple):
    """The plugins of a host. Pickled without the host: a worker process loads a host of its own."""

    choice: PluginChoice
    host: PluginHost | None

    def __reduce__(self) -> tuple[type[WorkerPlugins], tuple[PluginChoice, None]]:
        return WorkerPlugins, (self.choice, None)

    def load_host(self) -> PluginHost:
        """Return the given host, or in a worker process the host of that process."""
        return self.host or _worker_host(self.choice)


@functools.cache
def _worker_host(choice: PluginChoice) -> PluginHost:
    """Return this worker process's own host, loaded by its first call."""
    host = PluginHost(choice).load()
    multiprocessing.util.Finalize(host, host.shutdown, exitpriority=10)  # atexit isn't called in such processes
    return host
