"""Where constants of the model go: into the file, or beside it with ``external_weight``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import numpy_helper

from omfuse.atc.om.model_def import PROTO_NUMBERS, OpDef, TensorDesc
from omfuse.sim.atc.interface import dtype_name

_ALIGN = 512


@dataclass
class Weights:
    """Collects constants.

    Attributes:
        mode: ``external_weight``: 0 in the file, 1 a file each, 2 one file for all.
        output: name of the compile, for the combined file.
        pieces: content of the WEIGHTS_DATA partition.
        files: name beside the ``.om`` -> content.
        size: bytes of memory for all constants.
    """

    mode: str
    output: str
    pieces: list[bytes] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    _places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _combined: bytearray = field(default_factory=bytearray)

    def operator(self, tensor: onnx.TensorProto, name: str, scope: str, op_id: int) -> OpDef:
        """Return the operator of a constant: Const, or FileConstant for one outside."""
        number = PROTO_NUMBERS.get(dtype_name(tensor.data_type), 0)
        dims = tuple(tensor.dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            given = {entry.key: entry.value for entry in tensor.external_data}
            place = given.get("location", ""), int(given.get("offset", 0))
            return _outside(name, op_id, number, dims, *place, int(given.get("length", 0)))
        location, offset, size = self._place(tensor, f"{scope}/{tensor.name}")
        if location:
            return _outside(name, op_id, number, dims, location, offset, size)
        desc = TensorDesc("", number, dims, "ND", size, size, offset)
        return OpDef(name, "Const", (), op_id, output_desc=(desc,))

    def _place(self, tensor: onnx.TensorProto, key: str) -> tuple[str, int, int]:
        """Return file, offset and size; the graphs of several gears share one constant."""
        if key not in self._places:
            data = _raw(tensor)
            padded = data + b"\0" * (-len(data) % _ALIGN)
            if self.mode == "1":
                location = f"weight/weight_{hashlib.sha256(data).hexdigest()}"
                self._places[key] = location, 0, len(data)
                self.files[location] = data
            elif self.mode == "2":
                location = f"{Path(self.output).name}_weight_combined"
                self._places[key] = location, len(self._combined), len(data)
                self._combined += padded
            else:
                self._places[key] = "", self.size, len(data)
                self.pieces.append(padded)
            self.size += len(padded)
        return self._places[key]

    def close(self) -> None:
        """Finish the combined file."""
        if self._combined:
            self.files[f"{Path(self.output).name}_weight_combined"] = bytes(self._combined)


def _outside(
    name: str, op_id: int, number: int, dims: tuple[int, ...], location: str, offset: int, size: int
) -> OpDef:
    attrs = {"location": location, "offset": offset, "length": size}
    desc = TensorDesc("", number, dims, "ND")
    return OpDef(name, "FileConstant", (), op_id, output_desc=(desc,), attrs=attrs)


def _raw(tensor: onnx.TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    if tensor.data_type == onnx.TensorProto.STRING:
        return b"\0".join(tensor.string_data)
    return bytes(numpy_helper.to_array(tensor).tobytes())
