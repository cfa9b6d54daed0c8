"""Inputs, outputs and gears of a compile: dtypes and shapes as the loaded model will show them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from omfuse.atc.om.inout import DTYPE_NUMBERS
from omfuse.sim.atc.failure import bad_value, fail
from omfuse.sim.atc.inference import Known, ShapeFinder
from omfuse.sim.atc.onnx_parser import Parsed, failure, inner
from omfuse.sim.atc.shape_flags import Dims, Range, ShapeRequest, gear_dims
from omfuse.sim.payload import TensorSpec

_FORMATS = {"NCHW": (4, 0), "NCDHW": (5, 30)}
_ND = 2
_TYPES = {"FP32": "float32", "FP16": "float16", "UINT8": "uint8", "INT8": "int8"}
_BITS = {"bfloat16": 2, "bool": 1}
Shapes = dict[str, Dims]


@dataclass
class Interface:
    """What the compiled model takes and gives.

    Attributes:
        mode: as in the payload.
        values: what is known of every value of the root graph, at the largest gear.
        out_names: names of the outputs as ``node:index:tensor``.
    """

    mode: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    gears: tuple[Dims, ...]
    gear_inputs: tuple[tuple[Dims, ...], ...]
    gear_outputs: tuple[tuple[Dims, ...], ...]
    values: Known
    order: tuple[str, ...]


def choose_outputs(parsed: Parsed, given: Mapping[str, str]) -> None:
    """Make the model give what ``out_nodes`` names; in place.

    Raises:
        AtcFailure: E11016 or E11017.
    """
    text = given.get("out_nodes", "")
    words = [word for word in text.split(";") if word]
    if not words:
        return
    nodes = {node.name: node for node in parsed.model.graph.node}
    tensors = {name for node in parsed.model.graph.node for name in node.output if name}
    chosen = []
    for word in words:
        name, colon, index = word.rpartition(":")
        if not (colon and index.isdigit()):
            if word not in tensors:
                raise failure("E10016", f"Tensor [{word}] in [--out_nodes] is unknown.")
            chosen.append(word)
            continue
        if name not in nodes:
            raise failure("E11017", f"Node [{name}] in [--out_nodes] is unknown.")
        if int(index) >= len(nodes[name].output):
            raise failure("E11016", f"Node [{name}] has no output [{index}].")
        chosen.append(nodes[name].output[int(index)])
    known = {value.name: value for value in parsed.model.graph.output}
    values = [known.get(name) or onnx.ValueInfoProto(name=name) for name in dict.fromkeys(chosen)]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in values]
    del parsed.model.graph.output[:]
    parsed.model.graph.output.extend(copies)


def make_interface(parsed: Parsed, request: ShapeRequest, given: Mapping[str, str]) -> Interface:
    """Infer shapes for every gear and lay dtypes and formats over them.

    Raises:
        AtcFailure: shapes that contradict the model, names in dtype flags that do not fit.
    """
    finder = ShapeFinder(parsed.model, request.dims, parsed.folder)
    try:
        return _Maker(parsed, request, given, finder).make()
    finally:
        finder.close()


class _Maker:
    def __init__(
        self,
        parsed: Parsed,
        request: ShapeRequest,
        given: Mapping[str, str],
        finder: ShapeFinder,
    ) -> None:
        self.parsed, self.request, self.given, self.finder = parsed, request, given, finder
        self.out_names = [value.name for value in parsed.model.graph.output]
        self.mode = request.mode

    def make(self) -> Interface:
        shown = [dict(self.request.dims)]
        if self.request.gears:
            shown = [dict(dims) for dims in gear_dims(self.request)]
        elif self.mode == "dynamic":
            shown = [self._largest()]
        found = [self._shapes_of(dims) for dims in shown]
        largest = max(range(len(shown)), key=lambda i: _elements(shown[i]))
        values = found[largest][0]
        outs = [shapes for _, shapes in found]
        bounded = self.mode != "dynamic" or all(
            high >= 0 for pairs in self.request.ranges.values() for _, high in pairs
        )
        self._fix_types(values)
        inputs = tuple(self._input(name, values, shown, bounded) for name in self.request.dims)
        outputs = tuple(self._output(name, values, outs, bounded) for name in self.out_names)
        gears = bool(self.request.gears)
        return Interface(
            self.mode,
            inputs,
            outputs,
            tuple(self.request.gears),
            tuple(tuple(d[n] for n in self.request.dims) for d in shown) if gears else (),
            tuple(tuple(o[n] for n in self.out_names) for o in outs) if gears else (),
            values,
            tuple(self.request.order) if gears else (),
        )

    def _largest(self) -> Shapes:
        """Return the input dims at the upper end of their ranges, -1 without one."""
        return {
            name: tuple(high for _, high in self.request.ranges[name]) for name in self.request.dims
        }

    def _shapes_of(self, dims: Shapes) -> tuple[Known, Shapes]:
        """Return all values and the output dims for some input dims."""
        values = self.finder.find(dims)
        fixed = all(size >= 0 for sizes in dims.values() for size in sizes)
        outs = {name: _dims(values, name) for name in self.out_names}
        open_outputs = [name for name, sizes in outs.items() if sizes is None or -1 in sizes]
        if open_outputs and fixed and not self.finder.by_value:
            outs.update(self.finder.run(dims, self.out_names))
        done = {name: sizes if sizes is not None else (-1,) for name, sizes in outs.items()}
        if fixed and any(-1 in sizes for sizes in done.values()):
            if self.mode != "static" and self.mode != "dynamic":
                raise inner("InferShape failed: the output of a gear has an unknown shape")
            self.mode = "dynamic"
            self.request.ranges = {
                name: self.request.ranges.get(name) or tuple((s, s) for s in sizes)
                for name, sizes in self.request.dims.items()
            }
        return values, done

    def _fix_types(self, values: Known) -> None:
        """Write dtypes of outputs that ``out_nodes`` chose into the stored model."""
        for value in self.parsed.model.graph.output:
            if not value.type.tensor_type.elem_type:
                kind = values[value.name].elem_type if value.name in values else 0
                if not kind:
                    raise inner(f"InferDataType failed for output {value.name}")
                value.type.tensor_type.elem_type = kind

    def _input(
        self, name: str, values: Known, shown: Sequence[Shapes], bounded: bool
    ) -> TensorSpec:
        kind = next(v for v in self.parsed.model.graph.input if v.name == name)
        onnx_dtype = dtype_name(kind.type.tensor_type.elem_type)
        wanted = [n for n in self.given.get("input_fp16_nodes", "").split(";") if n]
        dtype = "float16" if name in wanted else onnx_dtype
        dims = self.request.dims[name]
        ranges: tuple[Range, ...] = ()
        if self.mode == "dynamic":
            ranges = self.request.ranges[name]
        biggest = max((d[name] for d in shown), key=_product)
        return self._spec(name, name, dtype, onnx_dtype, dims, ranges, biggest, bounded)

    def _output(
        self, name: str, values: Known, outs: Sequence[Shapes], bounded: bool
    ) -> TensorSpec:
        node, index = self._producer(name)
        kind = next(v for v in self.parsed.model.graph.output if v.name == name)
        onnx_dtype = dtype_name(kind.type.tensor_type.elem_type)
        dtype = self._output_dtype(f"{node}:{index}", onnx_dtype)
        every = [o[name] for o in outs]
        if len({len(dims) for dims in every}) > 1:
            raise inner(f"InferShape failed: the rank of {name} differs between gears")
        dims = tuple(s[0] if len(set(s)) == 1 else -1 for s in zip(*every, strict=True))
        if self.mode == "dynamic" and -1 not in dims:
            open_dims = dict(self.request.dims)
            known = _dims(self.finder.find(open_dims), name)
            dims = known if known is not None and len(known) == len(dims) else (-1,) * len(dims)
        biggest = max(every, key=_product)
        spec_name = f"{node}:{index}:{name}"
        return self._spec(spec_name, name, dtype, onnx_dtype, dims, (), biggest, bounded)

    def _producer(self, name: str) -> tuple[str, int]:
        for node in self.parsed.model.graph.node:
            if name in node.output:
                return node.name, list(node.output).index(name)
        return name, 0

    def _output_dtype(self, place: str, onnx_dtype: str) -> str:
        text = self.given.get("output_type", "")
        if not text:
            return onnx_dtype
        if text in _TYPES:
            return _TYPES[text]
        for part in filter(None, text.split(";")):
            node, _, word = part.rpartition(":")
            if word not in _TYPES or not re.search(r":\d+$", node):
                raise bad_value("output_type", text, "FP32, FP16, UINT8, INT8 or node:index:FP16.")
            if node not in self.given.get("out_nodes", "").split(";"):
                raise bad_value("output_type", text, f"[{node}] is not in out_nodes.")
            if node == place:
                return _TYPES[word]
        return onnx_dtype

    def _spec(
        self,
        name: str,
        onnx_name: str,
        dtype: str,
        onnx_dtype: str,
        dims: Dims,
        ranges: tuple[Range, ...],
        biggest: Dims,
        bounded: bool,
    ) -> TensorSpec:
        rank, number = _FORMATS.get(self.given.get("input_format") or "NCHW", (0, _ND))
        size = 0
        fixed = all(s >= 0 for s in dims)  # though other tensors are open
        if (bounded or fixed) and all(s >= 0 for s in biggest):
            size = _product(biggest) * item_bytes(dtype)
        if dtype not in DTYPE_NUMBERS:
            raise inner(f"dtype {dtype} of {name} is not supported")
        acl_format = number if rank == len(dims) else _ND
        acl = DTYPE_NUMBERS[dtype]
        return TensorSpec(name, onnx_name, dtype, onnx_dtype, acl, acl_format, dims, ranges, size)


def check_dtype_flags(parsed: Parsed, given: Mapping[str, str]) -> None:
    """Check names in the dtype flags against the model.

    Raises:
        AtcFailure: E10016, E10017, or E10055 for a layout that is not simulated.
    """
    for name in filter(None, given.get("input_fp16_nodes", "").split(";")):
        if name not in parsed.inputs:
            code = "E10017" if name in parsed.names else "E10016"
            raise failure(code, f"Name [{name}] in [--input_fp16_nodes] is not an input.")
    for flag in ("is_input_adjust_hw_layout", "is_output_adjust_hw_layout"):
        if "true" in given.get(flag, ""):
            raise fail("E10055", f"The simulated ATC does not build the layout of [--{flag}].")


def dtype_name(elem_type: int) -> str:
    """Return an ONNX dtype in the words of numpy.

    Raises:
        AtcFailure: for a dtype without a form in the compiled model.
    """
    known: dict[int, str] = {
        onnx.TensorProto.BFLOAT16: "bfloat16",
        onnx.TensorProto.STRING: "string",
    }
    if elem_type in known:
        return known[elem_type]
    try:
        return str(helper.tensor_dtype_to_np_dtype(elem_type).name)
    except (KeyError, TypeError):
        raise inner(f"dtype {elem_type} is not supported") from None


def item_bytes(dtype: str) -> int:
    """Return the bytes of one element."""
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.search(r"(\d+)", dtype)
    return int(match[1]) // 8 if match else 8


def _dims(values: Known, name: str) -> Dims | None:
    found = values[name].dims if name in values else None
    return None if found is None else tuple(-1 if size is None else size for size in found)


def _product(dims: Sequence[int]) -> int:
    return math.prod(max(size, 0) for size in dims)


def _elements(shapes: Shapes) -> int:
    return sum(_product(dims) for dims in shapes.values())
