"""Runs two forms of a model in onnxruntime and judges whether they compute the same.

The reference is the original file with graph optimisation disabled. A difference is the largest
absolute error of an output divided by the standard deviation of the reference output:

* fp32: at most 2e-4. Fusing reorders a handful of fp32 roundings (the scale moves from Q to the
  scores and the like), which costs 1e-7 to 1e-5 here; the smallest semantic error of interest, a
  scale that is 2 % off, costs more than 1e-3.
* fp16 and bf16: at most 24 units of the type's rounding step (2^-10, 2^-7), since each of the
  roundings that were reordered costs about one.

NaN and infinity must sit at the same positions, integers and booleans must be equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FP32_TOLERANCE = 2e-4
HALF_TOLERANCE = {"float16": 24 * 2.0**-10, "bfloat16": 24 * 2.0**-7}

Arrays = dict[str, np.ndarray]


def run(model: str | bytes, feeds: Arrays) -> Arrays:
    """Outputs of a model file or serialised model, with graph optimisation disabled."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    values = session.run(names, {key: a for key, a in feeds.items() if key in wanted})
    return {
        name: np.asarray(value)
        for name, value in zip(names, values, strict=True)
        if not isinstance(value, list | dict)
    }


def tolerance(dtype: str) -> float:
    """The largest accepted difference of an output, in standard deviations of the reference."""
    return HALF_TOLERANCE.get(dtype, FP32_TOLERANCE)


def difference(reference: np.ndarray, other: np.ndarray) -> float:
    """Largest error over the reference's deviation; inf where the two cannot be compared."""
    if reference.shape != other.shape or reference.dtype != other.dtype:
        return float("inf")
    if reference.dtype.kind in "iubSO":
        return 0.0 if np.array_equal(reference, other) else float("inf")
    a, b = reference.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    deviation = float(a.std())
    if deviation < 1e-12:  # a constant output: judge against its size
        deviation = max(float(np.abs(a).max()), 1e-12)
    return float(np.abs(a - b).max()) / deviation


def judge(reference: Arrays, other: Arrays, dtype: str = "float32") -> dict[str, Any]:
    """{"equal", "worst", "output", "tolerance"} over all outputs."""
    worst, where = 0.0, None
    for name, expected in reference.items():
        error = difference(expected, other[name]) if name in other else float("inf")
        if error > worst or where is None:
            worst, where = error, name
    limit = tolerance(dtype)
    return {"equal": worst <= limit, "worst": worst, "output": where, "tolerance": limit}
