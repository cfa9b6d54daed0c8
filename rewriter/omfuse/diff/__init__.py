"""Compare two models numerically, with an error budget, and find the block that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omfuse.diff.compare import diff
    from omfuse.diff.inputs import generate_inputs
    from omfuse.diff.report import DiffReport
    from omfuse.diff.verdict import Override

_HOME = {
    "DiffReport": "report",
    "diff": "compare",
    "generate_inputs": "inputs",
    "Override": "verdict",
}

__all__ = ["DiffReport", "Override", "diff", "generate_inputs"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(f"omfuse.diff.{_HOME[name]}"), name)
    raise AttributeError(f"module 'omfuse.diff' has no attribute {name!r}")
