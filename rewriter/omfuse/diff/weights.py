"""Weights of models too large for one protobuf: they stay in their files.

Small external tensors are loaded, since scales, masks and shapes among them say what a graph
means; large ones stay references, which onnxruntime maps from the model's folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from omfuse.graph.model_io import external_tensors, follow_links
from omfuse.host import shapes

SMALL = 1 << 20  # bytes


def is_external(tensor: TensorProto) -> bool:
    """Tell whether a tensor is a reference into a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def load_small(model: onnx.ModelProto, source: Path) -> Path:
    """Load what is small of a model's external data, and all of its Constant nodes, in place.

    Args:
        model: what was read from ``source``.
        source: the file of the model, or its folder when it never was a file.

    Returns:
        The folder that the remaining references are relative to.
    """
    folder = follow_links(model, source)
    for tensor in external_tensors(model):
        if _size(tensor, folder) <= SMALL:
            load(tensor, folder)
    for graph in shapes.graphs(model.graph):
        for attribute in (a for node in graph.node for a in node.attribute):
            if attribute.HasField("t") and is_external(attribute.t):
                load(attribute.t, folder)
    return folder


def load(tensor: TensorProto, folder: Path) -> None:
    """Load one external tensor, in place."""
    load_external_data_for_tensor(tensor, str(folder))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def stamp(model: onnx.ModelProto, folder: Path | None) -> bytes:
    """Return what changes when a file of external weights does: names, sizes, times."""
    digest = hashlib.sha256()
    files = {ExternalDataInfo(tensor).location for tensor in external_tensors(model)}
    for name in sorted(files):
        state = ((folder or Path()) / name).stat()
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.digest() if files else b""


@dataclass(frozen=True, eq=False)
class Stored:
    """The bytes of a tensor in a file; equal when the bytes are."""

    path: Path
    offset: int
    size: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stored) or self.size != other.size:
            return False
        if (self.path, self.offset) == (other.path, other.offset):
            return True
        return bool(np.array_equal(self._bytes(), other._bytes()))

    def __hash__(self) -> int:
        return self.size

    def _bytes(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r", self.offset, (self.size,))


def stored(tensor: TensorProto, folder: Path) -> Stored:
    """Return where the bytes of an external tensor are."""
    info = ExternalDataInfo(tensor)
    place = (folder / info.location).resolve()
    return Stored(place, info.offset or 0, _size(tensor, folder))


def _size(tensor: TensorProto, folder: Path) -> int:
    info = ExternalDataInfo(tensor)
    if info.length:
        return int(info.length)
    return (folder / info.location).stat().st_size - int(info.offset or 0)
