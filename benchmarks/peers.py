"""Other tools that fuse attention, behind the interface of `corpus.rewrite_omfuse`.

    pip install onnxscript openvino

Each answers with the number of attention operators that it made. OpenVINO keeps its own format, so
its result is counted and not run.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

Result = dict[str, Any]

# What each tool calls one attention.
_ORT_NAMES = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention")
_ORT_TYPES = ("bert", "gpt2", "vit", "clip", "t5", "unet")
_SCRIPT_NAMES = (*_ORT_NAMES, "SDPA")


def _count(nodes: Iterable[Any], names: tuple[str, ...]) -> int:
    return sum(node.op_type in names for node in nodes)


def rewrite_onnxruntime(source: str, target: str) -> Result:
    """onnxruntime's transformers optimizer: the model type that fuses most."""
    import onnx
    from onnxruntime.transformers import optimizer

    logging.disable(logging.CRITICAL)
    before = _count(onnx.load(source, load_external_data=False).graph.node, _ORT_NAMES)
    started = time.perf_counter()
    best, best_count = None, -1
    for kind in _ORT_TYPES:
        try:
            made = optimizer.optimize_model(source, kind, opt_level=0)
        except Exception:  # a model type that cannot read this graph
            continue
        count = _count(made.model.graph.node, _ORT_NAMES) - before
        if count > best_count:
            best, best_count = made, count
    if best is None:
        raise ValueError("no model type reads this graph")
    best.save_model_to_file(target)
    return _answer(best_count, started)


def rewrite_onnxscript(source: str, target: str) -> Result:
    """onnxscript's fusions for onnxruntime, after its own optimizer."""
    import onnx_ir
    import onnxscript.optimizer
    from onnxscript.rewriter import ort_fusions

    model = onnx_ir.load(source)
    before = _count(model.graph.all_nodes(), _SCRIPT_NAMES)
    started = time.perf_counter()
    onnxscript.optimizer.optimize(model)
    model, _ = ort_fusions.optimize_for_ort(model)
    answer = _answer(_count(model.graph.all_nodes(), _SCRIPT_NAMES) - before, started)
    onnx_ir.save(model, target)
    return answer


def rewrite_openvino(source: str, _target: str) -> Result:
    """OpenVINO's common transformations, which hold its attention fusion."""
    import openvino

    started = time.perf_counter()
    model = openvino.convert_model(source)
    names = [node.get_type_name() for node in model.get_ops()]
    count = sum(name in ("ScaledDotProductAttention", "SDPA") for name in names)
    return {**_answer(count, started), "runs": False}


def _answer(count: int, started: float) -> Result:
    return {"fused": max(count, 0), "records": [], "seconds": time.perf_counter() - started}


REWRITERS: dict[str, Callable[[str, str], Result]] = {
    "onnxscript": rewrite_onnxscript,
    "onnxruntime": rewrite_onnxruntime,
    "openvino": rewrite_openvino,
}

TITLES = {
    "onnxscript": "onnxscript, fusions for onnxruntime",
    "onnxruntime": "onnxruntime, transformers optimizer (best model type of six)",
    "openvino": "OpenVINO, common transformations",
}


def available() -> list[str]:
    """The peers that are installed."""
    return [name for name in REWRITERS if importlib.util.find_spec(name) is not None]
