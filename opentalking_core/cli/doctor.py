"""opentalking-core doctor"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from .options import ApiKey, Json, Server, Store


def doctor(
    store: Store = None,
    port: Annotated[int, typer.Option(help="The port that should be free.", min=1, max=65535)] = 8000,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Check the installation, and say how to repair what is broken; exit code 1 if something is.

    To test whether the store can be written to, the command creates a hidden avatar in it and deletes it again. With
    --server, it asks a running server for its health.
    """
    import logging

    from rich.markup import escape

    from .doctor_checks import check_installation, check_server
    from .output import err, out

    logging.getLogger("opentalking_core").addHandler(logging.NullHandler())  # the findings say the same in better words
    server = server or (None if store else os.environ.get("OPENTALKING_SERVER"))
    findings = []
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    with contextlib.closing(check_server(server, api_key) if server else check_installation(store, port)) as checks:
        while True:
            with err.status("checking"):
                finding = next(checks, None)
            if finding is None:
                break
            findings.append(finding)
            if not as_json:
                colour, label = colours[finding.status], f"{finding.status:<8}"
                out.print(f"[{colour}]{label}[/] {finding.check:<10} {escape(finding.message)}", soft_wrap=True)
                if finding.remedy:
                    out.print(f"{'':20}[bold]->[/] {escape(finding.remedy)}", soft_wrap=True)
    if as_json:
        out.print_json(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)
