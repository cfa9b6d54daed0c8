"""What is known about values without running the model: shape, dtype, constant content.

One topological pass fills shapes with symbolic dimensions and the contents of small tensors
(shape arithmetic, scalars computed from shapes).  Where no rule exists, the result of
``onnx.shape_inference`` is used.  Everything is memoised by value name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from omfuse.graph import (
    content_rules,
    dtype_rules,
    equal_sizes,
    fold_rules,
    layout_shape_rules,
    ort_shape_rules,
    shape_rules,
    spatial_shape_rules,
)
from omfuse.graph.declared import SMALL, Shape, Types, declared_types, elements, value_infos
from omfuse.graph.dims import Dim, Size, unknown
from omfuse.graph.equal_sizes import replaced
from omfuse.graph.valid import Schemas, check_nodes
from omfuse.graph.view import GraphView, Node

Array = NDArray[Any]
Result = TypeVar("Result")


for _rules in (layout_shape_rules, spatial_shape_rules, ort_shape_rules):
    shape_rules.declare(_rules.RULES)


class Facts:
    """Shapes, dtypes and constant contents of the values of one graph."""

    def __init__(
        self,
        view: GraphView,
        opset: int,
        declared: Types,
        outer: Facts | None = None,
    ) -> None:
        self.view = view
        self.opset = opset
        self.outer = outer
        self._declared = declared
        self.shapes: dict[str, Shape] = {}
        self.contents: dict[str, Array] = {}
        self._folded: dict[str, Array | None] = {}
        self._dtypes: dict[str, int] = {}
        self._branches: dict[int, Facts] = {}
        self._equal: dict[str, Size] = {}  # symbol -> the size that it equals
        self._holders: dict[str, set[str]] = {}  # symbol -> values that are described with it
        self._fill()

    def shape(self, value: str) -> Shape | None:
        """Return the shape of ``value``, or None when even the rank is unknown."""
        if value in self.shapes:
            return self.shapes[value]
        if value in self.view.initializers:
            shape: Shape = tuple(self.view.initializers[value].dims)
            self.shapes[value] = shape
            return shape
        if not self.view.knows(value) and self.outer is not None:
            return self.outer.shape(value)
        return self._declared_shape(value)

    def _declared_shape(self, value: str) -> Shape | None:
        shape = self._declared.get(value, (0, None))[1]
        return shape if shape is None else tuple(map(self._resolved, shape))

    def _resolved(self, size: Size) -> Size:
        while self._equal and (known := replaced(size, self._equal)) != size:
            size = known
        return size

    def rank(self, value: str) -> int | None:
        """Return the number of dimensions, or None."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: str) -> int:
        """Return the ONNX element type (``TensorProto.DataType``), 0 when unknown."""
        if value in self.view.initializers:
            return int(self.view.initializers[value].data_type)
        if not self.view.knows(value) and self.outer is not None:
            return self.outer.dtype(value)
        return self._declared.get(value, (0, None))[0] or self._dtypes.get(value, 0)

    def content(self, value: str) -> Array | None:
        """Return a small tensor whose elements are numbers or symbolic sizes, or None."""
        if value in self.contents:
            return self.contents[value]
        tensor = self.view.constants.get(value)
        if tensor is not None:
            if elements(tensor) > SMALL or tensor.data_location == TensorProto.EXTERNAL:
                return None
            self.contents[value] = _to_objects(tensor)
            return self.contents[value]
        if not self.view.knows(value) and self.outer is not None:
            return self.outer.content(value)
        return None

    def scalar(self, value: str) -> float | None:
        """Return the number that every element of ``value`` equals, if it is known."""
        content = self.content(value)
        if content is None:
            content = self.const(value)
        if content is None or content.size == 0:
            return None
        flat = content.reshape(-1)
        first = flat[0]
        if not isinstance(first, (int, float, bool, np.generic)):
            return None
        if flat.size > 1 and not all(
            isinstance(x, (int, float, bool, np.generic)) and (x == first) for x in flat.tolist()
        ):
            return None
        return float(first)

    def const(self, value: str) -> Array | None:
        """Return the content of a constant of any reasonable size, folding on demand."""
        if value in self._folded:
            return self._folded[value]
        self._folded[value] = None
        self._folded[value] = _or_unknown(fold_rules.fold, self, value)
        return self._folded[value]

    def branch(self, body: onnx.GraphProto) -> Facts:
        """Return the facts of a branch of an If that this graph holds."""
        if id(body) in self._branches:
            return self._branches[id(body)]
        view = GraphView(
            body.node,
            [value.name for value in body.input],
            [value.name for value in body.output],
            body.initializer,
            self.view,
            body,
        )
        self._branches[id(body)] = Facts(view, self.opset, value_infos(body), self)
        return self._branches[id(body)]

    def initializer(self, value: str) -> TensorProto | None:
        """Return the constant tensor called ``value`` here or in an enclosing graph."""
        tensor = self.view.constants.get(value)
        if tensor is None and not self.view.knows(value) and self.outer is not None:
            return self.outer.initializer(value)
        return tensor

    def _fill(self) -> None:
        for name in self.view.inputs:
            shape = self._declared_shape(name)
            if shape is not None:
                self._describe(name, shape)
        for node in self.view.nodes:
            if node.outputs and not self._declared.get(node.outputs[0], (0, None))[0]:
                self._dtypes[node.outputs[0]] = _or_unknown(dtype_rules.infer, self, node) or 0
            content = _or_unknown(content_rules.small, self, node)
            if content is not None and node.outputs:
                self._describe(node.outputs[0], content.shape, content)
            for index, output in enumerate(node.outputs):
                if not output or (content is not None and index == 0):
                    continue
                shape = _or_unknown(shape_rules.infer, self, node, index)
                declared = self._declared_shape(output)
                if shape is None:
                    shape = declared
                elif declared is not None and len(declared) == len(shape):
                    shape = tuple(
                        b if isinstance(b, int) and not isinstance(a, int) else a
                        for a, b in zip(shape, declared, strict=True)
                    )
                if shape is not None:
                    self._describe(output, shape)
            for a, b in equal_sizes.forced(self, node):
                solved = equal_sizes.solve(self._resolved(a), self._resolved(b))
                if solved is not None:
                    self._unify(*solved)

    def _describe(self, value: str, shape: Shape, content: Array | None = None) -> None:
        self.shapes[value] = shape
        if content is not None:
            self.contents[value] = content
        for size in (*shape, *(() if content is None else content.reshape(-1).tolist())):
            if isinstance(size, Dim):
                for name in {name for symbols in size.terms for name in symbols}:
                    self._holders.setdefault(name, set()).add(value)

    def _unify(self, name: str, size: Size) -> None:
        """Replace a symbol by the size that it equals, in all that is known."""
        by = {name: size}
        self._equal[name] = size
        for value in self._holders.pop(name, ()):
            content = self.contents.get(value)
            if content is not None:
                flat = [replaced(x, by) for x in content.reshape(-1).tolist()]
                content = content_rules.objects(flat).reshape(content.shape)
            self._describe(value, tuple(replaced(s, by) for s in self.shapes[value]), content)
        self._branches.clear()


def _or_unknown(rule: Callable[..., Result], facts: Facts, *subject: Any) -> Result | None:
    """Apply a rule of inference; what it cannot digest, a damaged node, is not known."""
    try:
        return rule(facts, *subject)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _to_objects(tensor: TensorProto) -> Array:
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind not in "iufb":
        array = array.astype(np.float32)
    result = np.empty(array.shape, dtype=object)
    result[...] = array.tolist() if array.ndim else array.item()
    return result


def model_facts(model: onnx.ModelProto, views: list[GraphView]) -> dict[int, Facts]:
    """Return the facts of each view, keyed by ``id(view)``.

    Inputs of a local function take the shapes and dtypes of its calls, where all calls agree.

    Raises:
        ModelError: ``bad-node`` for a node that no runtime can run.
    """
    opset = _standard_opset(model.opset_import, 17)
    declared = declared_types(model)
    facts: dict[int, Facts] = {}
    waiting: set[int] = set()
    schemas: dict[int, Schemas] = {}

    def of(view: GraphView) -> Facts:
        if id(view) in facts:
            return facts[id(view)]
        waiting.add(id(view))
        outer = of(view.outer) if view.outer is not None else None
        local, known = opset if outer is None else outer.opset, declared
        if isinstance(view.proto, onnx.FunctionProto):
            local = _standard_opset(view.proto.opset_import, opset)
            known = _call_types(view, [v for v in views if id(v) not in waiting or id(v) in facts])
        elif view.proto is not model.graph:
            assert isinstance(view.proto, onnx.GraphProto)
            known = value_infos(view.proto)
        check_nodes(view, local, schemas.setdefault(local, {}))
        facts[id(view)] = Facts(view, local, known, outer)
        waiting.discard(id(view))
        return facts[id(view)]

    def _call_types(function: GraphView, callers: list[GraphView]) -> Types:
        proto = function.proto
        assert isinstance(proto, onnx.FunctionProto)
        found: Types = {}
        for caller in callers:
            for node in caller.nodes:
                if node.proto.op_type != proto.name or node.proto.domain != proto.domain:
                    continue
                known = of(caller)
                for formal, actual in zip(function.inputs, node.inputs, strict=False):
                    seen = (known.dtype(actual), known.shape(actual))
                    found[formal] = _agree(formal, found.get(formal, seen), seen)
        return found

    for view in views:
        of(view)
    return facts


def _agree(
    name: str, a: tuple[int, Shape | None], b: tuple[int, Shape | None]
) -> tuple[int, Shape | None]:
    """Keep what two calls of a function have in common."""
    dtype = a[0] if a[0] == b[0] else 0
    if a[1] is None or b[1] is None or len(a[1]) != len(b[1]):
        return dtype, None
    pairs = enumerate(zip(a[1], b[1], strict=True))
    return dtype, tuple(x if x == y else unknown(f"{name}.{axis}") for axis, (x, y) in pairs)


def _standard_opset(imports: Iterable[onnx.OperatorSetIdProto], default: int) -> int:
    return max((i.version for i in imports if i.domain in ("", "ai.onnx")), default=default)


def operand(facts: Facts, node: Node, index: int) -> str | None:
    """Return the name of input ``index`` of ``node``, or None when it is absent."""
    if index < len(node.inputs) and node.inputs[index]:
        return node.inputs[index]
    return None
