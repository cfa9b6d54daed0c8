"""Put the ``.om`` together: graphs, tasks, kernels and weights in ATC's format, and the payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from omfuse.atc.om import layout
from omfuse.atc.om.inout import DTYPE_NUMBERS, InOut, TensorInfo
from omfuse.atc.om.kernels import write_kernels
from omfuse.atc.om.layout import Header
from omfuse.atc.om.model_def import ModelDef
from omfuse.atc.om.summary import SHAPE_INPUT
from omfuse.atc.om.tasks import TaskList
from omfuse.atc.om.writer import Part
from omfuse.host.site import Value
from omfuse.sim.atc.graphs import Graphs
from omfuse.sim.atc.interface import Interface, dtype_name, item_bytes
from omfuse.sim.atc.onnx_parser import Parsed
from omfuse.sim.atc.weights import Weights
from omfuse.sim.payload import ATTRIBUTE, MARK, PARTITION, Payload, TensorSpec

VERSION = "simulated"
_ALIGN = 512


@dataclass
class Built:
    """Everything that goes into the file."""

    header: Header
    parts: list[Part]
    modeldef_bytes: int
    attrs: Mapping[str, Any]
    files: Mapping[str, bytes]


def assemble(parsed: Parsed, interface: Interface, given: Mapping[str, str], command: str) -> Built:
    """Build header and partitions of a model, and the files beside it."""
    weights = Weights(given.get("external_weight", "0"), given["output"])
    work = Graphs(parsed, interface, weights)
    work.build()
    payload = _payload(work, given, command)
    tasks = TaskList(work.tasks, "", payload.work_size, payload.weight_size, streams=1)
    parts = [
        Part(layout.MODEL_INOUT_INFO, [_inout(interface).to_bytes()]),
        Part(layout.MODEL_DEF, [b""]),
        Part(layout.WEIGHTS_DATA, weights.pieces),
        Part(layout.TBE_KERNELS, [write_kernels(sorted(work.kernels.items()))]),
        Part(layout.TASK_INFO, [tasks.to_bytes()]),
        Part(PARTITION, payload.pieces()),
    ]
    sizes = [parts[2].size, parts[3].size, 0, parts[4].size, 0]
    attrs = _model_attrs(given, payload, command, sizes)
    name = Path(given["output"]).name
    compress = given.get("enable_attr_compression", "true") == "true"
    model = ModelDef(name, tuple(work.graphs), 2, attrs).to_bytes(compress)
    parts[1] = Part(layout.MODEL_DEF, [model])
    header = Header(
        0,
        name,
        user_info=MARK,
        platform="1.11.z.0",
        unknown_shape=interface.mode == "dynamic",
    )
    return Built(header, [p for p in parts if p.size], len(model), attrs, weights.files)


def _inout(interface: Interface) -> InOut:
    def info(spec: TensorSpec) -> TensorInfo:
        return TensorInfo(
            spec.name, spec.acl_dtype, spec.acl_format, spec.dims, spec.size, spec.ranges
        )

    found = InOut([info(s) for s in interface.inputs], [info(s) for s in interface.outputs])
    if interface.gears:
        found.inputs.append(TensorInfo(SHAPE_INPUT, DTYPE_NUMBERS["int32"], 2, (4,), 16))
        found.order = list(interface.order)
        found.output_shapes = [
            f"{gear},{index}," + ",".join(map(str, dims))
            for gear, outputs in enumerate(interface.gear_outputs)
            for index, dims in enumerate(outputs)
        ]
    if interface.mode == "batch":
        found.batch_gears = [gear[0] for gear in interface.gears]
    elif interface.mode == "image":
        found.image_gears = list(interface.gears)
    elif interface.mode == "dims":
        found.dims_gears = list(interface.gears)
    return found


def _payload(work: Graphs, given: Mapping[str, str], command: str) -> Payload:
    parsed, interface = work.parsed, work.interface
    external = {}
    for tensor in onnx.external_data_helper._get_all_tensors(parsed.model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value not in external:
                external[entry.value] = (parsed.folder / entry.value).read_bytes()
    precision = given.get("precision_mode") or given.get("precision_mode_v2") or "force_fp16"
    opset = next(e.version for e in parsed.model.opset_import if e.domain in ("", "ai.onnx"))
    return Payload(
        given["soc_version"],
        interface.mode,
        interface.inputs,
        interface.outputs,
        parsed.model.SerializeToString(),
        interface.gears,
        interface.gear_inputs,
        interface.gear_outputs,
        external,
        command,
        precision,
        tuple(work.attention),
        _peak_bytes(parsed.model.graph, interface.values),
        work.weights.size + sum(map(len, external.values())),
        opset,
    )


def _peak_bytes(graph: onnx.GraphProto, values: Mapping[str, Value]) -> int:
    """Return the most bytes that are alive at once when each value is freed after its last use."""
    last = {name: index for index, node in enumerate(graph.node) for name in node.input}
    alive, now, peak = {}, 0, 0
    for index, node in enumerate(graph.node):
        for name in node.output:
            alive[name] = _bytes_of(values.get(name))
            now += alive[name]
        peak = max(peak, now)
        for name in {*node.input, *node.output}:
            if last.get(name, index) == index and name in alive:
                now -= alive.pop(name)
    return peak + -peak % _ALIGN + _ALIGN


def _bytes_of(value: Value | None) -> int:
    if value is None or not value.elem_type or value.dims is None:
        return 0
    count = item_bytes(dtype_name(value.elem_type))
    for size in value.dims:
        count *= 1 if size is None else size
    return count + -count % _ALIGN


def _model_attrs(
    given: Mapping[str, str], payload: Payload, command: str, sizes: list[int]
) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "soc_version": payload.soc,
        "arch_type": "2",
        "framework_type": "Onnx",
        "atc_version": VERSION,
        "opp_version": VERSION,
        "atc_cmdline": command,
        "memory_size": payload.work_size,
        "weight_size": payload.weight_size,
        "stream_num": 1,
        "event_num": 0,
        "om_info_list": sizes,
        "attr_model_out_nodes_name": [spec.name for spec in payload.outputs],
        ATTRIBUTE: True,
    }
    if given.get("host_env_os"):
        attrs |= {"host_env_os": given["host_env_os"], "host_env_cpu": given["host_env_cpu"]}
    return attrs
