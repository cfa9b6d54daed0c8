"""Follow one model input through the graph and note what the ops do with it.

Only ops that pass values on unchanged, or change them in a way that can be undone on paper
(a constant added, a logical not), are followed; the first op that computes with the value is the
evidence.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from omfuse.host import shapes
from omfuse.session_protocol import Array

_VIEWS = ("Identity", "Cast", "CastLike", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose")
_PARTS = ("Flatten", "Slice", "Split", "Tile", "Concat", "Gather", "Pad", "Trilu", "Dropout")
_SAME = frozenset((*_VIEWS, *_PARTS, "ConstantOfShape"))
_LARGE = 1e3
_STEPS = 400


@dataclass
class Uses:
    """Evidence about one input.

    Attributes:
        table: rows of the smallest table that the values index, after undoing added constants.
        keeps: times a true or one value was seen to keep something.
        drops: times a true or one value was seen to drop something.
        logic: the values meet And, Or, Not, Where or Equal.
        counted: the values are summed along an axis (CumSum, ReduceSum) before any table.
        wave: the values reach Sin or Cos through products with constants.
        to_softmax: the values are added to what a Softmax reads, with no product between.
        matmul: the values are multiplied as a matrix.
        joined: axis of a Concat with computed values.
        length: the values are compared with positions.
        shape: the values give a shape, a repeat count or a slice bound.
    """

    table: int | None = None
    keeps: int = 0
    drops: int = 0
    logic: bool = False
    counted: bool = False
    wave: bool = False
    to_softmax: bool = False
    matmul: bool = False
    joined: int | None = None
    length: bool = False
    shape: bool = False


@dataclass
class GraphIndex:
    """Consumers, small constants and known shapes of a model, inner graphs included."""

    consumers: dict[str, list[tuple[onnx.NodeProto, int]]]
    producers: dict[str, onnx.NodeProto]
    tensors: dict[str, onnx.TensorProto]
    sizes: dict[str, tuple[int | None, ...] | None]
    outputs: set[str] = field(default_factory=set)

    def constant(self, name: str) -> Array | None:
        """Return a small constant, or None."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            node = self.producers.get(name)
            through = node is not None and node.op_type in ("Identity", "Cast", "Unsqueeze")
            return self.constant(node.input[0]) if through and node is not None else None
        if int(np.prod(tensor.dims)) > shapes.SMALL:
            return None
        try:
            value: Array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError):
            return None
        return value

    def scalar(self, name: str) -> float | None:
        """Return a constant that holds one number, or None."""
        value = self.constant(name)
        if value is None or value.size == 0:
            return None
        flat = value.astype(np.float64).reshape(-1)
        return float(flat[0]) if (flat == flat[0]).all() else None

    def most_negative(self, name: str) -> bool:
        """Tell whether a constant is a mask fill: every value large and negative, or -inf."""
        value = self.constant(name)
        return value is not None and value.size > 0 and bool((value <= -_LARGE).all())


def index(model: onnx.ModelProto) -> GraphIndex:
    """Build the index of a model; local functions are inlined first."""
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    found = GraphIndex(consumers, {}, {}, {})
    for known in shapes.infer(model, {}):
        found.sizes.update({name: value.dims for name, value in known.items()})
    for graph in shapes.graphs(model.graph):
        found.tensors.update({tensor.name: tensor for tensor in graph.initializer})
        found.outputs.update(value.name for value in graph.output)
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name:
                    consumers[name].append((node, position))
            for name in node.output:
                found.producers[name] = node
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                found.tensors[node.output[0]] = node.attribute[0].t
            elif node.op_type == "Constant" and node.attribute:
                value = onnx.helper.get_attribute_value(node.attribute[0])
                if isinstance(value, int | float | list):
                    found.tensors[node.output[0]] = numpy_helper.from_array(np.asarray(value))
    return found


@dataclass(frozen=True)
class _State:
    """How the value in hand follows from the input: shifted, inverted, scaled, added."""

    name: str
    shift: int = 0
    inverted: bool = False
    mixed: bool = False  # no longer the values themselves (multiplied, compared, added)
    scores: bool = False  # only sums and fills so far


def trace(graph: GraphIndex, name: str) -> Uses:
    """Collect the uses of one input."""
    uses = Uses()
    queue = deque([_State(name, scores=True)])
    seen: set[_State] = set()
    while queue and len(seen) < _STEPS:
        state = queue.popleft()
        if state in seen:
            continue
        seen.add(state)
        for node, position in graph.consumers.get(state.name, ()):
            queue.extend(_step(graph, uses, state, node, position))
    return uses


def _next(
    state: _State,
    node: onnx.NodeProto,
    shift: int = 0,
    flip: bool = False,
    mixed: bool | None = None,
    scores: bool | None = None,
) -> Iterator[_State]:
    for output in node.output[:1] if node.op_type != "Split" else node.output:
        yield _State(
            output,
            state.shift + shift,
            state.inverted != flip,
            state.mixed if mixed is None else mixed,
            state.scores if scores is None else scores,
        )


def _step(
    graph: GraphIndex, uses: Uses, state: _State, node: onnx.NodeProto, position: int
) -> Iterator[_State]:
    op = node.op_type
    if op in ("Gather", "GatherElements", "GatherND", "Embedding") and position == 1:
        if not state.mixed:
            _note_table(graph, uses, state, node)
    elif op in ("EmbedLayerNormalization",) and not state.mixed:
        _note_rows(graph, uses, state, node.input[{0: 2, 1: 4}.get(position, 2)], 0)
    elif op == "OneHot" and position == 0:
        depth = graph.scalar(node.input[1])
        if depth is not None and not state.mixed:
            uses.table = min(uses.table or int(depth), int(depth))
    elif op in _SAME and (position == 0 or op == "Concat"):
        if op == "Concat" and len(node.input) > 1:
            uses.joined = next((a.i for a in node.attribute if a.name == "axis"), 0)
        yield from _next(state, node)
    elif op in _SAME or op in ("Range", "Resize"):
        uses.shape = uses.shape or (position > 0 and not state.mixed)
    elif op == "Where" and position == 0:
        uses.logic = True
        _note_fill(graph, uses, state, node)
        for side, kept in ((1, True), (2, False)):
            if graph.most_negative(node.input[side]) or graph.scalar(node.input[side]) == 0:
                yield from _next(state, node, flip=not kept, mixed=True)
                break
    elif op == "Where":
        yield from _next(state, node)
    elif op in ("Not", "And", "Or"):
        uses.logic = True
        yield from _next(state, node, flip=op == "Not", mixed=True)
    elif op == "Equal":
        other = graph.scalar(node.input[1 - position])
        if other in (0.0, 1.0) and not state.mixed:
            uses.logic = True
            yield from _next(state, node, flip=other == 0.0, mixed=True)
        else:
            yield from _next(state, node, mixed=True, scores=False)
    elif op in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        uses.length = uses.length or not state.mixed
    elif op in ("Add", "Sub"):
        yield from _sum(graph, uses, state, node, position)
    elif op in ("Mul", "Div"):
        yield from _product(graph, uses, state, node, position)
    elif op in ("CumSum", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean"):
        uses.counted = uses.counted or op in ("CumSum", "ReduceSum")
        yield from _next(state, node, mixed=True, scores=False)
    elif op in ("Sin", "Cos"):
        uses.wave = True
    elif op == "Softmax":
        uses.to_softmax = uses.to_softmax or state.scores
    elif op in ("MatMul", "Gemm", "Einsum", "Attention"):
        uses.matmul = True
        constant = op == "MatMul" and graph.constant(node.input[1 - position]) is not None
        if constant or (graph.sizes.get(state.name) or ())[-1:] == (1,):
            yield from _next(state, node, mixed=True, scores=False)


def _sum(
    graph: GraphIndex, uses: Uses, state: _State, node: onnx.NodeProto, position: int
) -> Iterator[_State]:
    other = graph.scalar(node.input[1 - position])
    if node.op_type == "Sub" and position == 1:
        if other == 1.0:  # 1 - mask
            uses.logic = True
            yield from _next(state, node, flip=True, mixed=True)
        else:
            yield from _next(state, node, mixed=True)
        return
    if other is not None and other == int(other) and not state.mixed and abs(other) < _LARGE:
        sign = -1 if node.op_type == "Sub" else 1
        yield from _next(state, node, shift=sign * int(other))
        return
    yield from _next(state, node, mixed=True)


def _product(
    graph: GraphIndex, uses: Uses, state: _State, node: onnx.NodeProto, position: int
) -> Iterator[_State]:
    other = node.input[1 - position]
    number = graph.scalar(other)
    if number is not None and number <= -_LARGE:
        if state.inverted:
            uses.keeps += 1
        else:
            uses.drops += 1
        yield from _next(state, node, mixed=True)
    elif number is not None:
        yield from _next(state, node, mixed=state.mixed or number != 1.0)
    else:
        wave = graph.constant(other) is not None
        yield from _next(state, node, mixed=True, scores=False) if wave else ()


def _note_fill(graph: GraphIndex, uses: Uses, state: _State, node: onnx.NodeProto) -> None:
    """Where(mask, a, b): a large negative constant on one side tells what true means."""
    if graph.most_negative(node.input[1]):
        kept = state.inverted
    elif graph.most_negative(node.input[2]):
        kept = not state.inverted
    else:
        return
    if kept:
        uses.keeps += 1
    else:
        uses.drops += 1


def _note_table(graph: GraphIndex, uses: Uses, state: _State, node: onnx.NodeProto) -> None:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    _note_rows(graph, uses, state, node.input[0], axis)


def _note_rows(graph: GraphIndex, uses: Uses, state: _State, table: str, axis: int) -> None:
    size = graph.sizes.get(table)
    if not size or not -len(size) <= axis < len(size):
        return
    rows = size[axis]
    if rows is not None:
        rows = max(rows - state.shift, 1)
        uses.table = rows if uses.table is None else min(uses.table, rows)
