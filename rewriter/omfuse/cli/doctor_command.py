"""``omfuse doctor``: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omfuse.cli import console


def command(
    soc: Annotated[
        str | None, typer.Option(help="Also check the operator package for this chip.")
    ] = None,
    cann: Annotated[Path | None, typer.Option(help="CANN folder instead of searching.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Build nothing, only look at what is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Look at Python, compiler, CANN, operator package and NPU; exit 1 when something is broken.

    Example: omfuse doctor --soc Ascend310P3
    """
    from omfuse.doctor import diagnose

    with console.progress("looking at this machine"):
        findings = diagnose(soc, cann, not quick)
    broken = sum(finding.status == "fail" for finding in findings)
    if as_json:
        console.print_json(
            {
                "schema": "omfuse.doctor/1",
                "problems": broken,
                "findings": [finding.as_dict() for finding in findings],
            }
        )
    else:
        for finding in findings:
            mark = finding.status.upper() if finding.status == "fail" else finding.status
            console.print_result(f"{mark:<5} {finding.name:<13} {finding.text}")
            if finding.fix and finding.status != "ok":
                console.print_result(f"      {'':<13} fix: {finding.fix}")
        console.print_result("nothing is broken" if not broken else f"{broken} broken")
    return int(broken > 0)
