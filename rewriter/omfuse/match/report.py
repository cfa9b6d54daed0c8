"""One record for every softmax: fused, declined, or not attention."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FUSED, DECLINED, NOT_ATTENTION = "fused", "declined", "not-attention"


@dataclass(frozen=True)
class Record:
    """What became of one softmax.

    Attributes:
        last_node: the last node that was understood.
        saved_nodes: nodes that a fusion took away, less those that it added.
        saved_bytes: bytes a run no longer moved to and from memory between nodes; a formula in the
            symbols of the model where shapes are open, None where a shape is not known.
    """

    node: str
    status: str
    code: str | None = None
    reason: str | None = None
    hint: str | None = None
    normal_form: str | None = None
    exactness: str | None = None
    output: str | None = None
    node_name: str | None = None
    graph: str = ""
    last_node: str | None = None
    saved_nodes: int | None = None
    saved_bytes: int | str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)
