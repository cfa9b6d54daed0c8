"""Write the ATC form into a folder whose path ATC accepts, external data beside it.

External files are copied, not linked: ATC resolves symbolic links before it checks the characters
of a path, and onnx refuses to read data files that have more than one hard link.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from onnx import external_data_helper

from omfuse.atc.constants import all_graphs, embedded
from omfuse.errors import ModelError

# ATC refuses files of 2^31 - 1 bytes and more (E13015); protobuf itself stops there as well.
SINGLE_FILE_LIMIT = 1_900_000_000
MODEL_NAME = "model.onnx"
WEIGHTS_NAME = "weights.bin"


def save_form(
    model: onnx.ModelProto, source: Path | None, target: Path, limit: int = SINGLE_FILE_LIMIT
) -> Path:
    """Write a form and its external data; returns the path of the model file.

    Args:
        model: the form; locations of external tensors are rewritten in it.
        source: folder of the original external data.
        target: folder to write to.
        limit: bytes from which embedded weights move to ``weights.bin``.

    Raises:
        ModelError: ``external-data`` for a missing file or one outside the model's folder.
    """
    names: dict[str, str] = {}
    for tensor in _root_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        for entry in tensor.external_data:
            if entry.key == "location":
                if entry.value not in names:
                    names[entry.value] = f"data_{len(names)}.bin"
                    _bring(source, entry.value, target / names[entry.value])
                entry.value = names[entry.value]
    _embed_inner(model, source)
    path = target / MODEL_NAME
    if _embedded_bytes(model) > limit:
        _spill(model, target / WEIGHTS_NAME)
    data = model.SerializeToString()
    path.write_bytes(data)
    return path


def _root_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the tensors whose external data ATC reads: initializers and root Constants."""
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.name == "value"]
    return tensors


def _embed_inner(model: onnx.ModelProto, source: Path | None) -> None:
    """Read external data of tensors inside If bodies, which ATC does not look up."""
    for graph in list(all_graphs(model.graph))[1:]:
        tensors = list(graph.initializer)
        tensors += [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL and source is not None:
                tensor.CopyFrom(embedded(tensor, source))


def _bring(source: Path | None, location: str, target: Path) -> None:
    path = (source or Path()) / location
    inside = source is not None and path.resolve().is_relative_to(source.resolve())
    if not inside or not path.is_file():
        raise ModelError(
            "external-data",
            f"the external data {location!r} is missing or outside the model's folder",
            where=str(source),
            hint="keep the .onnx and its data files together",
        )
    shutil.copyfile(path, target)


def _embedded_bytes(model: onnx.ModelProto) -> int:
    return sum(len(t.raw_data) for t in _root_tensors(model) if t.HasField("raw_data"))


def _spill(model: onnx.ModelProto, path: Path) -> None:
    with path.open("wb") as sink:
        for tensor in _root_tensors(model):
            if not tensor.HasField("raw_data") or len(tensor.raw_data) < 1024:
                continue
            offset, data = sink.tell(), tensor.raw_data
            sink.write(data)
            sink.write(b"\0" * (-len(data) % 64))
            external_data_helper.set_external_data(
                tensor, location=path.name, offset=offset, length=len(data)
            )
            tensor.ClearField("raw_data")
