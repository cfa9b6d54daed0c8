"""Build small models from a few lines of ONNX text, and run them plainly."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
from onnx import parser

INPUTS = {
    "q": "float[2,3,5,4] q",
    "k": "float[2,3,7,4] k",
    "v": "float[2,3,7,6] v",
    "bias": "float[2,1,5,7] bias",
    "mask": "bool[2,1,5,7] mask",
    "head": "float[1,3,1,1] head",
}


def build(
    body: str, inputs: str | None = None, output: str = "y", opset: int = 17
) -> onnx.ModelProto:
    """Wrap node lines in a model; inputs by the names that the lines use."""
    if inputs is None:
        inputs = ", ".join(text for name, text in INPUTS.items() if re.search(rf"\b{name}\b", body))
    text = f"""<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
        g ({inputs}) => (float {output}) {{ {body} }}"""
    model = parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model)
    made = model.graph.output[0].type.tensor_type
    if not made.HasField("shape"):  # onnx knows no shapes of other domains
        for axis in "bhqe":
            made.shape.dim.add().dim_param = axis
    return model


def feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """N(0,1) floats and masks that keep two of three keys, the first key always."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in model.graph.input:
        shape = [d.dim_value or 3 for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == onnx.TensorProto.BOOL:
            array = rng.uniform(size=shape) > 0.35
            array[..., 0] = True
        else:
            array = rng.standard_normal(shape)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        made[value.name] = array.astype(dtype)
    return made


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run in onnxruntime without graph optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: a for name, a in inputs.items() if name in names})
