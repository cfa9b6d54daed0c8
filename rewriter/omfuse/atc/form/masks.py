"""Clamp mask constants that overflow fp16.

Under an fp16 mode ATC clips a constant such as -3.4e38 to -65504, but the sum of two such masks is
then -inf, and a row that is -inf throughout gives NaN.  A constant that only ever masks attention
scores may be any large negative number, so it becomes one that survives sums: -10000 by default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from omfuse.atc.constants import all_graphs, embedded
from omfuse.fuse.contract import OP_TYPE

DEFAULT_FILL = -10000.0
FP16_LOWEST = -65504.0
_THRESHOLD = -60000.0
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
_MAX_BYTES = 256 * 1024 * 1024

# Operators through which a mask value may pass on its way to the scores unchanged, or added up.
_CARRIERS = frozenset(
    [
        *("Add", "Sub", "Mul", "Where", "Cast", "Expand", "Identity", "Unsqueeze", "Squeeze"),
        *("Reshape", "Transpose", "Slice", "Concat", "Tile", "Gather", "ScatterND", "Trilu"),
        *("ConstantOfShape", "Constant", "Split", "Neg"),
    ]
)
# A softmax, whole or written out.
_SOFTMAX = frozenset(["Softmax", "LogSoftmax", "ReduceMax", "ReduceLogSumExp", "Exp"])
_COMPARES = frozenset(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])


@dataclass(frozen=True)
class Clamped:
    """A clamped constant: its name, its old lowest value, the new one."""

    name: str
    lowest: float
    fill: float


def clamp_masks(
    model: onnx.ModelProto, fill: float = DEFAULT_FILL, folder: Path | None = None
) -> list[Clamped]:
    """Clamp the mask constants of a model in place.

    Args:
        model: the model.
        fill: value that replaces everything below -60000, -inf excepted (fp16 has it).
        folder: folder of external data, to read masks that are stored outside.

    Only constants from which a softmax or FlashAttention is reached through mask arithmetic are
    touched, and comparisons with the same value, so that both sides stay equal.
    """
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for graph in all_graphs(model.graph):
        for node in graph.node:
            for source in node.input:
                readers[source].append(node)
    found: list[Clamped] = []
    old_values: set[float] = set()
    stored = list(_stored(model))
    for name, tensor in stored:
        array = _read(tensor, folder)
        if array is None or not _low(array).any() or not _masks(name, readers):
            continue
        old_values.update(float(v) for v in np.unique(array[_low(array)])[:8])
        found.append(Clamped(name, float(array[_low(array)].min()), fill))
        _write(tensor, array, fill)
    for name, tensor in stored:
        array = _read(tensor, folder)
        if array is None or array.size != 1 or float(array.reshape(-1)[0]) not in old_values:
            continue
        if readers[name] and all(n.op_type in _COMPARES for n in readers[name]):
            found.append(Clamped(name, float(array.reshape(-1)[0]), fill))
            _write(tensor, array, fill)
    return found


def _stored(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for node in graph.node:
            if node.op_type in ("Constant", "ConstantOfShape"):
                for attribute in node.attribute:
                    if attribute.name == "value":
                        yield node.output[0], attribute.t


def _read(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray | None:
    if tensor.data_type not in _FLOATS:
        return None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if folder is None or int(np.prod(tensor.dims, dtype=np.int64)) * 8 > _MAX_BYTES:
            return None
        return numpy_helper.to_array(embedded(tensor, folder))
    return numpy_helper.to_array(tensor)


def _low(array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.float64)
    low: np.ndarray = np.isfinite(wide) & (wide < _THRESHOLD)
    return low


def _write(tensor: onnx.TensorProto, array: np.ndarray, fill: float) -> None:
    changed = np.where(_low(array), np.array(fill, array.dtype), array)
    new = numpy_helper.from_array(changed.reshape(array.shape).astype(array.dtype), tensor.name)
    tensor.CopyFrom(new)


def _masks(name: str, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Tell whether every path from a constant leads to attention scores and at least one does."""
    reached = False
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for node in readers[tensor]:
            if node.op_type == OP_TYPE:
                if list(node.input).index(tensor) != 3:
                    return False
                reached = True
            elif node.op_type in _SOFTMAX:
                reached = True
            elif node.op_type in _COMPARES or node.op_type in ("Shape", "IsInf", "IsNaN"):
                continue
            elif node.op_type in _CARRIERS:
                waiting.extend(node.output)
            else:
                return False
    return reached
