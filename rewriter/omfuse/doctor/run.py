"""All findings, in the order of the work: host, simulation, compile, run."""

from __future__ import annotations

from pathlib import Path

from omfuse.doctor import board, cann, python
from omfuse.doctor.finding import Finding


def diagnose(
    soc: str | None = None, cann_home: Path | None = None, build: bool = True
) -> list[Finding]:
    """Look at everything.

    Args:
        soc: also check that the operator package fits this chip.
        cann_home: CANN folder instead of searching.
        build: build what is built at first use, to see whether it works.

    Raises:
        UsageError: ``unknown-soc``, ``bad-cann``.
    """
    return [
        *python.python(),
        *python.host(build),
        *python.simulation(build),
        *cann.compiling(cann_home, soc),
        *board.running(),
    ]
