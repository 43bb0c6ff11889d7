"""`python -m benchmarks [--quick] [--json FILE] [SECTION ...]`: run the benchmarks and print their tables."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from .report import Costs, Row, document, draw_costs, table
from .sections import FULL, QUICK, SECTIONS

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Ratios to the bare HTTP server and codecs."
    )
    parser.add_argument("section", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="one short round each, and fewer bundles")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    options = parser.parse_args()
    if unknown := set(options.section) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # the exit ends the servers too
    results: dict[str, list[Row]] = {}
    costs: Costs = {}
    skipped = []
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None:
        skipped.append("nginx is not installed, so nothing is compared with it (Debian: nginx-light).")
    with tempfile.TemporaryDirectory(prefix="opentalking-bench-") as folder:
        for name in options.section or SECTIONS:
            section, needs_wrk = SECTIONS[name]
            if needs_wrk and shutil.which("wrk") is None:
                skipped.append(f"The section {name} is skipped, because wrk is not installed (Debian: wrk).")
                continue
            Path(folder, name).mkdir()
            results[name] = list(section(Path(folder, name), QUICK if options.quick else FULL, costs))
            shutil.rmtree(Path(folder, name))
            print(f"\n{name}\n{table(results[name])}", flush=True)
    print("\n".join(["", *skipped]))
    if options.json:
        rows = {name: [dataclasses.asdict(row) | {"ok": row.ok} for row in rows] for name, rows in results.items()}
        options.json.write_text(json.dumps({"sections": rows, "cpu_microseconds_per_list": costs}, indent=2) + "\n")
    if not options.quick and len(results) == len(SECTIONS):
        (DOCS / "benchmarks.md").write_text(document(results, skipped))
        draw_costs(costs, DOCS / "cost_vs_bundles.svg")


if __name__ == "__main__":  # client processes import this module under another name
    main()
