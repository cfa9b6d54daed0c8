"""The stand-in inside the calling process: for tests and measurements over many models.

The driver starts programs through one function; this one has its form and calls the stand-in
directly, which saves the start of an interpreter and its imports.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from omfuse.atc import process
from omfuse.atc.process import Outcome, Tick
from omfuse.sim.atc.main import main


def run_here(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    on_tick: Callable[[Tick], None] | None = None,
) -> Outcome:
    """Run the stand-in with the arguments behind the program name; no timeout is kept."""
    begin, sink = time.monotonic(), io.StringIO()
    status = main(argv[1:], env, cwd, sink, sink)
    seconds = time.monotonic() - begin
    if on_tick is not None:
        on_tick(Tick(seconds, ""))
    log.write_text(sink.getvalue(), "utf-8")
    return Outcome(status, seconds, sink.getvalue())


@contextmanager
def atc_in_process() -> Iterator[None]:
    """Make the driver call the stand-in directly; real toolchains must not be used inside."""
    kept = process.run_program
    process.run_program = run_here
    try:
        yield
    finally:
        process.run_program = kept
