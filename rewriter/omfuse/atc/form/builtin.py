"""CANN's own attention operators in place of ours, within their limits.

``prompt-flash`` writes ``NPUPromptFlashAttention``, ``score`` writes ``NPUFlashAttention``; the
plug-in that CANN ships maps them to PromptFlashAttention and FlashAttentionScore.  Limits follow
their public plug-in and tiling sources; the built-in operators were not run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto

from omfuse.atc.config import SocConfig
from omfuse.atc.constants import all_graphs, known_dtypes
from omfuse.atc.form.builtin_nodes import AttentionCase, BuiltinWriter
from omfuse.atc.form.shapes import settled_shapes
from omfuse.errors import UsageError
from omfuse.fuse.contract import INPUTS, is_flash_attention, read_attrs

# Keys `ai.onnx::N::<type>` that the shipped plug-ins list; outside them the domain is spelled out.
BUILTIN_OPSETS = {
    "prompt-flash": frozenset([*range(11, 17), 19]),
    "score": frozenset(range(11, 19)),
}
BUILTIN_DOMAIN = "npu"
_FULL_MASK_ELEMENTS = 16 * 1024 * 1024


def to_builtin(model: onnx.ModelProto, choice: str, soc: SocConfig) -> None:
    """Replace our nodes by CANN's fused attention in place; shapes must be known to the model.

    Raises:
        UsageError: ``attention-limit`` with one line for each node outside the limits.
    """
    shapes, dtypes = settled_shapes(model), known_dtypes(model)
    refused: dict[str, list[str]] = {}
    for graph in all_graphs(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if not is_flash_attention(node):
                nodes.append(node)
                continue
            case = _case(node, shapes, dtypes)
            why = _limits(case, choice, soc)
            if why:
                refused.setdefault("; ".join(why), []).append(node.name or node.output[0])
            else:
                nodes += BuiltinWriter(case, choice, soc).write()
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    if refused:
        raise _refusal(refused, choice, soc)


def _refusal(refused: Mapping[str, Sequence[str]], choice: str, soc: SocConfig) -> UsageError:
    """Group the nodes outside the limits by what they break."""
    listed = [
        f"{why}: {', '.join(nodes[:3])}" + (f" and {len(nodes) - 3} more" if nodes[3:] else "")
        for why, nodes in refused.items()
    ]
    count = sum(map(len, refused.values()))
    hint = "use --attention custom, which implements the whole contract"
    if not soc.attention["custom"]:
        hint = f"{soc.name} has no fused attention: compile the model without fusing"
    return UsageError(
        "attention-limit",
        f"--attention {choice} does not fit {count} nodes\n  " + "\n  ".join(listed[:8]),
        where=soc.name,
        hint=hint,
    )


def _case(
    node: onnx.NodeProto,
    shapes: Mapping[str, Sequence[int | None]],
    dtypes: Mapping[str, int],
) -> AttentionCase:
    attrs = read_attrs(node)
    inputs = {name: i for name, i in zip(INPUTS, node.input, strict=False) if i}
    q, k, v = (shapes.get(inputs[n]) for n in ("query", "key", "value"))
    qs, ks = _bsd(q, attrs.layout, attrs.num_heads), _bsd(k, attrs.layout, attrs.num_kv_heads)
    vs = _bsd(v, attrs.layout, attrs.num_kv_heads)
    mask = shapes.get(inputs["attn_mask"]) if "attn_mask" in inputs else None
    dtype = dtypes.get(inputs["query"], TensorProto.UNDEFINED)
    return AttentionCase(node, attrs, dtype, qs[0], qs[1], ks[1], qs[2], vs[2], inputs, mask)


def _bsd(
    shape: Sequence[int | None] | None, layout: str, heads: int
) -> tuple[int | None, int | None, int | None]:
    """Return (batch, length, depth) of an operand."""
    if shape is None or len(shape) != (3 if layout == "BSH" else 4):
        return None, None, None
    if layout == "BSH":
        hidden = shape[2]
        return shape[0], shape[1], None if hidden is None else hidden // heads
    length = shape[2] if layout == "BNSD" else shape[1]
    return shape[0], length, shape[3]


def _limits(case: AttentionCase, choice: str, soc: SocConfig) -> list[str]:
    attrs, limits = case.attrs, soc.attention
    if not limits.get("prompt_flash" if choice == "prompt-flash" else "score"):
        return [f"{soc.name} has no such operator"]
    if None in (case.batch, case.q_len, case.kv_len, case.depth):
        return ["the shapes of its operands are not known; give fixed shapes with --shape"]
    batch, q_len, kv_len = int(case.batch or 0), int(case.q_len or 0), int(case.kv_len or 0)
    depth = int(case.depth or 0)
    masked = "attn_mask" in case.inputs or attrs.causal != "none"
    masks = case.mask_shape
    fp32 = case.dtype == TensorProto.FLOAT
    checks = (
        (attrs.softcap > 0, "softcap"),
        ("sink" in case.inputs, "sink"),
        ("kv_lengths" in case.inputs, "kv_lengths"),
        (attrs.window_left >= 0 or attrs.window_right >= 0, "a window"),
        (len(case.node.output) > 1 and bool(case.node.output[1]), "output lse"),
        (case.value_depth != depth, f"value depth {case.value_depth}, key depth {depth}"),
        (depth > limits["max_head_dim"], f"head size {depth} > {limits['max_head_dim']}"),
        (depth % 16 != 0 and batch > 128, f"head size {depth} with batch {batch} > 128"),
        (batch > limits["max_batch"], f"batch {batch} > {limits['max_batch']}"),
        (attrs.num_heads > limits["max_heads"], f"{attrs.num_heads} heads"),
        (max(q_len, kv_len) > limits["max_sequence"], f"sequence {max(q_len, kv_len)}"),
        ("attn_bias" in case.inputs and not limits["bias"], f"a bias on {soc.name}"),
        ("attn_bias" in case.inputs and choice == "score", "a bias: it would be scaled, too"),
        (
            masked and limits["mask"] == "square-16" and (q_len != kv_len or q_len % 16 != 0),
            f"a mask with {q_len} x {kv_len}: {soc.name} wants a square multiple of 16",
        ),
        ("attn_mask" in case.inputs and masks is None, "a mask of unknown shape"),
        (
            masks is not None and len(masks) == 4 and masks[1] not in (1,) and choice != "score",
            "a mask that differs by head",
        ),
        (
            masked and q_len * kv_len > _FULL_MASK_ELEMENTS,
            f"a mask of {q_len} x {kv_len}",
        ),
        (
            not fp32 and case.dtype not in (TensorProto.FLOAT16, TensorProto.BFLOAT16),
            "its dtype is not known to be a float",
        ),
        (
            case.dtype == TensorProto.BFLOAT16 and "bfloat16" not in limits["dtypes"],
            f"bf16 on {soc.name}",
        ),
    )
    return [text for bad, text in checks if bad]
