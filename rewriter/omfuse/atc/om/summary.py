"""What an ``.om`` is: interface, gears, target, versions, operators, and its fused attention.

Bounded: counts, lengths and depths come from the file and are checked before anything is made of
them; partitions that only hold weights or code are not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfuse.atc.environment import public_release
from omfuse.atc.om import layout
from omfuse.atc.om.inout import DTYPES, FORMATS, InOut, TensorInfo, read_inout
from omfuse.atc.om.kernels import Kernel, read_kernels, read_libraries
from omfuse.atc.om.layout import MODEL_TYPES, OmFile
from omfuse.atc.om.model_def import PROTO_DTYPES, GraphView, ModelView, OpView, TensorDesc
from omfuse.atc.om.tasks import TaskList, read_tasks
from omfuse.atc.om.wire import Budget, WireError
from omfuse.errors import ModelError
from omfuse.sim.payload import MARK

SHAPE_INPUT = "ascend_mbatch_shape_data"
GEAR_SUFFIX = re.compile(r"_ascend_mbatch_batch_\d+\Z")
_MAX_MODEL_DEF = 1 << 30
_MAX_INOUT = 64 << 20
_ATTENTION = re.compile(r"FlashAttention|FusedInferAttention|AttentionScore")
_STORES = (layout.TBE_KERNELS, layout.CUST_AICPU_KERNELS)


@dataclass
class OneModel:
    """One model of the file, read as far as a description needs."""

    view: ModelView
    tasks: TaskList = field(default_factory=TaskList)
    kernels: list[Kernel] = field(default_factory=list)
    libraries: list[Kernel] = field(default_factory=list)
    inout: InOut | None = None


def describe_om(path: str | Path) -> dict[str, Any]:
    """Read an ``.om`` and describe it.

    Returns:
        A JSON object; see ``docs/om.md`` for its fields.

    Raises:
        ModelError: ``not-om``, ``om2``, ``om-encrypted``, ``om-truncated``, ``om-damaged``,
            ``om-too-large``, ``no-model``.
    """
    with OmFile(path) as file:
        try:
            return _describe(file)
        except (WireError, RecursionError, OverflowError, MemoryError) as error:
            raise ModelError(
                "om-damaged",
                f"the .om is damaged: {error}",
                where=str(file.path),
                hint="copy or compile it again",
            ) from error


def _describe(file: OmFile) -> dict[str, Any]:
    budget = Budget()
    models: list[OneModel] = []
    for index in range(len(file.tables)):
        outer = models[0].view if models else None
        model = _read_model(file, index, budget, outer)
        if model is not None:
            models.append(model)
    if not models and file.header.model_type != 5:
        raise ModelError(
            "om-damaged",
            "the .om holds no model definition",
            where=str(file.path),
            hint="compile it again",
        )
    header = file.header
    found: dict[str, Any] = {
        "path": str(file.path),
        "bytes": file.size,
        "name": header.name,
        "model_type": MODEL_TYPES.get(header.model_type, str(header.model_type)),
        "simulated": header.user_info.startswith(MARK),
        "models": header.models,
        "unknown_shape": header.unknown_shape,
        "platform": header.platform,
        "partitions": [
            {"type": part.kind, "name": part.name, "bytes": part.size} for part in file.partitions()
        ],
    }
    if models:
        found |= _about(models)
    return found


def _read_model(
    file: OmFile, index: int, budget: Budget, outer: ModelView | None
) -> OneModel | None:
    part = file.find(layout.MODEL_DEF, index)
    if part is None:
        return None
    data = file.read(part, _MAX_MODEL_DEF)
    model = OneModel(ModelView(data, budget, outer.names if outer else None))
    part = file.find(layout.TASK_INFO, index)
    if part is not None:
        model.tasks = read_tasks(file.read(part, _MAX_MODEL_DEF), budget)
    part = file.find(layout.MODEL_INOUT_INFO, index)
    if part is not None:
        model.inout = read_inout(file.read(part, _MAX_INOUT), budget)
    for kind in _STORES:
        part = file.find(kind, index)
        if part is not None:
            model.kernels += read_kernels(file, part, budget)
    part = file.find(layout.SO_BINS, index)
    if part is not None:
        model.libraries = read_libraries(file, part, budget)
    return model


def _about(models: Sequence[OneModel]) -> dict[str, Any]:
    root = models[0].view
    attrs = root.attrs
    inout = models[0].inout or _inout_of_graph(root)
    hidden = [t for t in inout.inputs if t.name == SHAPE_INPUT]
    types = Counter(op.type for model in models for op in model.view.ops())
    constants = types.get("Const", 0) + types.get("Constant", 0) + types.get("FileConstant", 0)
    tasks: Counter[str] = Counter()
    for model in models:
        tasks.update(model.tasks.by_type())
    sizes = attrs.numbers("om_info_list")
    return {
        "soc": attrs.text("soc_version"),
        "cann": public_release(attrs.text("atc_version")),
        "atc_version": attrs.text("atc_version"),
        "opp_version": attrs.text("opp_version"),
        "compiler_version": attrs.text("compiler_version"),
        "framework": attrs.text("framework_type"),
        "command": attrs.text("atc_cmdline"),
        "host": "-".join(filter(None, (attrs.text("host_env_os"), attrs.text("host_env_cpu")))),
        "inputs": [_tensor(t) for t in inout.inputs if t not in hidden],
        "outputs": [_tensor(t) for t in inout.outputs],
        "gears": _gears(inout),
        "memory": {
            "work_bytes": attrs.number("memory_size"),
            "weight_bytes": attrs.number("weight_size"),
            "streams": attrs.number("stream_num"),
            "events": attrs.number("event_num"),
            "sections": sizes,
        },
        "compressed_names": bool(root.names.names),
        "graphs": sum(len(model.view.graphs) for model in models),
        "operators": dict(types.most_common()),
        "constants": constants,
        "tasks": dict(tasks.most_common()),
        "kernels": {
            "count": sum(len(model.kernels) for model in models),
            "bytes": sum(k.size for model in models for k in model.kernels),
            "machines": dict(Counter(k.machine or "none" for m in models for k in m.kernels)),
        },
        "libraries": [k.name for model in models for k in model.libraries],
        "attention": _attention(models),
    }


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": tensor.name,
        "dtype": DTYPES.get(tensor.dtype, f"type {tensor.dtype}"),
        "shape": list(tensor.dims),
        "format": FORMATS.get(tensor.format, f"format {tensor.format}"),
        "bytes": tensor.size,
    }
    if tensor.ranges:
        found["ranges"] = [list(pair) for pair in tensor.ranges]
    return found


def _gears(inout: InOut) -> dict[str, Any] | None:
    """Return kind and numbers of the gears, None for a model without."""
    for kind, rows in (
        ("batch", [(n,) for n in inout.batch_gears]),
        ("image", inout.image_gears),
        ("dims", inout.dims_gears),
    ):
        if rows:
            return {
                "kind": kind,
                "values": [list(row) for row in rows],
                "order": inout.order,
                "output_shapes": inout.output_shapes,
            }
    return None


def _inout_of_graph(model: ModelView) -> InOut:
    """Read inputs and outputs from the graph, for files without a description of them."""
    found = InOut()
    for op in model.graphs[0].ops if model.graphs else ():
        if op.type in ("Data", "AippData", "AnnData"):
            desc = (op.input_desc or op.output_desc or [TensorDesc()])[0]
            found.inputs.append(_from_desc(op.name, desc))
        elif op.type == "NetOutput":
            names = model.attrs.texts("attr_model_out_nodes_name")
            for index, desc in enumerate(op.input_desc):
                name = names[index] if index < len(names) else f"output_{index}"
                found.outputs.append(_from_desc(name, desc))
    return found


def _from_desc(name: str, desc: TensorDesc) -> TensorInfo:
    dtypes = {text: number for number, text in DTYPES.items()}
    formats = {text: number for number, text in FORMATS.items()}
    number = dtypes.get(PROTO_DTYPES.get(desc.dtype, ""), 28)
    return TensorInfo(name, number, formats.get(desc.layout, 2), desc.shape, desc.size)


def _attention(models: Sequence[OneModel]) -> list[dict[str, Any]]:
    """List the fused attention; copies for several gears are one entry."""
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        tasks: dict[int, list[int]] = {}
        for index, task in enumerate(model.tasks.tasks):
            for op_id in {task.op_index, *task.origin}:
                tasks.setdefault(op_id, []).append(index)
        stored = {kernel.name for kernel in model.kernels}
        for graph in model.view.graphs:
            for op in graph.ops:
                if _ATTENTION.search(op.type):
                    entry = _attention_entry(op, graph, model, tasks.get(op.id, []), stored)
                    first = found.setdefault(GEAR_SUFFIX.sub("", op.name), entry)
                    if first is not entry:
                        _merge(first, entry)
    return list(found.values())


def _attention_entry(
    op: OpView, graph: GraphView, model: OneModel, tasks: list[int], stored: set[str]
) -> dict[str, Any]:
    kernel = op.attrs.text("_kernelname") or op.attrs.text(f"{op.name}_kernelname")
    first = model.tasks.tasks[tasks[0]] if tasks else None
    kernel = kernel or (first.kernel if first else "")
    # The store may add a number to the name that the operator has.
    held = {name for name in stored if kernel and re.fullmatch(re.escape(kernel) + r"\d*", name)}
    origins = op.attrs.texts("_datadump_original_op_names") or [GEAR_SUFFIX.sub("", op.name)]
    return {
        "node": GEAR_SUFFIX.sub("", op.name),
        "type": op.type,
        "custom": op.attrs.get("_is_custom_op") is True,
        "kernel": kernel,
        "kernel_stored": bool(held),
        "task": tasks[0] if tasks else None,
        "block_dim": (first.block_dim if first else 0) or op.attrs.number("tvm_blockdim") or 0,
        "origin": [name for name in origins if name],
        "inputs": [[desc.dtype_name, list(desc.shape)] for desc in op.input_desc],
        "copies": 1,
        "complete": bool(held) and bool(tasks),
    }


def _merge(first: dict[str, Any], other: dict[str, Any]) -> None:
    first["copies"] += 1
    first["complete"] = first["complete"] and other["complete"]
