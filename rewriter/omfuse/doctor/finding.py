"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and how to mend it.

    Attributes:
        name: stable kebab-case identifier.
        status: ``ok``; ``warn`` works but may surprise; ``fail`` is broken; ``skip`` is not here.
        text: one sentence.
        fix: what to do; empty when nothing needs to be done.
    """

    name: str
    status: str
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)
