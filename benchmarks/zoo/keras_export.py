"""Exports a model of TensorFlow through tf2onnx and checks that the file runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx
from benchmarks.zoo.cases import Case, Dice
from benchmarks.zoo.entry import describe
from benchmarks.zoo.inputs import make_inputs

_TYPES = {"i64": tf.int64, "i32": tf.int32, "bool": tf.bool}


def export(case: Case, variant: tuple[str, int, str, bool], path: Path) -> dict[str, Any]:
    """Write the model to `path` and return its manifest entry."""
    tf.keras.utils.set_random_seed(0)
    built = case.build(Dice(case.family, variant[2]))
    random = np.random.default_rng(7)
    built.module.set_weights(
        [
            (random.standard_normal(w.shape) * 1.2 / max(np.sqrt(w.shape[0]), 1.0)).astype(w.dtype)
            for w in built.module.get_weights()
        ]
    )
    signature = [
        tf.TensorSpec(
            [None if isinstance(size, str) else size for size in entry["shape"]],
            _TYPES.get(entry["dtype"], tf.float32), name=entry["name"],
        )
        for entry in built.spec["inputs"]
    ]  # fmt: skip

    @tf.function(input_signature=signature)
    def forward(*inputs: Any) -> Any:
        return built.module(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    tf2onnx.convert.from_function(
        forward, input_signature=signature, opset=variant[1], output_path=str(path),
        custom_op_handlers={"Erfc": (_erfc, [])},
    )  # fmt: skip
    return describe(case, variant, path, built, make_inputs(built.spec, seed=0), None)


def _erfc(context: Any, node: Any, name: str, _arguments: Any) -> None:
    """Write ``erfc(x)``, which gelu holds and tf2onnx lacks, as ``1 - erf(x)``."""
    node.type, node.domain = "Erf", ""
    one = context.make_const(f"{name}_one", np.array(1.0, np.float32)).output[0]
    flipped = context.make_node("Sub", [one, node.output[0]])
    for reader in context.find_output_consumers(node.output[0]):
        if reader.name != flipped.name:
            context.replace_input(reader, node.output[0], flipped.output[0])
