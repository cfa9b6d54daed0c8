"""Find the shapes of all values for given input shapes, without the weights where possible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from omfuse.errors import OmfuseError
from omfuse.host import shapes
from omfuse.host.session import HostSession
from omfuse.host.site import Value
from omfuse.sim.atc.failure import AtcFailure, Message
from omfuse.sim.restore import restore

# Operators whose output sizes follow from values, not shapes.
_BY_VALUE = frozenset(["NonZero", "Unique", "Compress", "NonMaxSuppression", "RandomUniform"])
# Attention of CANN: the shape of its result is that of the query.
_LIKE_QUERY = frozenset(["NPUPromptFlashAttention", "NPUIncreFlashAttention", "NPUFlashAttention"])

Known = dict[str, Value]


class ShapeFinder:
    """Shapes of one model for any input shapes.

    Args:
        model: the ATC form.
        open_dims: dims of inputs by name, -1 where the compile leaves them open.
        folder: of the external data.
    """

    def __init__(
        self, model: onnx.ModelProto, open_dims: Mapping[str, Sequence[int]], folder: Path
    ) -> None:
        self._model, self._open, self._folder = model, open_dims, folder
        self._light = shapes.skeleton(model, {})
        self._foreign = _make_readable(self._light)
        restore(self._light, open_dims)
        for value in self._light.graph.output:
            value.type.tensor_type.ClearField("shape")
        types = {node.op_type for graph in shapes.graphs(model.graph) for node in graph.node}
        self.by_value = bool(types & _BY_VALUE)
        self._session: HostSession | None = None

    def find(self, dims: Mapping[str, Sequence[int]]) -> Known:
        """Return dtype and dims of every value of the root graph, dims unknown where open.

        Raises:
            AtcFailure: E89999 for a Reshape that changes the number of elements: onnx believes
                the target, and a size written into it does not follow ``input_shape``.
        """
        sizes = {value.name: self._sizes(value, dims) for value in self._light.graph.input}
        known = {name: found for name, found in sizes.items() if found is not None}
        values = shapes.infer(self._light, known)[0]
        for node in self._light.graph.node:
            if node.op_type == "Reshape":
                _check_reshape(node, values)
        return values

    def _sizes(
        self, value: onnx.ValueInfoProto, dims: Mapping[str, Sequence[int]]
    ) -> list[int | str] | None:
        """Return the sizes of an input, the model's own symbol where one is open."""
        if value.name not in dims:
            return None
        symbols = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        return [
            size if size >= 0 else symbols[axis] or f"{value.name}_{axis}"
            for axis, size in enumerate(dims[value.name])
        ]

    def run(
        self, dims: Mapping[str, Sequence[int]], outputs: Sequence[str]
    ) -> dict[str, tuple[int, ...]]:
        """Run the model on zeros and return the shapes of outputs; empty when it cannot run.

        Raises:
            AtcFailure: E89999 when the shapes contradict each other.
        """
        if self._foreign:
            return {}
        try:
            if self._session is None:
                self._session = self._open_session(outputs)
            feeds = {
                info.name: np.zeros(tuple(dims[info.name]), info.dtype)
                for info in self._session.inputs
            }
            made = self._session.run(feeds)
        except OmfuseError as error:
            told = "ShapeInferenceError" in error.message
            if told or error.code in ("onnxruntime-failed", "bad-feed"):
                raise _infer_failed(error.message) from None
            return {}
        return {name: tuple(made[name].shape) for name in outputs}

    def _open_session(self, outputs: Sequence[str]) -> HostSession:
        whole = onnx.ModelProto()
        whole.CopyFrom(self._model)
        restore(whole, self._open)
        for value in whole.graph.output:
            value.type.tensor_type.ClearField("shape")
        # In a process of its own: fp16 models can bring onnxruntime down.
        return HostSession(whole, "plain", base_dir=self._folder, isolated=True)

    def close(self) -> None:
        """End the process that ran the model, if any."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _check_reshape(node: onnx.NodeProto, values: Known) -> None:
    before, after = (values.get(name, Value()).dims for name in (node.input[0], node.output[0]))
    if before is None or after is None or None in before or None in after:
        return
    old, new = (math.prod(size or 0 for size in dims) for dims in (before, after))
    if old != new:
        raise _infer_failed(f"Reshape [{node.name}] turns {list(before)} into {list(after)}")


def _infer_failed(why: str) -> AtcFailure:
    text = " ".join(why.split())
    return AtcFailure([Message("E89999", f"InferShape failed: {text[-300:]}")], started=True)


def _make_readable(light: onnx.ModelProto) -> bool:
    """Let shape inference pass CANN's attention; return whether there was any."""
    found = False
    for graph in shapes.graphs(light.graph):
        for node in graph.node:
            if node.op_type in _LIKE_QUERY:
                found = True
                layout = next((a.s for a in node.attribute if a.name == "input_layout"), b"")
                ends = (node.input[:1], node.output[:1])
                if layout == b"BNSD_BSND":
                    like = helper.make_node("Transpose", *ends, perm=[0, 2, 1, 3])
                else:
                    like = helper.make_node("Identity", *ends)
                node.CopyFrom(like)
    return found
