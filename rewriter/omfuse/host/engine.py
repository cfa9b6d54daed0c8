"""One model inside onnxruntime, in this process: load, lower, run.

Weights in external files are never read here.  The lowered model goes to onnxruntime as bytes,
and onnxruntime maps the files from the folder of the original model, once it is proven that none
lies outside it: not every version that omfuse takes looks.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from onnx import helper

from omfuse.errors import ModelError, UsageError
from omfuse.fuse.contract import OP_TYPE
from omfuse.graph.model_io import check_external, follow_links
from omfuse.host import kernel, problems, runtime, tensors
from omfuse.host.lower import contains_flash_attention, lower
from omfuse.host.rules import LOWERINGS
from omfuse.session_protocol import Array

PROTOBUF_LIMIT = (1 << 31) - 1
_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class EngineOptions:
    """How to open a model; see :class:`omfuse.host.session.HostSession`."""

    lowering: str = "auto"
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    optimize: bool = True
    threads: int | None = None
    extra_outputs: tuple[str, ...] = ()
    custom_ops: tuple[str, ...] = ()
    base_dir: str | None = None
    kernel_library: str | None = None  # stands in for the C++ kernel
    kernel_name: str = ""

    def __post_init__(self) -> None:
        if self.lowering not in LOWERINGS:
            raise UsageError(
                "unknown-lowering",
                f"no lowering {self.lowering!r}",
                hint=f"use one of {', '.join(LOWERINGS)}",
            )


class Engine:
    """A loaded model."""

    def __init__(self, source: Path | onnx.ModelProto, options: EngineOptions) -> None:
        self.kernels: dict[str, str] = {}
        self._libraries = list(options.custom_ops)
        self._where = str(source) if isinstance(source, Path) else None
        read_from = source if isinstance(source, Path) else None
        origin = Path(options.base_dir) if options.base_dir else read_from
        folder: Path | None = None
        payload: str | bytes
        if isinstance(source, Path) and not _needs_work(source, options):
            payload = str(source)
            if _mentions(source, b"location"):
                check_external(_parse(source), source)
        else:
            model = _parse(source) if isinstance(source, Path) else _copy(source)
            if origin is not None:
                check_external(model, origin)
                folder = follow_links(model, origin)
            library = kernel.KernelLibrary(None, "not asked for")
            if options.kernel_library:
                library = kernel.KernelLibrary(Path(options.kernel_library))
            elif options.lowering in ("auto", "kernel") and contains_flash_attention(model):
                library = kernel.find()
            lowered = lower(model, options.lowering, options.input_shapes, library.reason)
            if any(used.startswith("kernel: ") for used in lowered.kernels.values()):
                self._libraries.append(str(library.path))
            self.kernels = _named(lowered.kernels, options.kernel_name)
            if not runtime.knows_overloads():
                runtime.name_overloads(lowered.model)
            _add_outputs(lowered.model, options.extra_outputs)
            payload = _serialize(lowered.model, self._where)
        self._session = self._open(payload, options, folder)
        self.inputs = tensors.describe(self._session.get_inputs())
        self.outputs = tensors.describe(self._session.get_outputs())
        self._output_names = [info.name for info in self.outputs]
        self._optional = frozenset(arg.name for arg in self._session.get_overridable_initializers())
        args = (*self._session.get_inputs(), *self._session.get_outputs())
        self._numpy_speaks_all = all(arg.type != tensors.BFLOAT16 for arg in args)

    def _open(
        self, payload: str | bytes, options: EngineOptions, folder: Path | None
    ) -> onnxruntime.InferenceSession:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # errors come back as exceptions, once
        if not options.optimize:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        if isinstance(payload, bytes) and folder:
            settings.add_session_config_entry(_FOLDER_OPTION, str(folder))
        try:
            for library in self._libraries:
                settings.register_custom_ops_library(library)
            return onnxruntime.InferenceSession(
                payload, settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise problems.load_problem(error, self._where) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        tensors.check_feeds(self.inputs, self._optional, feeds)
        names = self._output_names
        try:
            if self._numpy_speaks_all:
                values = self._session.run(names, {k: np.asarray(v) for k, v in feeds.items()})
            else:
                values = self._run_bfloat16(names, feeds)
        except Exception as error:  # see _open
            raise problems.run_problem(error, self._where) from error
        return dict(zip(names, values, strict=True))

    def _run_bfloat16(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        wrapped = {}
        for name, array in feeds.items():
            if array.dtype.name == "bfloat16":
                bits = np.ascontiguousarray(array).view(np.uint16)
                wrapped[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    bits, onnx.TensorProto.BFLOAT16
                )
            else:
                wrapped[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        results = self._session.run_with_ort_values(names, wrapped)
        return [
            _to_numpy(value, info.dtype) for value, info in zip(results, self.outputs, strict=True)
        ]


def _named(kernels: dict[str, str], kernel_name: str) -> dict[str, str]:
    """Say which kernel it is where another one than the CPU's stands in."""
    if not kernel_name:
        return kernels
    return {
        node: f"{kernel_name}: asked for" if used.startswith("kernel: ") else used
        for node, used in kernels.items()
    }


def _to_numpy(value: Any, dtype: np.dtype[Any]) -> Array:
    if dtype.name != "bfloat16":
        array: Array = value.numpy()
        return array
    import ctypes

    count = int(np.prod(value.shape(), dtype=np.int64))
    raw = ctypes.string_at(value.data_ptr(), 2 * count) if count else b""
    return np.frombuffer(raw, np.uint16).copy().view(dtype).reshape(value.shape())


def _needs_work(path: Path, options: EngineOptions) -> bool:
    """Tell whether the file must be parsed: it names our operator, or more outputs are wanted."""
    try:
        if path.stat().st_size == 0:
            raise problems.unreadable(str(path))
        if options.extra_outputs or options.base_dir:
            return True
        return _mentions(path, OP_TYPE.encode())
    except FileNotFoundError as error:
        raise problems.not_found(str(path)) from error
    except OSError as error:
        raise ModelError(
            "model-unreadable", f"cannot read: {error.strerror}", where=str(path)
        ) from error


def _mentions(path: Path, word: bytes) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        return view.find(word) >= 0


def _parse(path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise problems.unreadable(str(path)) from error
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _serialize(model: onnx.ModelProto, where: str | None) -> bytes:
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ModelError(
            "model-too-large",
            "the model holds more than 2 GB of weights inside the file",
            where=where,
            hint="save it with external data: onnx.save(..., save_as_external_data=True)",
        )
    data: bytes = model.SerializeToString()
    return data


def _add_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    present = {value.name for value in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    for name in names:
        if name not in made:
            raise UsageError(
                "unknown-tensor", f"no node of the main graph makes {name!r}", hint="check the name"
            )
        if name not in present:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
