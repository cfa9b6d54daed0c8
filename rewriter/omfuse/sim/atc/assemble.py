"""Put the ``.om`` together: graphs, tasks, kernels and weights in ATC's format, and the payload."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from omfuse.atc.om import layout
from omfuse.atc.om.inout import DTYPE_NUMBERS, FORMATS, InOut, TensorInfo
from omfuse.atc.om.kernels import write_kernels
from omfuse.atc.om.layout import Header
from omfuse.atc.om.model_def import (
    PROTO_NUMBERS,
    GraphDef,
    ModelDef,
    OpDef,
    TensorDesc,
)
from omfuse.atc.om.summary import SHAPE_INPUT
from omfuse.atc.om.tasks import END_GRAPH, KERNEL, Task, TaskList
from omfuse.atc.om.writer import Part
from omfuse.host.site import Value
from omfuse.sim.atc.interface import Interface, dtype_name, item_bytes
from omfuse.sim.atc.onnx_parser import Parsed
from omfuse.sim.atc.plugins import GE_TYPES, Operator
from omfuse.sim.payload import (
    ATTRIBUTE,
    MARK,
    PARTITION,
    AttentionRecord,
    Payload,
    TensorSpec,
)

VERSION = "simulated"
_ALIGN = 512
_DYNAMIC_TYPES = {"batch": 1, "image": 2, "dims": 3}
_AI_CORE = 0x1029


@dataclass
class Built:
    """Everything that goes into the file."""

    header: Header
    parts: list[Part]
    modeldef_bytes: int
    attrs: Mapping[str, Any]


@dataclass
class _Work:
    parsed: Parsed
    interface: Interface
    given: Mapping[str, str]
    attention_types: frozenset[str]
    next_id: int = 0
    ops: list[OpDef] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    kernels: dict[str, bytes] = field(default_factory=dict)
    attention: list[AttentionRecord] = field(default_factory=list)
    graphs: list[GraphDef] = field(default_factory=list)
    weights: list[bytes] = field(default_factory=list)
    weight_bytes: int = 0

    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def place_of(self, tensor: onnx.TensorProto, scope: str) -> tuple[int, int]:
        """Return offset and size of a constant; the graphs of several gears share one."""
        key = f"{scope}/{tensor.name}"
        found = self.places.get(key)
        if found is None:
            data = _raw(tensor)
            found = self.places[key] = (self.weight_bytes, len(data))
            padding = -len(data) % _ALIGN
            self.weights += [data, b"\0" * padding]
            self.weight_bytes += len(data) + padding
        return found


def assemble(parsed: Parsed, interface: Interface, given: Mapping[str, str], command: str) -> Built:
    """Build header and partitions of a model."""
    types = frozenset(
        op.ge_type for op in parsed.operators if op.custom and op.ge_type.endswith("FlashAttention")
    )
    work = _Work(parsed, interface, given, types)
    root = _root_graph(work)
    graphs = [root, *work.graphs]
    work.tasks.append(Task(END_GRAPH))
    payload = _payload(work, command)
    tasks = TaskList(work.tasks, "", payload.work_size, payload.weight_size, streams=1)
    parts = [
        Part(layout.MODEL_INOUT_INFO, [_inout(interface).to_bytes()]),
        Part(layout.MODEL_DEF, [b""]),
        Part(layout.WEIGHTS_DATA, work.weights),
        Part(layout.TBE_KERNELS, [write_kernels(sorted(work.kernels.items()))]),
        Part(layout.TASK_INFO, [tasks.to_bytes()]),
        Part(PARTITION, [payload.to_bytes()]),
    ]
    sizes = [parts[2].size, parts[3].size, 0, parts[4].size, 0]
    attrs = _model_attrs(work, payload, command, sizes)
    name = Path(given["output"]).name
    compress = given.get("enable_attr_compression", "true") == "true"
    model = ModelDef(name, tuple(graphs), 2, attrs).to_bytes(compress)
    parts[1] = Part(layout.MODEL_DEF, [model])
    header = Header(
        0,
        name,
        user_info=MARK,
        platform="1.11.z.0",
        unknown_shape=interface.mode == "dynamic",
    )
    return Built(header, [p for p in parts if p.size], len(model), attrs)


# ---- graphs


def _root_graph(work: _Work) -> GraphDef:
    """Make the main graph; with gears it holds a Case and one graph a gear."""
    interface = work.interface
    ops = [_data(work, index, spec) for index, spec in enumerate(interface.inputs)]
    names = {spec.onnx_name: f"{spec.onnx_name}:0" for spec in interface.inputs}
    if interface.gears:
        hidden = TensorSpec(SHAPE_INPUT, SHAPE_INPUT, "int32", "int32", 3, 2, (4,), (), 16)
        ops.append(_data(work, len(ops), hidden))
        branches = [f"{SHAPE_INPUT}_branch_{index}" for index in range(len(interface.gears))]
        case = OpDef(
            "ascend_mbatch_case",
            "Case",
            (f"{SHAPE_INPUT}:0", *names.values()),
            work.take_id(),
            output_desc=tuple(_desc(spec) for spec in interface.outputs),
            subgraphs=tuple(branches),
            attrs={
                "_batch_num": len(interface.gears),
                "mbatch_dynamic_type": _DYNAMIC_TYPES[interface.mode],
                "user_designate_shape_order": list(interface.order),
                **{f"_pred_value_{i}": list(g) for i, g in enumerate(interface.gears)},
            },
        )
        ops.append(case)
        for index, name in enumerate(branches):
            suffix = f"_ascend_mbatch_batch_{index}"
            inner = _graph_ops(work, work.parsed.model.graph, dict(names), suffix)
            work.graphs.append(GraphDef(name, tuple(inner)))
        sources = [f"{case.name}:{index}" for index in range(len(interface.outputs))]
    else:
        ops += _graph_ops(work, work.parsed.model.graph, names, "")
        sources = [names.get(spec.onnx_name, "") for spec in interface.outputs]
    ops.append(
        OpDef(
            "Node_Output",
            "NetOutput",
            tuple(sources),
            work.take_id(),
            src_names=tuple(source.rpartition(":")[0] for source in sources),
            src_indexes=tuple(int(source.rpartition(":")[2] or 0) for source in sources),
            input_desc=tuple(_desc(spec) for spec in interface.outputs),
        )
    )
    return GraphDef(work.parsed.model.graph.name or "graph", tuple(ops))


def _data(work: _Work, index: int, spec: TensorSpec) -> OpDef:
    desc = _desc(spec)
    attrs: dict[str, Any] = {"index": index}
    if work.interface.gears and -1 in spec.dims:
        attrs["_mbatch_origin_input_dims"] = list(spec.dims)
    return OpDef(
        spec.onnx_name, "Data", (), work.take_id(), input_desc=(desc,), output_desc=(desc,),
        attrs=attrs,
    )  # fmt: skip


def _desc(spec: TensorSpec) -> TensorDesc:
    form = FORMATS.get(spec.acl_format, "ND")
    return TensorDesc("", PROTO_NUMBERS.get(spec.dtype, 0), spec.dims, form, spec.size)


def _graph_ops(
    work: _Work, graph: onnx.GraphProto, names: dict[str, str], suffix: str, scope: str = ""
) -> list[OpDef]:
    """Return the operators of a graph; ``names`` maps values to ``operator:index``."""
    ops = []
    for tensor in graph.initializer:
        ops.append(_constant(work, tensor, tensor.name + suffix, scope))
        names[tensor.name] = f"{tensor.name}{suffix}:0"
    for index, node in enumerate(graph.node):
        operator = _operator(work, graph, index, node)
        name = node.name + suffix
        for place, output in enumerate(node.output):
            names[output] = f"{name}:{place}"
        ops.append(_node(work, node, operator, name, names, suffix))
    return ops


def _operator(work: _Work, graph: onnx.GraphProto, index: int, node: onnx.NodeProto) -> Operator:
    if graph is work.parsed.model.graph:
        return work.parsed.operators[index]
    ours = next((op for op in work.parsed.operators if op.custom), None)
    if ours is None and node.op_type == "FlashAttention":
        return Operator("OmfuseFlashAttention", True)
    if ours is not None and node.op_type == "FlashAttention":
        return ours
    return Operator(GE_TYPES.get(node.op_type, node.op_type))


def _constant(work: _Work, tensor: onnx.TensorProto, name: str, scope: str) -> OpDef:
    dtype = dtype_name(tensor.data_type)
    dims = tuple(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        place = {entry.key: entry.value for entry in tensor.external_data}
        attrs = {
            "location": place.get("location", ""),
            "offset": int(place.get("offset", 0)),
            "length": int(place.get("length", 0)),
        }
        desc = TensorDesc("", PROTO_NUMBERS.get(dtype, 0), dims, "ND")
        return OpDef(name, "FileConstant", (), work.take_id(), output_desc=(desc,), attrs=attrs)
    offset, size = work.place_of(tensor, scope)
    desc = TensorDesc("", PROTO_NUMBERS.get(dtype, 0), dims, "ND", size, size, offset)
    return OpDef(name, "Const", (), work.take_id(), output_desc=(desc,))


def _raw(tensor: onnx.TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    if tensor.data_type == onnx.TensorProto.STRING:
        return b"\0".join(tensor.string_data)
    return bytes(numpy_helper.to_array(tensor).tobytes())


def _node(
    work: _Work,
    node: onnx.NodeProto,
    operator: Operator,
    name: str,
    names: Mapping[str, str],
    suffix: str,
) -> OpDef:
    op_id = work.take_id()
    inputs = tuple(names.get(source, "") for source in node.input if source)
    branches = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            branch = f"{name}_{attribute.name}"
            branches.append(branch)
            place = f"{node.name}.{attribute.name}"
            inner = _graph_ops(work, attribute.g, dict(names), suffix, place)
            work.graphs.append(GraphDef(branch, tuple(inner)))
    attrs: dict[str, Any] = {
        "_datadump_original_op_names": [node.name],
        "_engine_type": "AIcoreEngine",
    }
    descs_in = tuple(_value_desc(work.interface.values.get(n)) for n in node.input if n)
    descs_out = tuple(_value_desc(work.interface.values.get(n)) for n in node.output)
    if operator.ge_type != "Const" and not branches:
        kernel = _kernel_name(operator, descs_in)
        attrs |= {
            "_kernelname": kernel,
            "_is_custom_op": operator.custom,
            "tvm_blockdim": 1,
            "tvm_magic": "RT_DEV_BINARY_MAGIC_ELF",
        }
        work.kernels.setdefault(f"{kernel}0", _kernel_bytes(kernel))
        if "FlashAttention" in operator.ge_type:
            record = AttentionRecord(name, operator.ge_type, kernel, len(work.tasks), (node.name,))
            work.attention.append(record)
        work.tasks.append(Task(KERNEL, op_id, kernel, 1, 0, (op_id,)))
    return OpDef(
        name, operator.ge_type, inputs, op_id, input_desc=descs_in, output_desc=descs_out,
        subgraphs=tuple(branches), attrs=attrs,
    )  # fmt: skip


def _value_desc(value: Value | None) -> TensorDesc:
    if value is None or not value.elem_type:
        return TensorDesc()
    dims = tuple(-1 if size is None else size for size in value.dims or ())
    number = PROTO_NUMBERS.get(dtype_name(value.elem_type), 0)
    return TensorDesc("", number, dims, "ND")


def _kernel_name(operator: Operator, descs: Sequence[TensorDesc]) -> str:
    text = repr([(desc.dtype, desc.shape) for desc in descs])
    digest = hashlib.sha256(f"{operator.ge_type}{text}".encode()).hexdigest()
    return f"te_{operator.ge_type.lower()}_{digest}__kernel"


def _kernel_bytes(name: str) -> bytes:
    """Return a stand-in for a kernel: the head of an ELF for AI Core without any code."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, _AI_CORE)
    return head.ljust(64, b"\0") + f"simulated, no code: {name}".encode()


# ---- interface and payload


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


def _payload(work: _Work, command: str) -> Payload:
    parsed, interface, given = work.parsed, work.interface, work.given
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
        work.weight_bytes + sum(map(len, external.values())),
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


def _model_attrs(work: _Work, payload: Payload, command: str, sizes: list[int]) -> dict[str, Any]:
    given = work.given
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
