"""``ge.proto.ModelDef``: graphs, operators, tensor descriptions; read lazily, written plainly.

Field numbers of graph-engine's ``ge_ir.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from omfuse.atc.om import wire
from omfuse.atc.om.attrs import AttrMap, NameCollector, NameTable, table_of, write_map
from omfuse.atc.om.wire import Budget, fields, integers, signed, text

# ge.proto.DataType, which differs from ge::DataType used elsewhere in the file.
PROTO_DTYPES = {
    1: "float32", 2: "float16", 3: "int8", 4: "uint8", 5: "int16", 6: "uint16", 7: "int32",
    8: "int64", 9: "uint32", 10: "uint64", 11: "bool", 12: "float64", 13: "string",
    16: "complex64", 17: "complex128", 27: "bfloat16", 28: "int4",
}  # fmt: skip
PROTO_NUMBERS = {name: number for number, name in PROTO_DTYPES.items()}


@dataclass(frozen=True)
class TensorDesc:
    """Dtype by ``ge.proto.DataType``, sizes, format; -1 is an open dim.

    ``data_offset`` and ``weight_size`` place a constant in the weights, in bytes.
    """

    name: str = ""
    dtype: int = 0
    shape: tuple[int, ...] = ()
    layout: str = ""
    size: int = 0
    weight_size: int = 0
    data_offset: int = 0
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dtype_name(self) -> str:
        """The dtype in numpy's words."""
        return PROTO_DTYPES.get(self.dtype, f"type {self.dtype}")

    def to_bytes(self, collector: NameCollector | None = None) -> bytes:
        """Return the message."""
        shape = wire.put_bytes(3, wire.put_ints(1, self.shape))
        return b"".join(
            (
                wire.put_text(1, self.name),
                wire.put_int(2, self.dtype),
                shape,
                wire.put_text(4, self.layout),
                write_map(5, self.attrs, collector),
                wire.put_int(10, self.size),
                wire.put_int(11, self.weight_size),
                wire.put_int(18, self.data_offset),
            )
        )


@dataclass(frozen=True)
class OpDef:
    """One operator; ``inputs`` are ``source:index``, ``source:-1`` for control."""

    name: str
    type: str
    inputs: tuple[str, ...] = ()
    id: int = 0
    stream: int = 0
    src_names: tuple[str, ...] = ()
    src_indexes: tuple[int, ...] = ()
    input_desc: tuple[TensorDesc, ...] = ()
    output_desc: tuple[TensorDesc, ...] = ()
    workspace_bytes: tuple[int, ...] = ()
    subgraphs: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self, collector: NameCollector | None = None) -> bytes:
        """Return the message."""
        return b"".join(
            (
                wire.put_text(1, self.name),
                wire.put_text(2, self.type),
                wire.put_texts(5, self.inputs),
                write_map(10, self.attrs, collector),
                wire.put_int(21, self.id),
                wire.put_int(22, self.stream),
                wire.put_texts(24, self.src_names),
                wire.put_ints(25, self.src_indexes),
                wire.put_ints(31, self.workspace_bytes),
                *(wire.put_bytes(33, desc.to_bytes(collector)) for desc in self.input_desc),
                *(wire.put_bytes(34, desc.to_bytes(collector)) for desc in self.output_desc),
                wire.put_texts(35, self.subgraphs),
            )
        )


@dataclass(frozen=True)
class GraphDef:
    """One graph with its operators in order of execution."""

    name: str
    ops: tuple[OpDef, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self, collector: NameCollector | None = None) -> bytes:
        """Return the message."""
        return b"".join(
            (
                wire.put_text(1, self.name),
                wire.put_texts(4, self.inputs),
                wire.put_texts(5, self.outputs),
                *(wire.put_bytes(6, op.to_bytes(collector)) for op in self.ops),
                write_map(11, self.attrs),
            )
        )


@dataclass(frozen=True)
class ModelDef:
    """A model: graph 0 is the main one."""

    name: str
    graphs: tuple[GraphDef, ...] = ()
    version: int = 0
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self, compress: bool = True) -> bytes:
        """Return the message, attribute names of operators compressed as ATC does by default."""
        collector = NameCollector() if compress else None
        graphs = [wire.put_bytes(7, graph.to_bytes(collector)) for graph in self.graphs]
        more = collector.model_attributes() if collector and collector.names else {}
        return b"".join(
            (
                wire.put_text(1, self.name),
                wire.put_int(2, self.version),
                *graphs,
                write_map(11, {**self.attrs, **more}),
            )
        )


class OpView:
    """An operator of a file: name, type, id and inputs at once, the rest when asked for."""

    def __init__(self, data: memoryview, names: NameTable, budget: Budget) -> None:
        self.name = self.type = ""
        self.id = self.stream = 0
        self.inputs: list[str] = []
        self.src_names: list[str] = []
        self.src_indexes: list[int] = []
        self.subgraphs: list[str] = []
        self._names, self._budget = names, budget
        self._attrs: list[memoryview] = []
        self._descs: tuple[list[memoryview], list[memoryview]] = ([], [])
        for number, kind, value, raw in fields(data, budget):
            if number == 1:
                self.name = text(raw)
            elif number == 2:
                self.type = text(raw)
            elif number == 5:
                self.inputs.append(text(raw))
            elif number == 10:
                self._attrs.append(raw)
            elif number == 21:
                self.id = signed(value)
            elif number == 22:
                self.stream = signed(value)
            elif number == 24:
                self.src_names.append(text(raw))
            elif number == 25:
                self.src_indexes += integers(kind, value, raw, budget)
            elif number in (33, 34):
                self._descs[number - 33].append(raw)
            elif number == 35:
                self.subgraphs.append(text(raw))

    @cached_property
    def attrs(self) -> AttrMap:
        """Attributes by name."""
        return AttrMap(self._attrs, self._names, self._budget)

    @cached_property
    def input_desc(self) -> list[TensorDesc]:
        """Descriptions of the inputs."""
        return [read_tensor(raw, self._names, self._budget) for raw in self._descs[0]]

    @cached_property
    def output_desc(self) -> list[TensorDesc]:
        """Descriptions of the outputs."""
        return [read_tensor(raw, self._names, self._budget) for raw in self._descs[1]]


def read_tensor(data: memoryview, names: NameTable, budget: Budget) -> TensorDesc:
    """Read a TensorDescriptor."""
    values: dict[str, Any] = {}
    entries: list[memoryview] = []
    numbers = {2: "dtype", 10: "size", 11: "weight_size", 18: "data_offset"}
    for number, _, value, raw in fields(data, budget):
        if number == 1:
            values["name"] = text(raw)
        elif number in numbers:
            values[numbers[number]] = signed(value)
        elif number == 3:
            dims: list[int] = []
            for inner, inner_kind, inner_value, packed in fields(raw, budget):
                if inner == 1:
                    dims += integers(inner_kind, inner_value, packed, budget)
            values["shape"] = tuple(dims)
        elif number == 4:
            values["layout"] = text(raw)
        elif number == 5:
            entries.append(raw)
    return TensorDesc(**values, attrs=AttrMap(entries, names, budget))


class GraphView:
    """A graph of a file."""

    def __init__(self, data: memoryview, names: NameTable, budget: Budget) -> None:
        self.name = ""
        self._names, self._budget = names, budget
        self._ops: list[memoryview] = []
        for number, _, _, raw in fields(data, budget):
            if number == 1:
                self.name = text(raw)
            elif number == 6:
                self._ops.append(raw)

    @cached_property
    def ops(self) -> list[OpView]:
        """The operators."""
        return [OpView(raw, self._names, self._budget) for raw in self._ops]


class ModelView:
    """A model of a file.

    Args:
        data: the MODEL_DEF partition.
        budget: of the file.
        outer: name table of the model around this one.

    Raises:
        WireError: the bytes are no model.
    """

    def __init__(self, data: memoryview, budget: Budget, outer: NameTable | None = None) -> None:
        self.name, self.version = "", 0
        graphs: list[memoryview] = []
        entries: list[memoryview] = []
        for number, _, value, raw in fields(data, budget):
            if number == 1:
                self.name = text(raw)
            elif number == 2:
                self.version = value
            elif number == 7:
                graphs.append(raw)
            elif number == 11:
                entries.append(raw)
        self.names = table_of(entries, budget, outer)
        self.attrs = AttrMap(entries, NameTable(), budget)
        self.graphs = [GraphView(raw, self.names, budget) for raw in graphs]

    def ops(self) -> Iterator[OpView]:
        """Yield the operators of all graphs."""
        for graph in self.graphs:
            yield from graph.ops
