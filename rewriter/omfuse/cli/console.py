"""All output of the command line: results to stdout, everything else to stderr.

Colours and progress only on a terminal; ``NO_COLOR`` is honoured (by rich).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omfuse.errors import OmfuseError


def print_json(document: dict[str, Any]) -> None:
    """Print the one JSON object that ``--json`` promises on stdout.

    JSON has no NaN and no infinity: they become the texts ``nan``, ``inf`` and ``-inf``.
    """
    text = json.dumps(_finite(document), indent=1, default=str, allow_nan=False)
    sys.stdout.write(text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def visible(text: str) -> str:
    """Return a text in which signs that a terminal would obey are spelled out.

    Names come from files of anybody: an escape sequence in one must not reach the terminal.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else _spelled(sign) for sign in text
    )


def _spelled(sign: str) -> str:
    return sign.encode("unicode_escape", errors="backslashreplace").decode("ascii")


def print_line(text: str = "") -> None:
    """Print one line for people on stderr."""
    sys.stderr.write(visible(text) + "\n")


def print_result(text: str) -> None:
    """Print one line of the result on stdout."""
    sys.stdout.write(visible(text) + "\n")


def print_error(error: OmfuseError) -> None:
    """Print what happened, where, and how to fix it."""
    from rich.console import Console
    from rich.text import Text

    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(Text.assemble((f"error[{error.code}]", "bold red"), f": {visible(error.message)}"))
    if error.where:
        err.print(Text.assemble(("  --> ", "cyan"), visible(error.where)))
    if error.hint:
        err.print(Text.assemble(("  fix: ", "cyan"), visible(error.hint)))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a plain table on stdout; rich draws it on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[escape(visible(str(cell))) for cell in row])
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    out.print(table)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show a spinner with elapsed time while the body runs, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(text)
        yield
