"""Builds a case, counts its blocks, exports it and checks that the file runs."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from benchmarks.zoo.cases import Built, Case, Dice
from benchmarks.zoo.inputs import make_inputs
from benchmarks.zoo.trace import count_blocks
from benchmarks.zoo.variants import variant_name


def sharpen(module: torch.nn.Module) -> None:
    """Random weights whose softmax is not nearly uniform, so that a wrong scale shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            lower = name.lower()
            if parameter.dim() >= 2 and not any(w in lower for w in ("embed", "token", "table")):
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                parameter.copy_(noise * (1.2 / math.sqrt(fan_in)))
            elif parameter.dim() >= 2:
                parameter.copy_(noise)
            elif "norm" in lower or "ln" in lower or "scale" in lower or "gamma" in lower:
                parameter.add_(0.1 * noise)
            elif lower.endswith("bias"):
                parameter.copy_(0.1 * noise)


def _axes(spec: dict[str, Any]) -> dict[str, dict[int, str]]:
    return {
        entry["name"]: {
            axis: size
            for axis, size in enumerate(entry["shape"])
            if isinstance(size, str) and size.isidentifier()
        }
        for entry in spec["inputs"]
    }


def export(
    case: Case, variant: tuple[str, int, str, bool], path: Path, batch_only: bool = False
) -> dict[str, Any]:
    """Write the model to `path` and return its manifest entry."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    exporter, opset, attn, dynamic = variant
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    built: Built = case.build(Dice(case.family, attn))
    module = built.module.eval()
    sharpen(module)
    arrays = make_inputs(built.spec, seed=0)
    feeds = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    trace = count_blocks(module, lambda: module(*feeds.values()))
    _write(module, feeds, built.spec, path, exporter, opset, dynamic)
    model = onnx.load(str(path), load_external_data=False)
    bodies = [model.graph.node, *(f.node for f in model.functions)]
    kinds = [node.op_type for body in bodies for node in _walk(body)]
    anchors = sum(kinds.count(kind) for kind in ("Softmax", "Attention"))
    expected = len(trace.blocks) if case.expected is None else case.expected
    if case.expected is None:
        expected = min(expected, anchors)  # blocks whose result nobody reads leave with the export
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
        "torch_softmax_calls": trace.softmaxes,
        "expected_traced": len(trace.blocks),
        "unnormalised": len(trace.unnormalised - trace.blocks),
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


def _write(
    module: Any, feeds: Any, spec: Any, path: Path, exporter: str, opset: int, dynamic: bool
) -> None:
    names = list(feeds)
    with torch.no_grad():
        if exporter == "ts":
            axes = _axes(spec) if dynamic else None
            torch.onnx.export(
                module, tuple(feeds.values()), str(path), input_names=names,
                opset_version=opset, dynamic_axes=axes, dynamo=False, do_constant_folding=True,
            )  # fmt: skip
            return
        shapes = None
        if dynamic:
            named: dict[str, Any] = {}
            shapes = tuple(
                {
                    axis: named.setdefault(name, torch.export.Dim.DYNAMIC)
                    for axis, name in _axes(spec)[key].items()
                }
                or None
                for key in names
            )
            parameters = inspect.signature(module.forward).parameters.values()
            if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
                shapes = (shapes,)
        program = torch.onnx.export(
            module, tuple(feeds.values()), input_names=names, opset_version=opset,
            dynamo=True, dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
        assert program is not None
        program.save(str(path), external_data=False)


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
