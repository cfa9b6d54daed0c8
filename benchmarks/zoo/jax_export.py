"""Exports a JAX function through jax2onnx and checks that the file runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import onnx
from benchmarks.zoo.cases import Case, Dice
from benchmarks.zoo.entry import describe
from benchmarks.zoo.inputs import make_inputs
from jax2onnx import to_onnx


def export(case: Case, variant: tuple[str, int, str, bool], path: Path) -> dict[str, Any]:
    """Write the model to `path` and return its manifest entry."""
    built = case.build(Dice(case.family, variant[2]))
    sizes = built.spec["dims"]
    entries = built.spec["inputs"]
    shapes = [
        [size if variant[3] or not isinstance(size, str) else sizes[size] for size in e["shape"]]
        for e in entries
    ]
    if variant[3]:
        symbols = [",".join(map(str, shape)) for shape in shapes]
        scope = jax.export.SymbolicScope()
        shapes = [jax.export.symbolic_shape(text, scope=scope) for text in symbols]
    made = to_onnx(
        built.module,
        [jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for shape in shapes],
        opset=variant[1],
        input_names=[entry["name"] for entry in entries],
    )
    onnx.save(made, str(path))
    return describe(case, variant, path, built, make_inputs(built.spec, seed=0), None)
