"""FlashAttention in the ATC form: our own operator, or CANN's built-in ones within their limits.

``custom`` keeps the node, in the default domain, for the Ascend C operator of this project.
``prompt-flash`` writes ``NPUPromptFlashAttention``, ``score`` writes ``NPUFlashAttention``; the
plug-in that CANN ships maps them to PromptFlashAttention and FlashAttentionScore.  Limits follow
their public plug-in and tiling sources; the built-in operators were not run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from omfuse.atc.config import SocConfig
from omfuse.atc.constants import all_graphs, known_dtypes
from omfuse.atc.form_shapes import settled_shapes
from omfuse.errors import UsageError
from omfuse.fuse.contract import (
    DOMAIN,
    INPUTS,
    OP_TYPE,
    FlashAttentionAttrs,
    is_flash_attention,
    read_attrs,
)

CHOICES = ("custom", "prompt-flash", "score")
# Keys `ai.onnx::N::<type>` that the shipped plug-ins list; outside them the domain is spelled out.
BUILTIN_OPSETS = {
    "prompt-flash": frozenset([*range(11, 17), 19]),
    "score": frozenset(range(11, 19)),
}
BUILTIN_TYPES = {"prompt-flash": "NPUPromptFlashAttention", "score": "NPUFlashAttention"}
BUILTIN_DOMAIN = "npu"
_UNLIMITED = 2147483647
_FULL_MASK_ELEMENTS = 16 * 1024 * 1024
_SQUARE = 2048  # side of the triangular mask of sparse modes 2 and 3


@dataclass(frozen=True)
class _Case:
    """One node with what is known about its operands, in BNSD terms."""

    node: onnx.NodeProto
    attrs: FlashAttentionAttrs
    dtype: int
    batch: int | None
    q_len: int | None
    kv_len: int | None
    depth: int | None
    value_depth: int | None
    inputs: Mapping[str, str]
    mask_shape: Sequence[int | None] | None


def to_custom(model: onnx.ModelProto) -> None:
    """Move our nodes to the default domain in place.

    ``scale_value`` carries scale and softcap a second time as a ``floats`` attribute: the JSON
    style of ATC's plug-ins rounds scalar floats to six digits, lists keep theirs.
    """
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if is_flash_attention(node):
                attrs = read_attrs(node)
                node.domain, node.overload = "", ""
                del node.attribute[:]
                values = {**attrs.as_dict(), "scale_value": [attrs.scale, attrs.softcap]}
                if len(node.output) > 1 and node.output[1]:
                    values["with_lse"] = 1  # a plug-in does not see how many outputs are named
                node.attribute.extend(helper.make_attribute(k, v) for k, v in values.items())


def to_builtin(model: onnx.ModelProto, choice: str, soc: SocConfig) -> None:
    """Replace our nodes by CANN's fused attention in place; shapes must be known to the model.

    Raises:
        UsageError: ``attention-limit`` with one line for each node outside the limits.
    """
    shapes, dtypes = settled_shapes(model), known_dtypes(model)
    refused: list[str] = []
    for graph in all_graphs(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if not is_flash_attention(node):
                nodes.append(node)
                continue
            case = _case(node, shapes, dtypes)
            why = _limits(case, choice, soc)
            if why:
                refused += [f"{node.name or node.output[0]}: {text}" for text in why]
            else:
                nodes += _Writer(case, choice, soc).write()
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    if refused:
        raise UsageError(
            "attention-limit",
            f"--attention {choice} does not fit {len(refused)} times; {'; '.join(refused[:6])}",
            where=soc.name,
            hint="use --attention custom, which implements the whole contract",
        )


def _case(
    node: onnx.NodeProto,
    shapes: Mapping[str, Sequence[int | None]],
    dtypes: Mapping[str, int],
) -> _Case:
    attrs = read_attrs(node)
    inputs = {name: i for name, i in zip(INPUTS, node.input, strict=False) if i}
    q, k, v = (shapes.get(inputs[n]) for n in ("query", "key", "value"))
    qs, ks = _bsd(q, attrs.layout, attrs.num_heads), _bsd(k, attrs.layout, attrs.num_kv_heads)
    vs = _bsd(v, attrs.layout, attrs.num_kv_heads)
    mask = shapes.get(inputs["attn_mask"]) if "attn_mask" in inputs else None
    dtype = dtypes.get(inputs["query"], TensorProto.UNDEFINED)
    return _Case(node, attrs, dtype, qs[0], qs[1], ks[1], qs[2], vs[2], inputs, mask)


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


def _limits(case: _Case, choice: str, soc: SocConfig) -> list[str]:
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


class _Writer:
    """Writes the nodes that stand in for one FlashAttention node."""

    def __init__(self, case: _Case, choice: str, soc: SocConfig) -> None:
        self._case, self._choice = case, choice
        self._narrow = case.dtype == TensorProto.FLOAT
        self._compressed = soc.attention["mask"] == "any"
        self._base = case.node.name or case.node.output[0]
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> list[onnx.NodeProto]:
        case = self._case
        operands = [self._half(case.inputs[n]) for n in ("query", "key", "value")]
        mask, sparse = self._mask()
        result = self._attend(operands, mask, sparse)
        if self._narrow:
            result = self._op("Cast", result, to_type=TensorProto.FLOAT)
        self._layout(result)
        return self._nodes

    def _op(
        self, op_type: str, *inputs: str, out: str = "", to_type: int | None = None, **attrs: object
    ) -> str:
        name = f"{self._base}/{op_type}_{len(self._nodes)}"
        if to_type is not None:
            attrs["to"] = to_type
        output = out or name
        node = helper.make_node(op_type, list(inputs), [output], name)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attrs.items())
        self._nodes.append(node)
        return output

    def _constant(self, array: np.ndarray) -> str:
        return self._op("Constant", value=numpy_helper.from_array(array))

    def _half(self, name: str) -> str:
        return self._op("Cast", name, to_type=TensorProto.FLOAT16) if self._narrow else name

    def _mask(self) -> tuple[str, int]:
        """Return the mask in CANN's sense (true = hidden) and the sparse mode."""
        case, causal = self._case, self._case.attrs.causal
        q_len, kv_len = int(case.q_len or 0), int(case.kv_len or 0)
        given = case.inputs.get("attn_mask", "")
        if causal != "none" and not given and self._compressed:
            triangle = np.triu(np.ones((_SQUARE, _SQUARE), np.bool_), 1)
            return self._constant(triangle), 2 if causal == "top_left" else 3
        hidden = ""
        if given:
            rank4 = len(case.mask_shape or ()) == 4
            heads = (case.mask_shape or (1, 1))[1] if rank4 else 1
            full = self._constant(np.array([case.batch, heads or 1, q_len, kv_len], np.int64))
            hidden = self._op("Not", self._op("Expand", given, full))
        if causal != "none":
            offset = kv_len - q_len if causal == "bottom_right" else 0
            later = np.triu(np.ones((1, 1, q_len, kv_len), np.bool_), 1 + offset)
            stored = self._constant(later)
            hidden = self._op("Or", hidden, stored) if hidden else stored
        return hidden, 0

    def _attend(self, operands: Sequence[str], mask: str, sparse: int) -> str:
        case, attrs = self._case, self._case.attrs
        exact = 0 if attrs.inner_precision == "fp32" else 1
        if self._choice == "score":
            # Its inputs: q, k, v, real_shift, padding_mask, atten_mask, prefix, two length lists.
            return self._op(
                BUILTIN_TYPES["score"],
                *operands, "", "", mask,
                head_num=attrs.num_heads,
                input_layout=attrs.layout,
                scale=attrs.scale,
                keep_prob=1.0,
                pre_tockens=_UNLIMITED,
                next_tockens=_UNLIMITED,
                inner_precise=exact,
                sparse_mode=sparse,
            )  # fmt: skip
        bias = case.inputs.get("attn_bias", "")
        if bias:
            shape = [case.batch, attrs.num_heads, case.q_len, case.kv_len]
            full = self._constant(np.array(shape, np.int64))
            bias = self._half(self._op("Expand", bias, full))
        layout = attrs.layout
        if layout == "BNSD" and attrs.out_layout != "BNSD":
            layout = "BNSD_BSND"
        row_fix = 2 if attrs.masked_rows == "zero" and (mask or bias) else 0
        inputs = [*operands, bias, mask]
        while not inputs[-1]:
            inputs.pop()
        return self._op(
            BUILTIN_TYPES["prompt-flash"],
            *inputs,
            num_heads=attrs.num_heads,
            input_layout=layout,
            scale_value=attrs.scale,
            pre_tokens=_UNLIMITED,
            next_tokens=_UNLIMITED,
            num_key_value_heads=attrs.num_kv_heads,
            sparse_mode=sparse,
            inner_precise=exact | row_fix,
        )

    def _layout(self, result: str) -> None:
        """Bring the operator's own output layout to the one the graph expects."""
        attrs, out = self._case.attrs, self._case.node.output[0]
        have = attrs.layout
        if self._choice == "prompt-flash" and have == "BNSD" and attrs.out_layout != "BNSD":
            have = "BSND"
        if have == "BSH" and attrs.out_layout != "BSH":
            heads = self._constant(np.array([0, 0, attrs.num_heads, -1], np.int64))
            result, have = self._op("Reshape", result, heads), "BSND"
        if {have, attrs.out_layout} == {"BSND", "BNSD"} or (have, attrs.out_layout) == (
            "BNSD",
            "BSH",
        ):
            result = self._op("Transpose", result, perm=[0, 2, 1, 3])
            have = "BNSD" if have == "BSND" else "BSND"
        if (have, attrs.out_layout) == ("BSND", "BSH"):
            flat = self._constant(np.array([0, 0, -1], np.int64))
            result = self._op("Reshape", result, flat)
        self._nodes[-1].output[0] = out


def domains_in_use(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the foreign domains of a model's nodes with their operator types."""
    found: dict[str, set[str]] = {}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.domain not in ("", "ai.onnx", DOMAIN):
                found.setdefault(node.domain, set()).add(node.op_type)
    return {domain: sorted(types) for domain, types in sorted(found.items())}


def attention_nodes(model: onnx.ModelProto, choice: str) -> list[str]:
    """Return the names of the attention nodes of an ATC form."""
    wanted = BUILTIN_TYPES.get(choice, OP_TYPE)
    return [n.name for g in all_graphs(model.graph) for n in g.node if n.op_type == wanted]
