"""opentalking-core plugins"""

from __future__ import annotations

import dataclasses
import json

from .options import Json


def plugins(as_json: Json = False) -> None:
    """List the plugins: active, disabled and failed ones, their hooks, and what keeps them from working."""
    from rich.markup import escape
    from rich.table import Table

    from .output import load_host, out, read_settings

    host = load_host(read_settings())
    problems = host.plugin_warnings()
    found = host.plugins()
    if as_json:
        rows = [dataclasses.asdict(info) | {"problems": problems.get(info.name, [])} for info in found]
        out.print_json(json.dumps(rows))
        return
    table = Table("plugin", "version", "from", "status", "hooks", box=None, header_style="bold", pad_edge=False)
    colours = {"active": "green", "disabled": "yellow", "failed": "red"}
    for info in found:
        status = f"[{colours[info.status]}]{info.status}[/]"
        source = info.distribution or info.origin
        hooks = ", ".join(info.hooks) or ("[yellow]none[/]" if info.status == "active" else "")
        table.add_row(escape(info.name), info.version, escape(source), status, hooks)
    out.print(table)
    for name, sentences in problems.items():
        for sentence in sentences:
            out.print(f"\n[yellow]{escape(name)}:[/] {escape(sentence)}", soft_wrap=True)
