"""Print a proven block as one line of algebra."""

from __future__ import annotations

import string

from omfuse.match.letters import Axes
from omfuse.match.state import Attention


def describe(block: Attention, masked_rows: str = "nan") -> str:
    """Return the normal form, for example ``softmax_k(0.125*Q[b,h,q,d].K[b,h,k,d]).V[...]``."""
    letters = block.letters
    names: dict[int, str] = {}

    def give(axes: Axes, pool: str) -> None:
        spare = iter(pool + string.ascii_lowercase)
        for axis in letters.resolve_all(axes):
            for atom in axis:
                while atom not in names:
                    candidate = next(spare)
                    if candidate not in names.values():
                        names[atom] = candidate

    scores = block.product.scores
    give((scores.key,), "k")
    give(block.product.free[-1:], "q")
    give((block.product.depth,), "d")
    give(scores.axes, "bhwvxyz")
    taken = set(names)
    value_only = tuple(
        tuple(a for a in axis if a not in taken) for axis in letters.resolve_all(block.value.axes)
    )
    give(value_only, "e")

    def index(axes: Axes) -> str:
        parts = []
        for axis in letters.resolve_all(axes):
            text = " ".join(names.get(atom, "?") for atom in axis)
            parts.append(f"({text})" if len(axis) > 1 else text or "1")
        return "[" + ",".join(parts) + "]"

    scale = "" if scores.multiplier == 1.0 else f"{scores.multiplier:.6g}*"
    for factor in scores.factors:
        scale += f"{'1/' if factor.divide else ''}t{index(factor.axes)}*"
    query, key = block.product.query, block.product.key
    text = f"{scale or '1*'}Q{index(query.axes)}.K{index(key.axes)}"
    if scores.softcap:
        text = f"cap{scores.softcap:g}({text})"
    for term in scores.terms:
        if term.selection:
            continue
        factor_text = "" if abs(term.factor) == 1.0 else f"{abs(term.factor):.6g}*"
        text += f" {'-' if term.factor < 0 else '+'} {factor_text}bias{index(term.axes)}"
    if scores.sink is not None:
        text += f", sink{index(scores.sink.axes)}"
    keeps = [
        f"{'not ' if t.negate else ''}mask{index(t.axes)}" for t in scores.terms if t.selection
    ]
    if masked_rows == "zero":
        keeps.append("empty row zero")
    if keeps:
        text += " | " + ", ".join(keeps)
    result = f"softmax_k({text}).V{index(block.value.axes)}"
    for factor in block.weights.factors:
        result += f" * t{index(factor.axes)}"
    return f"{result} -> out{index(block.output.axes)}"
