"""The nodes that stand in for one FlashAttention node where CANN's own operator is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from omfuse.atc.config import SocConfig
from omfuse.fuse.contract import FlashAttentionAttrs

BUILTIN_TYPES = {"prompt-flash": "NPUPromptFlashAttention", "score": "NPUFlashAttention"}
_UNLIMITED = 2147483647
_SQUARE = 2048  # side of the triangular mask of sparse modes 2 and 3


@dataclass(frozen=True)
class AttentionCase:
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


class BuiltinWriter:
    """Writes the nodes that stand in for one FlashAttention node."""

    def __init__(self, case: AttentionCase, choice: str, soc: SocConfig) -> None:
        self._case, self._choice = case, choice
        self._narrow = case.dtype == TensorProto.FLOAT
        self._compressed = soc.attention["mask"] == "any"
        self._base = case.node.name or case.node.output[0]
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> list[onnx.NodeProto]:
        """Return the nodes; the last one makes the output of the node they replace."""
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
                BUILTIN_TYPES[self._choice],
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
            BUILTIN_TYPES[self._choice],
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
