"""What is in a model: inputs, outputs, opsets, size, and its attention blocks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from omfuse.api import rewrite
from omfuse.atc.om.layout import is_om
from omfuse.atc.om.summary import describe_om
from omfuse.fuse.contract import DOMAIN, is_flash_attention, read_attrs
from omfuse.graph.facts import model_facts
from omfuse.graph.model_io import external_tensors, load_model, location_of
from omfuse.graph.view import graph_views


@dataclass(frozen=True)
class Block:
    """One attention block: where it is and what it computes."""

    node: str
    heads: int
    kv_heads: int
    query: str
    key: str
    value: str
    scale: float
    bias: bool
    mask: bool
    causal: str
    softcap: float
    already_fused: bool


def inspect(path: str | Path) -> dict[str, Any]:
    """Describe an ``.onnx`` or ``.om`` file as the ``omfuse.inspect/1`` object.

    Raises:
        ModelError: the file cannot be read.
    """
    source = Path(path)
    if source.suffix.lower() == ".om" or is_om(source):
        return {"schema": "omfuse.inspect/1", "kind": "om", **describe_om(source)}
    original = load_model(source)
    ready = {
        node.name
        for view in graph_views(original, (DOMAIN,))
        for node in view.nodes
        if is_flash_attention(node.proto)
    }
    result = rewrite(original)
    shaped = list(graph_views(result.model, (DOMAIN,)))
    facts = model_facts(result.model, shaped)
    blocks = []
    for view in shaped:
        for node in view.nodes:
            if is_flash_attention(node.proto):
                shapes = [str(list(facts[id(view)].shape(x) or ("?",))) for x in node.inputs[:3]]
                blocks.append(_block(node.proto, shapes, node.name in ready))
    files = {location_of(tensor) for tensor in external_tensors(original)}
    size = source.stat().st_size + sum((source.parent / f).stat().st_size for f in files)
    return {
        "schema": "omfuse.inspect/1",
        "kind": "onnx",
        "path": str(source),
        "bytes": size,
        "external_files": sorted(files),
        "producer": f"{original.producer_name} {original.producer_version}".strip(),
        "ir_version": original.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in original.opset_import},
        "nodes": result.nodes_before,
        "inputs": [_value(value) for value in original.graph.input],
        "outputs": [_value(value) for value in original.graph.output],
        "attention": [asdict(block) for block in blocks],
        "not_fused": [r.as_dict() for r in result.records if r.status != "fused"],
    }


def _block(node: onnx.NodeProto, shapes: list[str], ready: bool) -> Block:
    attrs = read_attrs(node)
    names = list(node.input) + [""] * 7
    return Block(
        node.name,
        attrs.num_heads,
        attrs.num_kv_heads,
        f"{attrs.layout} {shapes[0]}",
        shapes[1],
        shapes[2],
        attrs.scale,
        bool(names[3]),
        bool(names[4]),
        attrs.causal,
        attrs.softcap,
        ready,
    )


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    dims = [d.dim_param or d.dim_value for d in tensor.shape.dim]
    kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "?"
    return {"name": value.name, "dtype": kind, "shape": dims}
