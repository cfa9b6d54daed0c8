"""The manifest entry of an exported model: counts, inputs and whether onnxruntime runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from benchmarks.zoo.cases import Built, Case
from benchmarks.zoo.inputs import make_inputs
from benchmarks.zoo.variants import variant_name


def describe(
    case: Case, variant: tuple[str, int, str, bool], path: Path, built: Built, arrays: Any,
    trace: Any,
) -> dict[str, Any]:  # fmt: skip
    """The entry of an exported file; `trace` is the count of its forward pass, if there is one."""
    exporter, opset, attn, dynamic = variant
    model = onnx.load(str(path), load_external_data=False)
    bodies = [model.graph.node, *(f.node for f in model.functions)]
    kinds = [node.op_type for body in bodies for node in _walk(body)]
    if not kinds:
        raise ValueError("the exporter wrote a graph without nodes")
    anchors = sum(kinds.count(kind) for kind in ("Softmax", "Attention"))
    expected = case.expected if case.expected is not None else len(trace.blocks)
    if case.expected is None:
        expected = min(expected, anchors)  # blocks whose result nobody reads leave with the export
    expected = max(0, expected - kinds.count("Attention"))  # those are fused already
    entry: dict[str, Any] = {
        "id": variant_name(case, variant),
        "file": path.name,
        "family": case.family,
        "model": case.family,
        "source": case.source,
        "exporter": exporter,
        "opset": opset,
        "attn": attn,
        "dynamic": dynamic,
        "dtype": "float32",
        "float_in": "float32",
        "post": None,
        "negative": case.negative or (expected == 0 and case.maximum is None),
        "lookalike": False,
        "notes": case.notes,
        "num_heads": built.num_heads,
        "hidden_size": built.hidden_size,
        "torch_softmax_calls": trace.softmaxes if trace else None,
        "expected_traced": len(trace.blocks) if trace else None,
        "unnormalised": len(trace.unnormalised - trace.blocks) if trace else None,
        "expected": expected,
        "expected_min": expected if case.minimum is None else min(case.minimum, expected),
        "expected_max": expected if case.maximum is None else max(case.maximum, expected),
        "native_attention_ops": kinds.count("Attention"),
        "inputs": built.spec,
        "onnx_inputs": sorted(value.name for value in model.graph.input),
        "size": path.stat().st_size,
        "nodes": len(kinds),
    }
    entry.update(_run(path, built.spec, arrays, dynamic))
    return entry


def _walk(nodes: Any) -> Any:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _walk(attribute.g.node)


def _run(path: Path, spec: Any, arrays: Any, dynamic: bool) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    result: dict[str, Any] = {"runs_ort": False, "runs_alt_shape": None}
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        wanted = {value.name for value in session.get_inputs()}
        outputs = session.run(None, {k: v for k, v in arrays.items() if k in wanted})
        floats = [o for o in outputs if isinstance(o, np.ndarray) and o.dtype.kind == "f"]
        result.update(
            runs_ort=True,
            finite=bool(all(np.isfinite(o).all() for o in floats)),
            out_std=float(floats[0].std()) if floats else None,
        )
    except Exception as error:
        result["ort_error"] = str(error)[:300]
        return result
    if dynamic and spec.get("alt"):
        try:
            other = make_inputs(spec, seed=1, dims=spec["alt"])
            session.run(None, {k: v for k, v in other.items() if k in wanted})
            result["runs_alt_shape"] = True
        except Exception as error:
            result.update(runs_alt_shape=False, alt_error=str(error)[:300])
    return result
