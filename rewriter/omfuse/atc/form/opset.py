"""Lower the opset of a model to one that ATC's shipped parsers list.

A plug-in of ATC answers to exact keys ``ai.onnx::N::Op``; those of CANN 8.x list most operators up
to 18 in their older forms, few at 19 and above, while exporters now write 18 to 23.  Lowering goes
node by node along onnx's own schemas: an operator whose definition did not change stays; one that
only gained types, or attributes left at their defaults, stays too; moved arguments are moved back;
an operator newer than the target is written in older ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from omfuse.atc.constants import (
    Constants,
    drop_attribute,
    int_attribute,
    known_shapes,
    set_attribute,
    subgraphs,
)
from omfuse.atc.form import expand

PREFERRED_OPSET = 17
_DEFAULT_DOMAIN = ("", "ai.onnx")


@dataclass
class Lowering:
    """What was done: ``source`` and ``target`` opset, operators rewritten, what blocked lower."""

    source: int
    target: int
    changed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)


class _BlockedError(Exception):
    pass


@dataclass
class _Context:
    """What a rule may look at, and the initializers it adds to the graph."""

    constants: Constants
    shapes: dict[str, tuple[int | None, ...]]
    source: int
    target: int
    changed: dict[str, int]
    blocked: list[str]
    new_initializers: list[onnx.TensorProto] = field(default_factory=list)


def model_opset(model: onnx.ModelProto) -> int:
    """Return the version of the default domain."""
    return next((o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAIN), 1)


def lower_opset(
    model: onnx.ModelProto, target: int | None = None
) -> tuple[onnx.ModelProto, Lowering]:
    """Lower a model's default opset.

    Args:
        model: the model; it is not changed.  Shapes known to it help.
        target: version to reach; by default the lowest from 17 upward that every node allows.

    Returns:
        The lowered model and a report.  With an explicit ``target`` that some node does not allow,
        the model comes back unchanged and ``blocked`` says which.
    """
    source = model_opset(model)
    wanted = [target] if target else list(range(PREFERRED_OPSET, source))
    report = Lowering(source, source)
    for candidate in wanted:
        if candidate >= source:
            break
        trial, changed, blocked = _try_lower(model, source, candidate)
        if not blocked:
            report.target, report.changed = candidate, changed
            return trial, report
        report.blocked += [b for b in blocked if b not in report.blocked]
    return model, report


def _try_lower(
    model: onnx.ModelProto, source: int, target: int
) -> tuple[onnx.ModelProto, dict[str, int], list[str]]:
    trial, changed = expand.expand_newer(model, source, target)
    ctx = _Context(
        Constants(trial.graph, {}, source), known_shapes(trial), source, target, changed, []
    )
    _lower_graph(trial.graph, None, ctx)
    if not ctx.blocked:
        for item in trial.opset_import:
            if item.domain in _DEFAULT_DOMAIN:
                item.version = target
    return trial, changed, ctx.blocked


def _lower_graph(graph: onnx.GraphProto, outer: Constants | None, parent: _Context) -> None:
    constants = Constants(graph, parent.shapes, parent.source, outer)
    ctx = replace(parent, constants=constants, new_initializers=[])
    for node in graph.node:
        for inner in subgraphs(node):
            _lower_graph(inner, constants, ctx)
        if node.domain not in _DEFAULT_DOMAIN:
            continue
        try:
            if _lower_node(node, ctx):
                ctx.changed[node.op_type] = ctx.changed.get(node.op_type, 0) + 1
        except _BlockedError as error:
            ctx.blocked.append(f"{node.op_type} ({node.name or node.output[0]}): {error}")
    graph.initializer.extend(ctx.new_initializers)


def _lower_node(node: onnx.NodeProto, ctx: _Context) -> bool:
    try:
        new = defs.get_schema(node.op_type, ctx.source, "")
    except defs.SchemaError:
        return False  # not an ONNX operator: ATC's parser decides
    if new.since_version <= ctx.target:
        return False
    try:
        old = defs.get_schema(node.op_type, ctx.target, "")
    except defs.SchemaError:
        raise _BlockedError(f"new in opset {new.since_version}") from None
    before = node.SerializeToString(deterministic=True)
    rule = _RULES.get(node.op_type)
    if rule is not None:
        rule(node, ctx)
    _drop_defaults(node, new, old)
    if len(node.input) > old.max_input:
        raise _BlockedError(f"{len(node.input)} inputs, opset {ctx.target} takes {old.max_input}")
    return bool(node.SerializeToString(deterministic=True) != before)


def _drop_defaults(node: onnx.NodeProto, new: defs.OpSchema, old: defs.OpSchema) -> None:
    """Drop attributes unknown to the old form when they say nothing, refuse the others."""
    for attribute in list(node.attribute):
        if attribute.name in old.attributes:
            continue
        default = (
            new.attributes[attribute.name].default_value
            if attribute.name in (new.attributes)
            else None
        )
        value = helper.get_attribute_value(attribute)
        neutral = (
            default is not None
            and default.type != onnx.AttributeProto.UNDEFINED
            and (helper.get_attribute_value(default) == value)
        )
        if not neutral and (node.op_type, attribute.name) not in _NEVER_MATTERS:
            raise _BlockedError(f"attribute {attribute.name} is newer")
        drop_attribute(node, attribute.name)
    while node.input and not node.input[-1]:
        node.input.pop()


# Attributes that only concern float8 targets, which the old forms do not have at all.
_NEVER_MATTERS = {
    ("Cast", "saturate"),
    ("CastLike", "saturate"),
    ("QuantizeLinear", "saturate"),
    ("Cast", "round_mode"),
    ("CastLike", "round_mode"),
}


def _axes_to_attribute(node: onnx.NodeProto, ctx: _Context) -> None:
    if ctx.target >= 18 or any(a.name == "axes" for a in node.attribute):
        return
    noop = int_attribute(node, "noop_with_empty_axes", 0)
    axes = None
    if len(node.input) > 1 and node.input[1]:
        axes = ctx.constants.value(node.input[1])
        if axes is None:
            raise _BlockedError("its axes are computed")
    del node.input[1:]
    drop_attribute(node, "noop_with_empty_axes")
    if axes is not None and axes.size:
        set_attribute(node, "axes", [int(a) for a in axes.reshape(-1)])
    elif noop:
        # Nothing is reduced; what the reduction does to a single element stays.
        alone = _SINGLE.get(node.op_type)
        if alone is None:
            raise _BlockedError("noop_with_empty_axes is new in opset 18")
        node.op_type = alone
        del node.attribute[:]


def _split_sizes(node: onnx.NodeProto, ctx: _Context) -> None:
    if ctx.target >= 18:
        return
    parts = int_attribute(node, "num_outputs", 0)
    if not parts:
        return
    shape, axis = ctx.shapes.get(node.input[0]), int_attribute(node, "axis", 0)
    size = shape[axis] if shape is not None else None
    if size is None:
        raise _BlockedError("the size that it splits is not known")
    chunk = -(-size // parts)
    sizes = [min(chunk, size - i * chunk) for i in range(parts)]
    if min(sizes) < 1:
        raise _BlockedError(f"{size} in {parts} parts leaves one empty")
    drop_attribute(node, "num_outputs")
    if len(set(sizes)) == 1:
        return  # equal parts are what the old form does without sizes
    name = f"{node.output[0]}_split_sizes"
    ctx.new_initializers.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    del node.input[1:]
    node.input.append(name)


def _pad_axes(node: onnx.NodeProto, ctx: _Context) -> None:
    mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "constant")
    if mode == "wrap" and ctx.target < 19:
        raise _BlockedError("mode wrap is new in opset 19")
    if ctx.target >= 18 or len(node.input) < 4 or not node.input[3]:
        return
    axes, pads = ctx.constants.value(node.input[3]), ctx.constants.value(node.input[1])
    shape = ctx.shapes.get(node.input[0])
    if axes is None or pads is None or shape is None:
        raise _BlockedError("its axes are computed")
    rank, count = len(shape), axes.size
    full = np.zeros(2 * rank, np.int64)
    for index, axis in enumerate(int(a) % rank for a in axes.reshape(-1)):
        full[axis], full[rank + axis] = pads[index], pads[count + index]
    name = f"{node.output[0]}_pads"
    ctx.new_initializers.append(numpy_helper.from_array(full, name))
    node.input[1] = name
    del node.input[3:]


def _resize(node: onnx.NodeProto, ctx: _Context) -> None:
    for attribute in node.attribute:
        if attribute.name == "coordinate_transformation_mode" and (
            attribute.s == b"half_pixel_symmetric" and ctx.target < 19
        ):
            raise _BlockedError("half_pixel_symmetric is new in opset 19")
    if ctx.target < 18 and any(a.name == "axes" for a in node.attribute):
        raise _BlockedError("attribute axes is new in opset 18")


def _grid_sample(node: onnx.NodeProto, ctx: _Context) -> None:
    if ctx.target >= 20:
        return
    shape = ctx.shapes.get(node.input[0])
    if shape is None or len(shape) != 4:
        raise _BlockedError("only 4-D before opset 20")
    names = {b"linear": "bilinear", b"cubic": "bicubic"}
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"linear")
    set_attribute(node, "mode", names.get(mode, mode.decode()))


def _pool_dilations(node: onnx.NodeProto, ctx: _Context) -> None:
    ones = [a for a in node.attribute if a.name == "dilations" and set(a.ints) <= {1}]
    if ones and ctx.target < (19 if node.op_type == "AveragePool" else 18):
        drop_attribute(node, "dilations")


def _scatter(node: onnx.NodeProto, ctx: _Context) -> None:
    reduction = next((a.s for a in node.attribute if a.name == "reduction"), b"none")
    if ctx.target < 18 and reduction in (b"max", b"min"):
        raise _BlockedError(f"reduction {reduction.decode()} is new in opset 18")


def _changed_meaning(node: onnx.NodeProto, ctx: _Context) -> None:
    raise _BlockedError("its meaning changed between the opsets")


_SINGLE = {
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"), "Identity"),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), "Abs"),
    "ReduceLogSumExp": "Identity",
    "ReduceLogSum": "Log",
}
_REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_RULES: dict[str, Callable[[onnx.NodeProto, _Context], None]] = {
    **dict.fromkeys((f"Reduce{name}" for name in _REDUCED), _axes_to_attribute),
    "Split": _split_sizes,
    "Pad": _pad_axes,
    "Resize": _resize,
    "GridSample": _grid_sample,
    "AveragePool": _pool_dilations,
    "LpPool": _pool_dilations,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "DFT": _changed_meaning,
    "GroupNormalization": _changed_meaning,
}
