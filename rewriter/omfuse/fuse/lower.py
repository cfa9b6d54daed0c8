"""From a proven attention block to one FlashAttention node and the few nodes around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from omfuse.fuse.contract import FlashAttentionAttrs, make_flash_attention
from omfuse.fuse.emit import Emitter
from omfuse.fuse.stages import Stage, downward, upward
from omfuse.fuse.terms import lower_terms
from omfuse.graph.dims import Size
from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.declined import Declined
from omfuse.match.letters import Axes, Axis, Letters
from omfuse.match.state import Attention

FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
STANDARD = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a block's roles; an int where known, else a polynomial of symbols."""

    batch: Size
    heads: Size
    query: Size
    key: Size
    depth: Size
    value: Size


@dataclass
class Fusion:
    """Everything the edit needs: nodes to add, nodes to drop, and what the node computes."""

    anchor: Node
    position: int
    attrs: FlashAttentionAttrs
    node: NodeProto
    nodes: list[NodeProto]
    initializers: list[TensorProto]
    removed: tuple[Node, ...]
    shape_nodes: list[tuple[Node, list[NodeProto]]]
    dtype: int
    bias_dtype: int
    output: str
    normal_form: str
    exactness: str
    sizes: Sizes | None = None  # None for operators that were one attention already


@dataclass(frozen=True)
class _Roles:
    """Atoms by role, each in the order of the scores."""

    batch: Axis
    heads: Axis
    query: Axis
    key: Axis
    depth: Axis
    value: Axis
    group: Axis  # trailing part of heads that key and value lack


def lower(block: Attention, view: GraphView, facts: Facts, name: str) -> Fusion:
    """Lower a block, trying layouts and head splits and keeping the cheapest.

    Raises:
        Declined: when no arrangement expresses the block.
    """
    letters = block.letters
    product = block.product
    letters, queries = upward(
        product.query.value, product.query.axes, letters, view, facts, scalars=True
    )
    letters, keys = upward(product.key.value, product.key.axes, letters, view, facts, scalars=True)
    letters, values = upward(
        block.value.value, block.value.axes, letters, view, facts, scalars=False
    )
    letters, outputs = downward(block.output.value, block.output.axes, letters, view, facts)
    block = replace(block, letters=letters)
    best: tuple[int, Fusion] | None = None
    problem: Declined | None = None
    for roles in _roles(block, keys, values):
        for layout in ("BNSD", "BSND"):
            try:
                cost, fusion = _assemble(
                    block, roles, layout, (queries, keys, values, outputs), view, facts, name
                )
            except Declined as declined:
                problem = problem or declined
                continue
            if best is None or cost < best[0]:
                best = (cost, fusion)
    if best is None:
        raise problem or Declined("layout", "no layout of the node expresses this block")
    return best[1]


def _atoms(letters: Letters, axes: Axes) -> list[int]:
    return [atom for axis in letters.resolve_all(axes) for atom in axis]


def _all_scores(block: Attention) -> list[int]:
    """Return the atoms of the scores; a mask may bring in indices that the product lacks."""
    scores = block.product.scores
    found: list[int] = []
    for axes in (*(axes for _, axes in scores.trail), scores.axes):
        found += [x for x in _atoms(block.letters, axes) if x not in found]
    with_sink = block.letters.resolve(block.weights.outer_key)
    return [x for x in found if x not in with_sink]


def _roles(block: Attention, keys: list[Stage], values: list[Stage]) -> list[_Roles]:
    """Return the possible splits of the outer atoms into batch and heads."""
    letters = block.letters
    scores = _all_scores(block)
    key = [x for x in scores if x in letters.resolve(block.product.scores.key)]
    free = [letters.resolve(axis) for axis in block.product.free]
    free = [axis for axis in free if axis]
    query = list(free[-1]) if free else []
    operands = {
        atom
        for part in (block.product.query, block.product.key, block.value)
        for atom in _atoms(letters, part.axes)
    }
    if not query:  # a mask may have more query rows than the single query
        query = [x for x in scores if x not in operands][-1:]
    outer = [x for x in scores if x not in key and x not in query]
    depth = letters.resolve(block.product.depth)
    value = [
        x
        for x in _atoms(letters, block.value.axes)
        if x not in key and x not in outer and x not in query
    ]
    thin = [
        set(_atoms(letters, k.axes)) | set(_atoms(letters, v.axes))
        for k in keys[-1:]
        for v in values[-1:]
    ]
    present = thin[0] if thin else set()
    found: list[_Roles] = []
    for cut in range(len(outer) + 1):
        heads = tuple(outer[cut:])
        if not all(isinstance(letters.sizes[atom], int) for atom in heads):
            continue
        group: list[int] = []
        for atom in reversed(heads):
            if atom in present:
                break
            group.insert(0, atom)
        for tail in {tuple(group), ()}:
            found.append(
                _Roles(
                    tuple(outer[:cut]),
                    heads,
                    tuple(query),
                    tuple(key),
                    depth,
                    tuple(value),
                    tail,
                )
            )
    return found


def _target(layout: str, batch: Axis, heads: Axis, length: Axis, depth: Axis) -> Axes:
    if layout == "BNSD":
        return batch, heads, length, depth
    return batch, length, heads, depth


def _place(emitter: Emitter, stages: list[Stage], target: Axes) -> tuple[str, float, int]:
    """Arrange the operand from its cheapest stage; ties go to the stage further up."""
    best: tuple[int, int] | None = None
    problem: Declined | None = None
    for index, stage in enumerate(stages):
        trial = Emitter("t", emitter.letters)
        trial._sources = emitter._sources
        try:
            trial.arrange((stage.value, stage.axes), target, broadcast=False)
        except Declined as declined:
            problem = declined
            continue
        if best is None or trial.cost <= best[0]:
            best = (trial.cost, index)
    if best is None:
        raise problem or Declined("layout", "an operand has no usable layout")
    stage = stages[best[1]]
    before = emitter.cost
    value, _ = emitter.arrange((stage.value, stage.axes), target, broadcast=False)
    return value, stage.factor, emitter.cost - before


def _assemble(
    block: Attention,
    roles: _Roles,
    layout: str,
    stages: tuple[list[Stage], list[Stage], list[Stage], list[Stage]],
    view: GraphView,
    facts: Facts,
    name: str,
) -> tuple[int, Fusion]:
    letters = block.letters
    queries, keys, values, outputs = stages
    emitter = Emitter(name, letters)
    for stage in (*reversed(queries), *reversed(keys), *reversed(values)):
        emitter.know((stage.value, stage.axes))
    for term in block.product.scores.terms:
        emitter.know((term.value, term.axes))
    kv_heads = roles.heads[: len(roles.heads) - len(roles.group)]
    q_target = _target(layout, roles.batch, roles.heads, roles.query, roles.depth)
    k_target = _target(layout, roles.batch, kv_heads, roles.key, roles.depth)
    v_target = _target(layout, roles.batch, kv_heads, roles.key, roles.value)
    scale = block.scale
    dtype = _common_dtype(block, facts)
    query, factor, _ = _place(emitter, queries, q_target)
    scale *= factor
    key, factor, _ = _place(emitter, keys, k_target)
    scale *= factor
    value, _, _ = _place(emitter, values, v_target)
    query, key = _factors(block, roles, layout, emitter, facts, query, key)
    place: Axes = (roles.batch, roles.heads, roles.query, roles.key)
    masking = lower_terms(block.product.scores.terms, block.weights, place, emitter, view, facts)
    sink = _sink(block, roles, emitter, view, facts, dtype)
    cap = block.product.scores.softcap
    number = letters.size(roles.heads)
    kv_number = letters.size(kv_heads)
    assert isinstance(number, int)
    assert isinstance(kv_number, int)
    inputs = [
        _cast(emitter, x, facts, dtype, y)
        for x, y in (
            (query, block.product.query.value),
            (key, block.product.key.value),
            (value, block.value.value),
        )
    ]
    out_layout, produced, tail = _output(block, emitter, layout, roles, outputs)
    attrs = FlashAttentionAttrs(
        num_heads=number,
        num_kv_heads=kv_number,
        scale=float(np.float32(scale)),
        layout=layout,
        out_layout=out_layout,
        softcap=float(np.float32(cap)),
        causal=masking.positions.causal,
        window_left=masking.positions.window_left,
        window_right=masking.positions.window_right,
        masked_rows=masking.masked_rows,
    )
    node = make_flash_attention(
        attrs,
        [*inputs, masking.bias, masking.mask, sink],
        produced,
        name,
        block.anchor.name,
        block.output.value,
    )
    out_dtype = facts.dtype(block.output_node.outputs[0])
    if out_dtype and out_dtype != dtype:
        raise Declined("dtype", "the output has another dtype than the operands")
    shape_nodes = []
    for reader, axes in () if block.exposed else block.shape_readers:
        shapes = Emitter(f"{name}/{reader.index}", letters)
        shapes._sources = emitter._sources
        vector = shapes.run_time_shape(axes)
        emitter.initializers.extend(shapes.initializers)
        final = helper.make_node("Identity", [vector], [reader.outputs[0]], name=reader.name)
        shape_nodes.append((reader, [*shapes.nodes, final]))
    split = len(emitter.nodes) - tail
    nodes = [*emitter.nodes[:split], node, *emitter.nodes[split:]]
    bias_dtype = 0
    if masking.bias:
        bias_dtype = _dtype_of(masking.bias, emitter, facts, block)
    return emitter.cost, Fusion(
        block.anchor,
        block.output_node.index,
        attrs,
        node,
        nodes,
        emitter.initializers,
        (block.output_node,),
        shape_nodes,
        dtype,
        bias_dtype,
        nodes[-1].output[0],
        "",
        "exact",
        _sizes(letters, roles),
    )


def _sizes(letters: Letters, roles: _Roles) -> Sizes:
    axes = (roles.batch, roles.heads, roles.query, roles.key, roles.depth, roles.value)
    return Sizes(*(letters.size(axis) for axis in axes))


def _dtype_of(value: str, emitter: Emitter, facts: Facts, block: Attention) -> int:
    """Return the dtype of an emitted bias: that of the terms it was made from."""
    made = {node.output[0]: node for node in emitter.nodes}
    constants = {tensor.name: tensor.data_type for tensor in emitter.initializers}
    while value in made:
        node = made[value]
        if node.op_type == "Cast":
            return int(helper.get_attribute_value(node.attribute[0]))
        value = node.input[1] if node.op_type == "Where" else node.input[0]
    if value in constants:
        return int(constants[value])
    return facts.dtype(value) or facts.dtype(block.product.query.value)


def _common_dtype(block: Attention, facts: Facts) -> int:
    found = [
        facts.dtype(x)
        for x in (block.product.query.value, block.product.key.value, block.value.value)
    ]
    known = {x for x in found if x}
    if not known:
        known = {x for x in (facts.dtype(block.output.value),) if x} or {int(TensorProto.FLOAT)}
    if not known <= set(FLOAT_TYPES):
        raise Declined("dtype", "query, key and value are not fp32, fp16 or bf16")
    value_type = found[2] or next(iter(known))
    return int(value_type)


def _cast(emitter: Emitter, value: str, facts: Facts, dtype: int, origin: str) -> str:
    have = facts.dtype(origin)
    if have and have != dtype:
        return emitter.add("Cast", [value], "cast", to=dtype)
    return value


def _sink(
    block: Attention, roles: _Roles, emitter: Emitter, view: GraphView, facts: Facts, dtype: int
) -> str:
    """Return the sink as ``[N]``, from before it was expanded over batch and queries."""
    sink = block.product.scores.sink
    if sink is None:
        return ""
    _, stages = upward(sink.value, sink.axes, block.letters, view, facts, scalars=False)
    for stage in stages:
        if set(_atoms(block.letters, stage.axes)) <= set(roles.heads):
            name, _ = emitter.arrange((stage.value, stage.axes), (roles.heads,), broadcast=False)
            return _cast(emitter, name, facts, dtype, stage.value)
    raise Declined("sink", "the sink differs by batch or query")


def _factors(
    block: Attention,
    roles: _Roles,
    layout: str,
    emitter: Emitter,
    facts: Facts,
    query: str,
    key: str,
) -> tuple[str, str]:
    """Multiply tensors that scale the scores into query (no key letter) or key (no query)."""
    letters = block.letters
    kv_heads = roles.heads[: len(roles.heads) - len(roles.group)]
    for factor in block.product.scores.factors:
        own = set(_atoms(letters, factor.axes))
        op = "Div" if factor.divide else "Mul"
        if not own & set(roles.key):
            target = _target(layout, roles.batch, roles.heads, roles.query, ())
            tensor = emitter.arrange((factor.value, factor.axes), target, broadcast=True)
            query = emitter.add(op, [query, tensor[0]], "scaled")
        elif not own & (set(roles.query) | set(roles.group)):
            target = _target(layout, roles.batch, kv_heads, roles.key, ())
            tensor = emitter.arrange((factor.value, factor.axes), target, broadcast=True)
            key = emitter.add(op, [key, tensor[0]], "scaled")
        else:
            raise Declined("factor", "a tensor over query and key multiplies the scores")
    if block.product.scores.factors and block.product.scores.softcap:
        raise Declined("softcap", "a tensor multiplies soft-capped scores")
    del facts
    return query, key


def _weigh_output(
    block: Attention, roles: _Roles, layout: str, emitter: Emitter, output: str
) -> str:
    """Multiply factors of the weights, which do not run over the keys, into the output."""
    for factor in block.weights.factors:
        target = _target(layout, roles.batch, roles.heads, roles.query, ())
        tensor = emitter.arrange((factor.value, factor.axes), target, broadcast=True)
        output = emitter.add("Mul", [output, tensor[0]], "weighted")
    return output


def _output(
    block: Attention, emitter: Emitter, layout: str, roles: _Roles, outputs: list[Stage]
) -> tuple[str, str, int]:
    """Choose the output layout and stage; return layout, node output name, emitted tail nodes."""
    best: tuple[int, int, str] | None = None
    for out_layout in ("BNSD", "BSND"):
        source = _target(out_layout, roles.batch, roles.heads, roles.query, roles.value)
        for index, stage in enumerate(outputs):
            trial = Emitter("t", emitter.letters)
            trial._sources = emitter._sources
            try:
                trial.know(("o", source))
                trial.arrange(("o", source), stage.axes, broadcast=False)
            except Declined:
                continue
            cost = trial.cost * 16 - index
            if best is None or cost < best[0]:
                best = (cost, index, out_layout)
    if best is None:
        raise Declined("layout", "the output has no usable layout")
    _, index, out_layout = best
    stage = outputs[index]
    source = _target(out_layout, roles.batch, roles.heads, roles.query, roles.value)
    same = emitter.letters.resolve_all(stage.axes) == emitter.letters.resolve_all(source)
    if same and not block.weights.factors:
        return out_layout, stage.value, 0
    produced = emitter.fresh("attention")
    before = len(emitter.nodes)
    final = _weigh_output(block, roles, out_layout, emitter, produced)
    emitter.arrange((final, source), stage.axes, broadcast=False)
    emitter.nodes[-1].output[0] = stage.value
    return out_layout, produced, len(emitter.nodes) - before
