"""Builds a case, counts its blocks, exports it and checks that the file runs."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.zoo.cases import Built, Case, Dice
from benchmarks.zoo.entry import describe
from benchmarks.zoo.inputs import make_inputs
from benchmarks.zoo.trace import count_blocks


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


def export(case: Case, variant: tuple[str, int, str, bool], path: Path) -> dict[str, Any]:
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
    return describe(case, variant, path, built, arrays, trace)


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
