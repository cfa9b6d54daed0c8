"""Prove a kernel library against the reference; runs in a process of its own.

Exit code 0 means that this onnxruntime loads the library and that every feature of the contract
gives the result of the reference.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from omfuse.custom_ops.flash_attention.reference import flash_attention
from omfuse.fuse.contract import DOMAIN, INPUTS, OP_TYPE, FlashAttentionAttrs

TOLERANCE = 1e-5


def _cases() -> list[tuple[FlashAttentionAttrs, dict[str, Any]]]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    q, k, v = draw(2, 4, 70, 24), draw(2, 2, 90, 24), draw(2, 2, 90, 20)
    base = {"query": q, "key": k, "value": v}
    one = {**base, "query": q[:, :, :1].copy()}  # a step of decoding has a kernel of its own
    mask = rng.random((2, 1, 70, 90)) > 0.3
    lengths = np.array([90, 33], np.int32)
    full = {**base, "attn_bias": draw(4, 70, 90), "attn_mask": mask, "sink": draw(4)}
    return [
        (FlashAttentionAttrs(4, 2, 0.3), base),
        (
            FlashAttentionAttrs(4, 2, 0.3, causal="bottom_right", window_left=20, softcap=2.0),
            {**full, "kv_lengths": lengths},
        ),
        (
            FlashAttentionAttrs(4, 2, 0.3, causal="top_left", masked_rows="zero"),
            {**base, "attn_mask": mask & (rng.random((2, 1, 70, 1)) > 0.2)},
        ),
        (FlashAttentionAttrs(4, 2, 0.3), one),
        (
            FlashAttentionAttrs(4, 2, 0.3, causal="bottom_right", window_left=20, softcap=2.0),
            {**one, "attn_bias": draw(4, 1, 90), "attn_mask": mask[:, :, :1], "sink": draw(4)},
        ),
    ]


def main(library: str) -> None:
    """Raise unless the library computes the contract."""
    for attrs, feeds in _cases():
        kinds = {"attn_mask": TensorProto.BOOL, "kv_lengths": TensorProto.INT32}
        inputs = [
            helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), a.shape)
            for n, a in feeds.items()
        ]
        outputs = [
            helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 4),
            helper.make_tensor_value_info("lse", TensorProto.FLOAT, [None] * 3),
        ]
        names = [name if name in feeds else "" for name in INPUTS]
        node = helper.make_node(OP_TYPE, names, ["output", "lse"], domain=DOMAIN, **attrs.as_dict())
        imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        graph = helper.make_graph([node], "proof", inputs, outputs)
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        settings = onnxruntime.SessionOptions()
        settings.register_custom_ops_library(library)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        for got, want in zip(
            session.run(None, feeds), flash_attention(attrs, **feeds), strict=True
        ):
            np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=TOLERANCE)


if __name__ == "__main__":
    main(sys.argv[1])
