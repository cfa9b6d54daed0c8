"""Layout nodes around a block that the node's own layouts may take in.

An operand reaches the contraction through transposes, reshapes, expansions and scalar factors.
Each value on that way is a *stage*: the same operand with other letters.  Lowering picks the stage
from which the fewest nodes lead to the layout of the FlashAttention node.
"""

from __future__ import annotations

from dataclasses import dataclass

from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.declined import Declined
from omfuse.match.letters import Axes, Axis, Letters

MAX_STAGES = 12


@dataclass(frozen=True)
class Stage:
    """A value that equals the operand up to layout and the scalar ``factor``."""

    value: str
    axes: Axes
    factor: float = 1.0


def upward(
    value: str, axes: Axes, letters: Letters, view: GraphView, facts: Facts, scalars: bool
) -> tuple[Letters, list[Stage]]:
    """Return the stages from the contraction upward; ``scalars`` also takes factors out."""
    stages = [Stage(value, axes)]
    while len(stages) < MAX_STAGES:
        node = view.producer(stages[-1].value)
        if node is None:
            break
        try:
            letters, stage = _before(node, stages[-1], letters, facts, scalars)
        except Declined:
            break
        if stage is None:
            break
        stages.append(stage)
    return letters, stages


def _before(
    node: Node, last: Stage, letters: Letters, facts: Facts, scalars: bool
) -> tuple[Letters, Stage | None]:
    source = node.inputs[0] if node.inputs else ""
    shape = facts.shape(source) if source else None
    if node.op == "Transpose":
        perm = node.attrs.get("perm", list(range(len(last.axes)))[::-1])
        axes: list[Axis] = [()] * len(perm)
        for target, origin in enumerate(perm):
            axes[origin] = last.axes[target]
        return letters, Stage(source, tuple(axes), last.factor)
    if node.op in ("Reshape", "Unsqueeze", "Squeeze") and shape is not None:
        letters, aligned = letters.align(last.axes, shape)
        return letters, Stage(source, aligned, last.factor)
    if node.op == "Expand" and shape is not None:
        pad = len(last.axes) - len(shape)
        if any(axis for axis in last.axes[:pad]) and pad < 0:
            return letters, None
        axes = [
            () if size == 1 else axis for size, axis in zip(shape, last.axes[pad:], strict=True)
        ]
        return letters, Stage(source, tuple(axes), last.factor)
    if node.op == "Tile" and shape is not None:
        tiled = facts.shape(node.outputs[0])
        if tiled is None or any(x not in (1, y) for x, y in zip(shape, tiled, strict=True)):
            return letters, None  # it repeats more than one number: no broadcast
        axes = [() if size == 1 else axis for size, axis in zip(shape, last.axes, strict=True)]
        return letters, Stage(source, tuple(axes), last.factor)
    if node.op == "Identity":
        return letters, Stage(source, last.axes, last.factor)
    if scalars and node.op in ("Mul", "Div"):
        for data, other in ((0, 1), (1, 0)) if node.op == "Mul" else ((0, 1),):
            number = facts.scalar(node.inputs[other])
            shape = facts.shape(node.inputs[data])
            if number and shape is not None and len(shape) == len(last.axes):
                factor = last.factor * (number if node.op == "Mul" else 1.0 / number)
                return letters, Stage(node.inputs[data], last.axes, factor)
    return letters, None


def downward(
    value: str, axes: Axes, letters: Letters, view: GraphView, facts: Facts
) -> tuple[Letters, list[Stage]]:
    """Return the stages of the output downward, as long as nobody else reads them."""
    stages = [Stage(value, axes)]
    while len(stages) < MAX_STAGES:
        last = stages[-1]
        readers = view.consumers(last.value)
        if len(readers) != 1 or view.is_output(last.value):
            break
        node = readers[0]
        if not node.inputs or node.inputs[0] != last.value:
            break
        shape = facts.shape(node.outputs[0])
        if node.op == "Transpose":
            perm = node.attrs.get("perm", list(range(len(last.axes)))[::-1])
            stages.append(Stage(node.outputs[0], tuple(last.axes[axis] for axis in perm)))
        elif node.op in ("Reshape", "Unsqueeze", "Squeeze") and shape is not None:
            try:
                letters, aligned = letters.align(last.axes, shape)
            except Declined:
                break
            stages.append(Stage(node.outputs[0], aligned))
        else:
            break
    return letters, stages
