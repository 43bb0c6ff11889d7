"""Formats measurements as tables for a terminal and for docs/, and plots the costs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from .load import cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: server -> number of bundles -> microseconds of its CPU time per GET /avatars
Costs = dict[str, dict[int, float]]

HEADER = ("what", "measured", "against", "baseline", "ratio", "by CPU", "target", "")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        what: what was measured.
        measured: in `unit`, or None if the service lacks the feature.
        unit: the unit of `measured` and `baseline`.
        against: what the baseline is.
        baseline: its figure in the same run.
        ratio: of `measured` to `baseline`, the median over the rounds.
        target: the ratio to reach, or None.
        at_most: the target is an upper limit.
        absolute: the target refers to `measured`, not to the ratio.
        by_cpu: the ratio of requests per second of CPU time, which depends less on other load on the machine.
    """

    what: str
    measured: float | None
    unit: str
    against: str = ""
    baseline: float | None = None
    ratio: float | None = None
    target: float | None = None
    at_most: bool = False
    absolute: bool = False
    by_cpu: float | None = None

    @property
    def ok(self) -> bool | None:
        """Return whether the target is reached, or None without a target."""
        value = self.measured if self.absolute else self.ratio
        if self.target is None:
            return None
        return value is not None and (value <= self.target if self.at_most else value >= self.target)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of HEADER."""
        target = "" if self.target is None else f"{'≤' if self.at_most else '≥'} {self.target:g}"
        return (
            self.what,
            "not answered" if self.measured is None else f"{_short(self.measured)} {self.unit}",
            self.against,
            "" if self.baseline is None else f"{_short(self.baseline)} {self.unit}",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.by_cpu is None else f"{self.by_cpu:.2f}",
            f"{target} {self.unit}" if target and self.absolute else target,
            {True: "ok", False: "miss", None: ""}[self.ok],
        )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table, which is also readable as text."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (HEADER, rule, *lines[1:])
    )


_HOW_TO_READ = """\
`make bench` writes this page. It takes all figures of a table in one run on one machine, so compare the ratios and
not the figures. Each figure is the median of several rounds; the rounds of the service and of the baseline
alternate."""

_HOW_MEASURED = """\
- *bare*: the least that Falcon on uvicorn can do. A handler in the same server, with the same options, responds with
  the same bytes from memory, or with an empty 304.
- *nginx*: one worker serves the same bytes from a file, with sendfile and without a log.
- Throughput: wrk with one thread and 8 connections that are kept alive. No process is pinned to a core. *By CPU* is
  the ratio of requests per second of CPU time of all the server's processes.
- Uploads: a JPEG of 790x1166 pixels with the grain of a photograph. The codecs run in processes that have loaded all
  code before. *Decode + max(detect, encode)* adds up steps that were each measured alone on an idle machine. *Codecs
  on all cores* is decode, detect and encode in one process per core, without HTTP and without writing. *Writing the
  files* adds the three copies of the PNG that a bundle holds, flushed to the disk. On a virtual machine that gives
  free memory back to its host, writing costs more than the bytes alone, because the machine fetches each new page of
  its page cache from the host again. The service reuses the pages of one upload for the next.
- Latency: a separate process sends 100 GETs per second and measures from the planned moment to the last byte. This
  process, the clients that upload and the bare handler share the cores with the service. The bare handler is
  measured at the same time.
- Files: GET of a file under /files/ and GET of a preview with the same bytes, in turn. *bundle.zip* is sent to 8
  clients at once; the figure is what all of them receive.
- Scan: a scan of a folder that was just written, so its pages may be in the system's cache."""


def document(results: Mapping[str, Sequence[Row]], skipped: Sequence[str]) -> str:
    """Return the text of docs/benchmarks.md."""
    software = ", ".join(f"{name} {version(name)}" for name in ("falcon", "uvicorn", "pillow"))
    parts = [
        "# Benchmarks",
        _HOW_TO_READ,
        f"Machine: {cores()} cores, shared by servers and clients. Python {platform.python_version()}, {software};"
        " one API process, default settings.",
        _HOW_MEASURED,
        "![CPU time per GET /avatars against the number of bundles](cost_vs_bundles.svg)",
        *(part for name, rows in results.items() for part in (f"## {name}", table(rows))),
        *skipped,
    ]
    return "\n\n".join(parts) + "\n"


def draw_costs(costs: Costs, file: Path) -> None:
    """Plot the CPU time of GET /avatars against the number of bundles."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "costs", "font.size": 11}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    styles = {"service": ("#c2410c", "o-"), "bare": ("#1d4ed8", "s--"), "nginx": ("#6b7280", "^:")}
    labels = {
        "service": "opentalking-core",
        "bare": "bare handler, same bytes from memory",
        "nginx": "nginx, same file",
    }
    for name, points in costs.items():
        colour, style = styles[name]
        axes.loglog(sorted(points), [points[n] for n in sorted(points)], style, color=colour, label=labels[name])
    axes.set(xlabel="bundles in the folder", ylabel="CPU time of the server per GET /avatars, µs")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})
