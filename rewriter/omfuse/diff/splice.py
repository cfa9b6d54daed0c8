"""Cut blocks out of two related graphs and put one graph's block into the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from omfuse.diff import emulate
from omfuse.diff.roles import numpy_dtype
from omfuse.diff.weights import Stored, is_external, load, stored
from omfuse.fuse.contract import is_flash_attention
from omfuse.host import shapes
from omfuse.session_protocol import Array

_GRAFT = "omfuse.graft."


@dataclass(frozen=True)
class Block:
    """A tensor made differently in two graphs, and the shared tensors that feed it.

    ``depth`` is its position in the first graph, 0 to 1; ``name`` the FlashAttention node's.
    """

    name: str
    softmax: str | None
    output: str
    inputs: tuple[str, ...]
    depth: float


class View:
    """Producers and weights of a main graph."""

    def __init__(self, model: onnx.ModelProto, base_dir: Path | None = None) -> None:
        self.model = model
        self.base_dir = base_dir or Path()
        self.weights = {t.name: t for t in model.graph.initializer}
        self.feeds = [v.name for v in model.graph.input if v.name not in self.weights]
        self.producer = {o: n for n in model.graph.node for o in n.output if o}
        self.order = {o: i for i, n in enumerate(model.graph.node) for o in n.output if o}

    def reads(self, node: onnx.NodeProto) -> list[str]:
        """Return what a node reads, inside its subgraphs as well."""
        names = [name for name in node.input if name]
        for graph in shapes.subgraphs(node):
            inner = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            for child in graph.node:
                names += [n for n in self.reads(child) if n not in inner]
                inner.update(child.output)
        return [n for n in names if n in self.producer or n in self.weights or n in self.feeds]

    def slice(self, output: str, stops: set[str]) -> tuple[list[onnx.NodeProto], list[str]]:
        """Return the nodes that make ``output`` from ``stops``, in order, and the stops used."""
        nodes: dict[int, onnx.NodeProto] = {}
        used: dict[str, None] = {}
        queue = [output]
        while queue:
            name = queue.pop()
            if (name in stops and name != output) or name in self.feeds:
                used[name] = None
                continue
            node = self.producer.get(name)
            if node is None or self.order[name] in nodes:
                continue
            nodes[self.order[name]] = node
            queue.extend(self.reads(node))
        return [nodes[i] for i in sorted(nodes)], list(used)


def find_blocks(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    a_dir: Path | None = None,
    b_dir: Path | None = None,
) -> list[Block]:
    """Return every tensor that both graphs name and make differently, in the order of ``a``.

    External data is looked up in ``a_dir`` and ``b_dir``.
    """
    left, right = View(a, a_dir), View(b, b_dir)
    shared = shared_tensors(a, b)
    anchors = {*shared, *left.feeds}
    blocks = []
    for output in shared:
        if _same(left, right, left.producer[output], right.producer[output]):
            continue
        theirs, used = right.slice(output, anchors)
        _, ours = left.slice(output, anchors)
        fused = next((n for n in reversed(theirs) if is_flash_attention(n)), None)
        notes = {p.key: p.value for p in fused.metadata_props} if fused is not None else {}
        name = (fused.name if fused is not None else "") or output
        depth = left.order[output] / max(len(a.graph.node), 1)
        inputs = tuple(dict.fromkeys([*used, *ours]))
        blocks.append(Block(name, notes.get("omfuse.softmax"), output, inputs, depth))
    return blocks


def shared_tensors(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    """Return the tensors that nodes of both graphs make, in the order of ``a``."""
    left, right = View(a), View(b)
    constants = {n.output[0] for n in a.graph.node if n.op_type == "Constant"}
    shared = (set(left.producer) & set(right.producer)) - constants
    return sorted(shared, key=left.order.__getitem__)


def _same(left: View, right: View, a: onnx.NodeProto, b: onnx.NodeProto) -> bool:
    """Tell whether two nodes are the same operator on the same tensors and constants."""
    if (a.op_type, a.domain, list(a.output)) != (b.op_type, b.domain, list(b.output)):
        return False
    if len(a.input) != len(b.input):
        return False
    attributes = [sorted(x.SerializeToString() for x in n.attribute) for n in (a, b)]
    if attributes[0] != attributes[1]:
        return False
    for x, y in zip(a.input, b.input, strict=True):
        mine, theirs = _constant(left, x), _constant(right, y)
        if mine != theirs or (mine is None and x != y):
            return False
    return True


def _constant(view: View, name: str) -> tuple[int, tuple[int, ...], bytes | Stored] | None:
    tensor = view.weights.get(name)
    node = view.producer.get(name)
    if tensor is None and node is not None and node.op_type == "Constant" and node.attribute:
        tensor = node.attribute[0].t if node.attribute[0].HasField("t") else None
        if tensor is None:
            return (0, (), node.attribute[0].SerializeToString())
    if tensor is None:
        return None
    if is_external(tensor):
        return (tensor.data_type, tuple(tensor.dims), stored(tensor, view.base_dir))
    raw = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
    return (tensor.data_type, tuple(tensor.dims), raw)


def cut(
    model: onnx.ModelProto, inputs: Sequence[str], output: str, values: Mapping[str, Array]
) -> onnx.ModelProto:
    """Cut out what makes ``output`` from ``inputs``.

    Args:
        model: the whole model.
        inputs: tensors to become inputs.
        output: the only output.
        values: arrays of the inputs, for rank and for dtypes the model does not declare.
    """
    view = View(model)
    nodes, used = view.slice(output, set(inputs))
    part = onnx.ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = "block"
    part.graph.node.extend(nodes)
    needed = {name for node in nodes for name in view.reads(node)}
    part.graph.initializer.extend(t for n, t in view.weights.items() if n in needed)
    types = _types(model)
    for name in inputs:
        if name in used:
            elem = types.get(name) or helper.np_dtype_to_tensor_dtype(values[name].dtype)
            shape = [f"{name}.{i}" for i in range(values[name].ndim)]
            part.graph.input.append(helper.make_tensor_value_info(name, elem, shape))
    elem = types.get(output, onnx.TensorProto.FLOAT)
    part.graph.output.append(helper.make_tensor_value_info(output, elem, None))
    return part


def _types(model: onnx.ModelProto) -> dict[str, int]:
    known = shapes.infer(model, {})[0]
    return {name: value.elem_type for name, value in known.items() if value.elem_type}


def input_dtype(model: onnx.ModelProto, name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype of a model's input."""
    for value in model.graph.input:
        if value.name == name:
            return numpy_dtype(value.type.tensor_type.elem_type, name)
    return np.dtype(np.float32)


def hybrid(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    blocks: Sequence[Block],
    b_dir: Path | None = None,
) -> onnx.ModelProto:
    """Return ``a`` with only these blocks taken from ``b``, whose weights are in ``b_dir``."""
    if not blocks:
        return emulate.copy_of(a)
    view = View(b, b_dir)
    stops = set(View(a).producer) & set(view.producer)
    constants = {n.output[0] for n in a.graph.node if n.op_type == "Constant"}
    stops = (stops - constants) | set(View(a).feeds)
    result = emulate.copy_of(a)
    grafted: dict[str, list[onnx.NodeProto]] = {}
    for number, block in enumerate(blocks):
        nodes, _ = view.slice(block.output, stops)
        prefix = f"{_GRAFT}{number}."
        own = {o for node in nodes for o in node.output if o and o != block.output}
        needed = {n for node in nodes for n in view.reads(node) if n in view.weights}
        rename = {name: prefix + name for name in own | needed}
        for name in sorted(needed):
            tensor = result.graph.initializer.add()
            tensor.CopyFrom(view.weights[name])
            if is_external(tensor):
                load(tensor, view.base_dir)
            tensor.name = rename[name]
        grafted[block.output] = [_renamed(node, rename, prefix) for node in nodes]
    nodes = []
    for node in a.graph.node:
        hit = next((o for o in node.output if o in grafted), None)
        if hit is None:
            nodes.append(node)
            continue
        if len(node.output) > 1:
            kept = _renamed(node, {hit: f"{_GRAFT}unused.{hit}"}, "")
            nodes.append(kept)
        nodes.extend(grafted[hit])
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    del result.graph.value_info[:]
    have = {(f.domain, f.name, f.overload) for f in result.functions}
    result.functions.extend(f for f in b.functions if (f.domain, f.name, f.overload) not in have)
    versions = {o.domain: o.version for o in (*b.opset_import, *a.opset_import)}
    del result.opset_import[:]
    result.opset_import.extend(helper.make_opsetid(d, v) for d, v in versions.items())
    result.ir_version = max(a.ir_version, b.ir_version)
    return result


def _renamed(node: onnx.NodeProto, rename: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name if node.name else ""
    copy.input[:] = [rename.get(name, name) for name in node.input]
    copy.output[:] = [rename.get(name, name) for name in node.output]
    return copy


def sizes(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the bytes of inner tensors as far as shapes can be inferred for these inputs."""
    known = shapes.infer(model, {name: array.shape for name, array in feeds.items()})[0]
    found = {}
    for name, value in known.items():
        if value.dims is not None and all(d is not None for d in value.dims):
            found[name] = 4 * math.prod(int(d or 0) for d in value.dims)
    return found


def groups(
    names: Sequence[str], size: Mapping[str, int], limit: int, unknown: int = 16 << 20
) -> Iterator[list[str]]:
    """Split names into groups whose tensors fit into ``limit`` bytes; unknown sizes count 16 MB."""
    group: list[str] = []
    total = 0
    for name in names:
        cost = size.get(name, unknown)
        if group and total + cost > limit:
            yield group
            group, total = [], 0
        group.append(name)
        total += cost
    if group:
        yield group
