"""Which of several valid readings to fuse: correctness never depends on it, only profit."""

from __future__ import annotations

from omfuse.graph.view import GraphView
from omfuse.match.state import Attention

# A product whose operand was gathered, sliced or padded is usually a position bias.
_POSITIONAL = {"Gather", "GatherElements", "GatherND", "Slice", "Pad"}


def by_profit(blocks: list[Attention], view: GraphView) -> list[Attention]:
    """Sort readings: first the one with the most natural operands."""
    return sorted(blocks, key=lambda block: _cost(block, view))


def _cost(block: Attention, view: GraphView) -> tuple[int, int, int]:
    positional = 0
    for node in block.product.scores.nodes:
        positional += node.op in _POSITIONAL
    constants = 0
    for operand in (block.product.query, block.product.key):
        maker = view.producer(operand.value)
        hops = 0
        while maker is not None and maker.op in ("Transpose", "Reshape", "Unsqueeze", "Mul", "Div"):
            maker = view.producer(maker.inputs[0])
            hops += 1
            if hops > 8:
                break
        constants += maker is None or maker.op == "Constant"
        positional += maker is not None and maker.op in _POSITIONAL
    batch = len([axis for axis in block.product.key.axes if axis])
    return positional + constants, -batch, len(block.product.scores.nodes)
