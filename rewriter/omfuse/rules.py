"""Load lift rules: the project's own, and those of a user's file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from omfuse.errors import UsageError

OWN = ("contractions", "scales", "masks", "noise", "sinks")


def load_own() -> None:
    """Register the rules of ``patterns/``."""
    for name in OWN:
        importlib.import_module(f"omfuse.patterns.{name}")


def load_file(path: str | Path) -> None:
    """Register the rules of a user's Python file.

    Raises:
        UsageError: ``patterns-unreadable`` when the file is missing or raises on import.
    """
    source = Path(path).resolve()
    name = f"omfuse_user_rules_{abs(hash(str(source))):x}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None or not source.is_file():
        raise UsageError(
            "patterns-unreadable", "no such Python file", str(path), "pass a .py file with @lift"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            "patterns-unreadable",
            f"the rule file raised {type(error).__name__}: {error}",
            str(path),
        ) from error
