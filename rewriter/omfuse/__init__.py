"""omfuse: fuse attention in ONNX models and run them on Ascend NPUs.

Public names are loaded on first use, so that ``import omfuse.acl`` on a board needs numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from omfuse._version import __version__

if TYPE_CHECKING:
    from omfuse.api import rewrite
    from omfuse.atc.compile import compile  # noqa: A004
    from omfuse.errors import OmfuseError
    from omfuse.match.rules import lift
    from omfuse.session import open_session

_HOME = {
    "OmfuseError": "omfuse.errors",
    "compile": "omfuse.atc.compile",
    "rewrite": "omfuse.api",
    "lift": "omfuse.match.rules",
    "open_session": "omfuse.session",
}

__all__ = ["OmfuseError", "__version__", "compile", "lift", "open_session", "rewrite"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'omfuse' has no attribute {name!r}")
