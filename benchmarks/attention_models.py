"""One attention block in the forms that are compared: exported, one operator, and torch.

Each form takes the same inputs and gives the same output, so the time of a form includes the
transposes it needs.  `layout` says how query, key and value arrive: BSH `[B, S, N*D]`, straight
from a projection, or BNSD `[B, N, S, D]`, as caches of keys and values lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Feeds = dict[str, np.ndarray[Any, Any]]
LOWEST = -10000.0  # what BERT's exports add to padded keys


@dataclass(frozen=True)
class Block:
    """Sizes of one attention; `extra` is none, causal, padding (additive, a row a batch), mask
    (boolean, one a query and key) or bias (additive, one a head, query and key)."""

    name: str
    q_len: int
    kv_len: int
    heads: int
    depth: int
    extra: str = "none"
    kv_heads: int = 0
    batch: int = 1
    dtype: str = "float32"
    kv_layout: str = "BSH"

    @property
    def groups(self) -> int:
        return self.heads // (self.kv_heads or self.heads)

    def shape(self, which: str) -> list[int]:
        """Dims of query, key, value or of the extra input."""
        kv_heads = self.heads // self.groups
        heads, length = (self.heads, self.q_len) if which == "query" else (kv_heads, self.kv_len)
        if which == "extra":
            heads = {"padding": 1, "mask": 1, "bias": self.heads}[self.extra]
            rows = 1 if self.extra == "padding" else self.q_len
            return [1 if self.extra == "bias" else self.batch, heads, rows, self.kv_len]
        if which != "query" and self.kv_layout == "BNSD":
            return [self.batch, heads, length, self.depth]
        return [self.batch, length, heads * self.depth]

    @property
    def inputs(self) -> list[str]:
        return ["query", "key", "value"] + (["extra"] if self.extra not in NO_INPUT else [])


NO_INPUT = ("none", "causal")


def feeds(block: Block) -> Feeds:
    """Normal queries, keys and values; a tenth of the keys is masked."""
    rng = np.random.default_rng(0)
    made = {
        name: rng.standard_normal(block.shape(name), np.float32).astype(block.dtype)
        for name in block.inputs[:3]
    }
    if "extra" not in block.inputs:
        return made
    shape = block.shape("extra")
    if block.extra == "padding":
        kept = np.arange(block.kv_len) < max(1, block.kv_len - block.kv_len // 10)
        made["extra"] = np.broadcast_to(np.where(kept, 0, LOWEST), shape).astype(block.dtype)
    elif block.extra == "mask":
        made["extra"] = rng.random(shape) > 0.1
    else:
        made["extra"] = rng.standard_normal(shape, np.float32).astype(block.dtype)
    return made


def _elem(name: str, block: Block) -> int:
    if name == "extra" and block.extra == "mask":
        return int(TensorProto.BOOL)
    return int(TensorProto.FLOAT16 if block.dtype == "float16" else TensorProto.FLOAT)


class _Graph:
    """Nodes and constants of a model under construction."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def heads_first(self, name: str, heads: int, transposed: bool = False) -> str:
        """[B, S, N*D] to [B, N, S, D], or to [B, N, D, S]."""
        block = self.block
        order = [0, 2, 3, 1] if transposed else [0, 2, 1, 3]
        if name != "query" and block.kv_layout == "BNSD":
            return self.add("Transpose", name, perm=[0, 1, 3, 2]) if transposed else name
        split = self.constant([block.batch, -1, heads, block.depth], np.int64)
        return self.add("Transpose", self.add("Reshape", name, split), perm=order)

    def repeat(self, name: str, transposed: bool = False) -> str:
        """Repeat each key/value head for the queries that share it, as exported decoders do."""
        block = self.block
        if block.groups == 1:
            return name
        tail = [block.depth, block.kv_len] if transposed else [block.kv_len, block.depth]
        kv_heads = block.heads // block.groups
        axes = self.constant([2], np.int64)
        wide = self.constant([block.batch, kv_heads, block.groups, *tail], np.int64)
        flat = self.constant([block.batch, block.heads, *tail], np.int64)
        return self.add(
            "Reshape", self.add("Expand", self.add("Unsqueeze", name, axes), wide), flat
        )

    def model(self, opset: int) -> onnx.ModelProto:
        block = self.block
        inputs = [
            helper.make_tensor_value_info(name, _elem(name, block), block.shape(name))
            for name in block.inputs
        ]
        shape = [block.batch, block.q_len, block.heads * block.depth]
        outputs = [helper.make_tensor_value_info("output", _elem("query", block), shape)]
        graph = helper.make_graph(self.nodes, "block", inputs, outputs, self.constants)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def unfused(block: Block) -> onnx.ModelProto:
    """The chain as PyTorch exports it: transposes, matmul, scale, mask, softmax, matmul."""
    graph = _Graph(block)
    kv_heads = block.heads // block.groups
    q = graph.heads_first("query", block.heads)
    k = graph.repeat(graph.heads_first("key", kv_heads, transposed=True), transposed=True)
    v = graph.repeat(graph.heads_first("value", kv_heads))
    scale = graph.constant(block.depth**-0.5, block.dtype)
    scores = graph.add("Mul", graph.add("MatMul", q, k), scale)
    if block.extra in ("padding", "bias"):
        scores = graph.add("Add", scores, "extra")
    elif block.extra in ("mask", "causal"):
        keep = "extra"
        if block.extra == "causal":
            lower = np.tri(block.q_len, block.kv_len, dtype=bool)[None, None]
            keep = graph.constant(lower, np.bool_)
        lowest = graph.constant(-np.inf, block.dtype)
        scores = graph.add("Where", keep, scores, lowest)
    out = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    merged = graph.constant([block.batch, block.q_len, -1], np.int64)
    graph.add("Reshape", graph.add("Transpose", out, perm=[0, 2, 1, 3]), merged, out="output")
    return graph.model(17)


def one_operator(block: Block) -> tuple[str, onnx.ModelProto] | None:
    """The best fitting attention operator of onnxruntime, None when none fits."""
    graph = _Graph(block)
    scale = block.depth**-0.5
    microsoft = {"domain": "com.microsoft", "num_heads": block.heads, "scale": scale}
    if block.kv_layout == "BSH" and block.groups == 1 and block.extra != "mask":
        extra = ["", "", "extra"] if "extra" in block.inputs else []
        if block.extra == "padding":  # attention_bias needs all its rows
            kept = graph.add("Greater", "extra", graph.constant(LOWEST / 2, block.dtype))
            flat = graph.constant([block.batch, block.kv_len], np.int64)
            extra = ["", graph.add("Reshape", graph.add("Cast", kept, to=6), flat)]
        causal = int(block.extra == "causal")
        graph.add(
            "MultiHeadAttention", "query", "key", "value", *extra,
            out="output", unidirectional=causal, **microsoft,
        )  # fmt: skip
        return "MHA", graph.model(17)
    if block.kv_layout == "BSH" and block.extra == "causal" and block.q_len == block.kv_len:
        last = graph.constant([block.kv_len - 1] * block.batch, np.int32)
        total = graph.constant(block.kv_len, np.int32)
        graph.add(
            "GroupQueryAttention", "query", "key", "value", "", "", last, total,
            out="output", kv_num_heads=block.heads // block.groups, **microsoft,
        )  # fmt: skip
        graph.nodes[-1].output.extend(["present_key", "present_value"])
        return "GQA", graph.model(17)
    if block.extra == "causal":
        return None
    kv_heads = block.heads // block.groups
    names = [graph.heads_first("query", block.heads)]
    names += [graph.heads_first(name, kv_heads) for name in ("key", "value")]
    out = graph.add("Attention", *names, *block.inputs[3:], scale=scale)
    merged = graph.constant([block.batch, block.q_len, -1], np.int64)
    graph.add("Reshape", graph.add("Transpose", out, perm=[0, 2, 1, 3]), merged, out="output")
    return "Attention-23", graph.model(23)


def with_torch(block: Block, arrays: Feeds) -> Any:
    """A function that runs scaled_dot_product_attention once and returns the output."""
    import torch
    from torch.nn import functional

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mask = tensors.get("extra")

    def heads_first(name: str) -> Any:
        if tensors[name].dim() == 4:
            return tensors[name]
        return tensors[name].unflatten(-1, (-1, block.depth)).transpose(1, 2)

    def run() -> Any:
        with torch.inference_mode():
            out = functional.scaled_dot_product_attention(
                *(heads_first(name) for name in ("query", "key", "value")),
                attn_mask=mask, is_causal=block.extra == "causal", enable_gqa=block.groups > 1,
            )  # fmt: skip
            return out.transpose(1, 2).flatten(2).numpy()

    return run
