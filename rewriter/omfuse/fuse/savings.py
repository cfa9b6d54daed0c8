"""What a fusion saves: nodes, and bytes that nodes no longer write to memory and read back.

A node is taken to read each of its activations once and to write its outputs once; views (reshapes
and the like) move nothing, and weights are not counted.  Inside FlashAttention the scores stay on
the chip.  This is a count of the graph, not a measurement of a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, helper

from omfuse.fuse.lower import Fusion
from omfuse.graph.dims import Size, product
from omfuse.graph.facts import Facts

_VIEWS = frozenset(
    {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant"}
)


@dataclass(frozen=True)
class Saving:
    """Nodes saved; bytes of traffic saved a run, a formula where shapes are open."""

    nodes: int
    traffic: int | str | None


def saving(fusion: Fusion, freed: list[NodeProto], facts: Facts) -> Saving:
    """Count what ``fusion`` saves against the nodes that it freed."""
    added = [*fusion.nodes, *(node for _, nodes in fusion.shape_nodes for node in nodes)]
    freed = [*freed, *(reader.proto for reader, _ in fusion.shape_nodes)]
    before, after = _traffic(freed, facts), _traffic(fusion.nodes, facts)
    traffic = None if before is None or after is None else before - after
    shown = traffic if traffic is None or isinstance(traffic, int) else repr(traffic)
    return Saving(len(freed) - len(added), shown)


def _traffic(nodes: Iterable[NodeProto], facts: Facts) -> Size | None:
    """Return bytes read and written, or None where a size is not known."""
    made: dict[str, Size | None] = {}
    total: Size = 0
    for node in nodes:
        inputs = [_bytes(name, made, facts) for name in node.input if _moves(name, facts)]
        known = next((size for size in inputs if size is not None), None)
        outputs = []
        for name in node.output:
            # Helper nodes of a fusion transpose, cast or scale: they keep the size.
            made[name] = _bytes(name, made, facts)
            if made[name] is None:
                made[name] = known
            outputs.append(made[name])
        if node.op_type in _VIEWS:
            continue
        for size in (*inputs, *outputs):
            if size is None:
                return None
            total = total + size
    return total


def _moves(name: str, facts: Facts) -> bool:
    return bool(name) and facts.initializer(name) is None and facts.const(name) is None


def _bytes(name: str, made: dict[str, Size | None], facts: Facts) -> Size | None:
    if name in made:
        return made[name]
    shape, dtype = facts.shape(name), facts.dtype(name)
    if shape is None or not dtype:
        return None
    if dtype == TensorProto.STRING:
        return None
    return product(list(shape)) * helper.tensor_dtype_to_np_dtype(dtype).itemsize
