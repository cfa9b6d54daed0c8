"""What a runtime computes, held against what :mod:`omfuse.graph.facts` says of each value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from omfuse.graph.dims import Dim
from omfuse.graph.facts import Facts, model_facts
from omfuse.graph.view import graph_views


def facts_of(model: onnx.ModelProto) -> Facts:
    """Return the facts of the main graph."""
    views = list(graph_views(model))
    return model_facts(model, views)[id(views[0])]


def observe(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Run a model as it stands and return every tensor of its main graph."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    shown = {value.name for value in whole.graph.output}
    for node in whole.graph.node:
        for name in node.output:
            if name and name not in shown:
                whole.graph.output.add().name = name
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(whole.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    results = session.run(names, dict(feeds))
    return {n: r for n, r in zip(names, results, strict=True) if isinstance(r, np.ndarray)}


class Sizes:
    """The numbers that stand for symbols; a new symbol takes the number first seen for it."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def agree(self, claimed: Any, real: int) -> bool:
        """Hold a size of the facts against the one observed."""
        if not isinstance(claimed, Dim):
            return int(claimed) == real
        unknown = [s for symbols in claimed.terms for s in symbols if s not in self.known]
        if not unknown:
            terms = claimed.terms.items()
            return sum(f * math.prod(self.known[s] for s in ss) for ss, f in terms) == real
        if len(claimed.terms) == 1:
            ((symbols, factor),) = claimed.terms.items()
            rest = math.prod(self.known.get(s, 1) for s in symbols) * factor
            if len(unknown) == 1 and rest and real % rest == 0:
                self.known[unknown[0]] = real // rest
                return True
        return True  # nothing to hold it against


def contradictions(
    model: onnx.ModelProto, feeds: Mapping[str, Any], observed: Mapping[str, np.ndarray]
) -> list[str]:
    """Return one line for every value of which the facts claim what is not so."""
    facts, sizes = facts_of(model), Sizes()
    for value in model.graph.input:
        if value.name in feeds:
            for claimed, real in zip(
                facts.shape(value.name) or (), np.shape(feeds[value.name]), strict=False
            ):
                sizes.agree(claimed, real)
    wrong = []
    for name, array in observed.items():
        shape, content = facts.shape(name), facts.content(name)
        if shape is not None and not (
            len(shape) == array.ndim
            and all(sizes.agree(c, r) for c, r in zip(shape, array.shape, strict=True))
        ):
            wrong.append(f"{name}: shape {shape}, observed {array.shape}")
        dtype = facts.dtype(name)
        if dtype and onnx.helper.np_dtype_to_tensor_dtype(array.dtype) != dtype:
            wrong.append(f"{name}: dtype {dtype}, observed {array.dtype}")
        constant = facts.const(name)
        if constant is not None and not _same_constant(constant, array):
            wrong.append(f"{name}: constant {constant.tolist()}, observed {array.tolist()}"[:400])
        if content is not None and not _same_content(content, array, sizes):
            wrong.append(f"{name}: content {content.tolist()}, observed {array.tolist()}")
    return wrong


def _same_constant(constant: np.ndarray, array: np.ndarray) -> bool:
    if constant.dtype.kind not in "biuf" or array.dtype.kind not in "biuf":
        return True
    return constant.shape == array.shape and np.allclose(
        constant.astype(np.float64), array.astype(np.float64), rtol=1e-3, atol=1e-6, equal_nan=True
    )


def _same_content(content: Any, array: np.ndarray, sizes: Sizes) -> bool:
    if content.shape != array.shape:
        return False
    pairs = zip(content.reshape(-1).tolist(), array.reshape(-1).tolist(), strict=True)
    return all(
        sizes.agree(a, int(b))
        if isinstance(a, Dim)
        else a == b or (a != a and b != b) or math.isclose(a, b, rel_tol=1e-3)
        for a, b in pairs
    )
