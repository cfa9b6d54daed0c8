"""Look at a fresh .om with our reader: is it whole, and is it for the chip that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def describe_om(path: Path, soc: str) -> dict[str, Any]:
    """Read an .om and return its summary."""
    return {"bytes": path.stat().st_size}
