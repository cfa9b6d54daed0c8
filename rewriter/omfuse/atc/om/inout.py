"""MODEL_INOUT_INFO: what a model takes and gives, readable without protocol buffers.

Blocks of ``u32 type, u32 length``: inputs, outputs, gears of the batch, of height and width, of
dims, output shapes of each gear, and the order in which the user named the inputs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from omfuse.atc.om.wire import Budget, WireError

_INPUTS, _OUTPUTS, _BATCH, _IMAGE, _DIMS, _OUTPUT_SHAPES, _ORDER = range(7)
_TENSOR = struct.Struct("<QIIIIII")

# ge::DataType, the same numbers as aclDataType.
DTYPES = {
    0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 6: "int16", 7: "uint16",
    8: "uint32", 9: "int64", 10: "uint64", 11: "float64", 12: "bool", 13: "string",
    16: "complex64", 17: "complex128", 27: "bfloat16", 29: "int4", 30: "uint1", 33: "complex32",
    34: "hifloat8", 35: "float8_e5m2", 36: "float8_e4m3fn",
}  # fmt: skip
DTYPE_NUMBERS = {name: number for number, name in DTYPES.items()}
FORMATS = {0: "NCHW", 1: "NHWC", 2: "ND", 3: "NC1HWC0", 27: "NDHWC", 30: "NCDHW"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output.

    Attributes:
        name: inputs by their ONNX name, outputs as ``node:index:tensor``.
        dtype: ge::DataType.
        format: ge::Format.
        dims: sizes, -1 where open.
        model_dims: sizes behind image preprocessing, otherwise as ``dims``.
        ranges: smallest and largest size of each dim, largest -1 without bound.
        size: bytes.
    """

    name: str
    dtype: int
    format: int
    dims: tuple[int, ...]
    size: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    model_dims: tuple[int, ...] | None = None


@dataclass
class InOut:
    """Everything the partition holds; output shapes are texts of ``gear,output,dims``."""

    inputs: list[TensorInfo] = field(default_factory=list)
    outputs: list[TensorInfo] = field(default_factory=list)
    batch_gears: list[int] = field(default_factory=list)
    image_gears: list[tuple[int, ...]] = field(default_factory=list)
    dims_gears: list[tuple[int, ...]] = field(default_factory=list)
    output_shapes: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Return the partition; empty blocks are left out."""
        blocks = [(_INPUTS, _tensors(self.inputs)), (_OUTPUTS, _tensors(self.outputs))]
        if self.batch_gears:
            packed = struct.pack(
                f"<I{len(self.batch_gears)}Q", len(self.batch_gears), *self.batch_gears
            )
            blocks.append((_BATCH, packed))
        for kind, rows in ((_IMAGE, self.image_gears), (_DIMS, self.dims_gears)):
            if rows:
                blocks.append((kind, _rows(rows)))
        for kind, texts in ((_OUTPUT_SHAPES, self.output_shapes), (_ORDER, self.order)):
            if texts:
                blocks.append((kind, _texts(texts)))
        return b"".join(struct.pack("<II", kind, len(body)) + body for kind, body in blocks)


def _tensors(tensors: Sequence[TensorInfo]) -> bytes:
    out = [struct.pack("<I", len(tensors))]
    for tensor in tensors:
        name = tensor.name.encode("utf-8", errors="surrogateescape")
        second = tensor.dims if tensor.model_dims is None else tensor.model_dims
        dims = struct.pack(f"<{len(tensor.dims)}q", *tensor.dims)
        more = struct.pack(f"<{len(second)}q", *second)
        flat = [size for pair in tensor.ranges for size in pair]
        ranges = struct.pack(f"<{len(flat)}q", *flat)
        head = (tensor.size, tensor.format, tensor.dtype)
        lengths = (len(name), len(dims), len(more), len(ranges))
        out += [_TENSOR.pack(*head, *lengths), name, dims, more, ranges]
    return b"".join(out)


def _rows(rows: Sequence[Sequence[int]]) -> bytes:
    head = struct.pack(f"<I{len(rows)}I", len(rows), *map(len, rows))
    return head + b"".join(struct.pack(f"<{len(row)}Q", *row) for row in rows)


def _texts(texts: Sequence[str]) -> bytes:
    raw = [value.encode("utf-8", errors="surrogateescape") for value in texts]
    return struct.pack(f"<I{len(raw)}I", len(raw), *map(len, raw)) + b"".join(raw)


class _Cursor:
    """Reads numbers and bytes one after another and never behind the end."""

    def __init__(self, data: memoryview, budget: Budget) -> None:
        self.data, self.at, self.budget = data, 0, budget

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise WireError("the description of inputs and outputs is cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def count(self, each: int) -> int:
        """Read a count of things that take ``each`` bytes at least."""
        count = self.number()
        if count * each > len(self.data) - self.at:
            raise WireError(f"{count} entries do not fit the description")
        self.budget.take(count)
        return count

    def longs(self, size: int, form: str = "q") -> tuple[int, ...]:
        self.budget.take(size // 8)
        return struct.unpack(f"<{size // 8}{form}", self.take(size - size % 8))

    def text(self, size: int) -> str:
        return bytes(self.take(size)).decode("utf-8", errors="backslashreplace")


def read_inout(data: memoryview, budget: Budget) -> InOut:
    """Read the partition; unknown blocks are skipped.

    Raises:
        WireError: it contradicts itself.
    """
    found, outer = InOut(), _Cursor(data, budget)
    while outer.at < len(data):
        budget.take()
        kind, size = outer.number(), outer.number()
        block = _Cursor(outer.take(size), budget)
        if kind == _INPUTS:
            found.inputs = list(_read_tensors(block))
        elif kind == _OUTPUTS:
            found.outputs = list(_read_tensors(block))
        elif kind == _BATCH:
            found.batch_gears = list(block.longs(8 * block.count(8), "Q"))
        elif kind in (_IMAGE, _DIMS):
            rows = list(_read_rows(block))
            if kind == _IMAGE:
                found.image_gears = rows
            else:
                found.dims_gears = rows
        elif kind in (_OUTPUT_SHAPES, _ORDER):
            lengths = [block.number() for _ in range(block.count(4))]
            texts = [block.text(length) for length in lengths]
            if kind == _ORDER:
                found.order = texts
            else:
                found.output_shapes = texts
    return found


def _read_tensors(block: _Cursor) -> Iterator[TensorInfo]:
    for _ in range(block.count(_TENSOR.size)):
        size, form, dtype, name, dims, more, ranges = _TENSOR.unpack(block.take(_TENSOR.size))
        text = block.text(name)
        first, second, flat = block.longs(dims), block.longs(more), block.longs(ranges)
        pairs = tuple(zip(flat[::2], flat[1::2], strict=False))
        yield TensorInfo(text, dtype, form, first, size, pairs, second)


def _read_rows(block: _Cursor) -> Iterator[tuple[int, ...]]:
    lengths = [block.number() for _ in range(block.count(4))]
    for length in lengths:
        yield block.longs(8 * length, "Q")
