"""Load lift rules: the project's own, and those of a user's file."""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omfuse.errors import UsageError
from omfuse.match import rules as language

OWN = ("contractions", "scales", "masks", "renormalised", "noise", "sinks")


def load_own() -> None:
    """Register the rules of ``patterns/``."""
    for name in OWN:
        importlib.import_module(f"omfuse.patterns.{name}")


@contextmanager
def loaded(paths: Sequence[str | Path]) -> Iterator[None]:
    """Register the project's rules, and those of user files for the length of the body.

    Raises:
        UsageError: ``patterns-unreadable`` when a file is missing or raises.
    """
    load_own()
    with language.scope():
        for path in paths:
            _run_file(Path(path))
        yield


def _run_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(
            "patterns-unreadable", "no such Python file", str(path), "pass a .py file with @lift"
        )
    try:
        runpy.run_path(str(path), run_name="omfuse_user_rules")
    except Exception as error:
        text = f"the rule file raised {type(error).__name__}: {error}"
        raise UsageError("patterns-unreadable", text, str(path)) from error
