"""Write the nodes of a lowering: fresh names, constants, and the opset differences in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class NodeWriter:
    """Collect nodes of one function body for one version of the default opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self._count = 0

    def fresh(self) -> str:
        """Return an unused value name."""
        self._count += 1
        return f"v{self._count}"

    def add(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the name of that output."""
        name = self.fresh()
        node = helper.make_node(op_type, inputs, [name], domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant tensor."""
        tensor = numpy_helper.from_array(np.asarray(value, dtype=dtype))
        return self.add("Constant", value=tensor)

    def ints(self, *values: int) -> str:
        """Add a 1-D int64 constant."""
        return self.constant(values, np.int64)

    def cast(self, name: str, source: int, target: int) -> str:
        """Cast unless the type is right already."""
        return name if source == target else self.add("Cast", name, to=target)

    def float32(self, name: str, source: int) -> str:
        """Cast to float32 unless it is that already."""
        return self.cast(name, source, TensorProto.FLOAT)

    def reduce(self, op_type: str, name: str, axis: int) -> str:
        """Reduce one axis and keep it as 1; axes moved from attribute to input in opset 18."""
        if self.opset >= 18:
            return self.add(op_type, name, self.ints(axis), keepdims=1)
        return self.add(op_type, name, axes=[axis], keepdims=1)

    def unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        """Insert axes; they moved from attribute to input in opset 13."""
        if self.opset >= 13:
            return self.add("Unsqueeze", name, self.ints(*axes))
        return self.add("Unsqueeze", name, axes=list(axes))

    def squeeze(self, name: str, axes: Sequence[int]) -> str:
        """Drop axes of size 1; they moved from attribute to input in opset 13."""
        if self.opset >= 13:
            return self.add("Squeeze", name, self.ints(*axes))
        return self.add("Squeeze", name, axes=list(axes))

    def dim(self, name: str, axis: int, known: int | None = None) -> str:
        """Return the length of ``axis`` as a 1-D int64 tensor, constant when it is known."""
        if known is not None:
            return self.ints(known)
        return self.add("Gather", self.add("Shape", name), self.ints(axis), axis=0)

    def range(self, length: str) -> str:
        """Count from 0 to ``length`` (1-D of one element) in int64."""
        start, step = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.add("Range", start, self.squeeze(length, [0]), step)
