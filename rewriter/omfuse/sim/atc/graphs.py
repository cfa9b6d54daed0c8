"""Turn the model into graphs of the graph engine, with a task and a kernel for each operator.

With gears the main graph holds a Case and one graph a gear, as in files of ATC.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from omfuse.atc.om.inout import FORMATS
from omfuse.atc.om.model_def import PROTO_NUMBERS, GraphDef, OpDef, TensorDesc
from omfuse.atc.om.summary import SHAPE_INPUT
from omfuse.atc.om.tasks import END_GRAPH, KERNEL, Task
from omfuse.host.site import Value
from omfuse.sim.atc.interface import Interface, dtype_name
from omfuse.sim.atc.onnx_parser import Parsed
from omfuse.sim.atc.plugins import Operator
from omfuse.sim.atc.weights import Weights
from omfuse.sim.payload import AttentionRecord, TensorSpec

GEAR_SUFFIX = "_ascend_mbatch_batch_"
_DYNAMIC_TYPES = {"batch": 1, "image": 2, "dims": 3}
_AI_CORE = 0x1029


@dataclass
class Graphs:
    """Builds the graphs of one model.

    Attributes:
        graphs: the main graph first, filled by :meth:`build`.
        tasks: in the order of execution.
        kernels: name in the store -> bytes.
        attention: each fused attention once, whatever the number of gears.
    """

    parsed: Parsed
    interface: Interface
    weights: Weights
    graphs: list[GraphDef] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    kernels: dict[str, bytes] = field(default_factory=dict)
    attention: list[AttentionRecord] = field(default_factory=list)
    _next_id: int = 0

    def build(self) -> None:
        """Build everything; call once."""
        graph, interface = self.parsed.model.graph, self.interface
        ops = [self._data(index, spec) for index, spec in enumerate(interface.inputs)]
        names = {spec.onnx_name: f"{spec.onnx_name}:0" for spec in interface.inputs}
        if interface.gears:
            case = self._case(ops, names)
            sources = [f"{case.name}:{index}" for index in range(len(interface.outputs))]
        else:
            ops += self._graph(graph, names, "", "")
            sources = [names.get(spec.onnx_name, "") for spec in interface.outputs]
        ops.append(
            OpDef(
                "Node_Output",
                "NetOutput",
                tuple(sources),
                self._take_id(),
                src_names=tuple(source.rpartition(":")[0] for source in sources),
                src_indexes=tuple(int(source.rpartition(":")[2] or 0) for source in sources),
                input_desc=tuple(map(_interface_desc, interface.outputs)),
            )
        )
        self.graphs.insert(0, GraphDef(graph.name or "graph", tuple(ops)))
        self.tasks.append(Task(END_GRAPH))
        self.weights.close()

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _case(self, ops: list[OpDef], names: Mapping[str, str]) -> OpDef:
        """Add the hidden input and the choice between the gears."""
        gears = self.interface.gears
        hidden = TensorSpec(SHAPE_INPUT, SHAPE_INPUT, "int32", "int32", 3, 2, (4,), (), 16)
        ops.append(self._data(len(ops), hidden))
        branches = [f"{SHAPE_INPUT}_branch_{index}" for index in range(len(gears))]
        case = OpDef(
            "ascend_mbatch_case",
            "Case",
            (f"{SHAPE_INPUT}:0", *names.values()),
            self._take_id(),
            output_desc=tuple(map(_interface_desc, self.interface.outputs)),
            subgraphs=tuple(branches),
            attrs={
                "_batch_num": len(gears),
                "mbatch_dynamic_type": _DYNAMIC_TYPES[self.interface.mode],
                "user_designate_shape_order": list(self.interface.order),
                **{f"_pred_value_{index}": list(gear) for index, gear in enumerate(gears)},
            },
        )
        ops.append(case)
        for index, name in enumerate(branches):
            graph, suffix = self.parsed.model.graph, f"{GEAR_SUFFIX}{index}"
            self.graphs.append(GraphDef(name, tuple(self._graph(graph, dict(names), suffix, ""))))
        return case

    def _data(self, index: int, spec: TensorSpec) -> OpDef:
        desc = _interface_desc(spec)
        attrs: dict[str, Any] = {"index": index}
        if self.interface.gears and -1 in spec.dims:
            attrs["_mbatch_origin_input_dims"] = list(spec.dims)
        name, op_id = spec.onnx_name, self._take_id()
        return OpDef(name, "Data", (), op_id, input_desc=(desc,), output_desc=(desc,), attrs=attrs)

    def _graph(
        self, graph: onnx.GraphProto, names: dict[str, str], suffix: str, scope: str
    ) -> list[OpDef]:
        """Return the operators of a graph; ``names`` maps values to ``operator:index``."""
        ops = []
        for tensor in graph.initializer:
            name = tensor.name + suffix
            ops.append(self.weights.operator(tensor, name, scope, self._take_id()))
            names[tensor.name] = f"{name}:0"
        for node in graph.node:
            name = node.name + suffix
            for place, output in enumerate(node.output):
                names[output] = f"{name}:{place}"
            ops.append(self._node(node, name, names, suffix))
        return ops

    def _node(
        self, node: onnx.NodeProto, name: str, names: Mapping[str, str], suffix: str
    ) -> OpDef:
        operator, op_id = self.parsed.operator(node), self._take_id()
        branches = []
        for attribute in node.attribute:
            if attribute.HasField("g"):
                branches.append(f"{name}_{attribute.name}")
                scope = f"{node.name}.{attribute.name}"
                inner = self._graph(attribute.g, dict(names), suffix, scope)
                self.graphs.append(GraphDef(branches[-1], tuple(inner)))
        descs_in = tuple(self._desc(source) for source in node.input if source)
        attrs: dict[str, Any] = {
            "_datadump_original_op_names": [node.name],
            "_engine_type": "AIcoreEngine",
        }
        if operator.ge_type != "Const" and not branches:
            attrs |= self._task(node, operator, op_id, descs_in)
        return OpDef(
            name,
            operator.ge_type,
            tuple(names.get(source, "") for source in node.input if source),
            op_id,
            input_desc=descs_in,
            output_desc=tuple(map(self._desc, node.output)),
            subgraphs=tuple(branches),
            attrs=attrs,
        )

    def _task(
        self, node: onnx.NodeProto, operator: Operator, op_id: int, descs: Sequence[TensorDesc]
    ) -> dict[str, Any]:
        """Add task and kernel of an operator and return the attributes that point at them."""
        kernel = _kernel_name(operator, descs)
        self.kernels.setdefault(f"{kernel}0", _kernel_bytes(kernel))
        known = {record.node for record in self.attention}
        if "FlashAttention" in operator.ge_type and node.name not in known:
            place = len(self.tasks)
            record = AttentionRecord(node.name, operator.ge_type, kernel, place, (node.name,))
            self.attention.append(record)
        self.tasks.append(Task(KERNEL, op_id, kernel, 1, 0, (op_id,)))
        return {
            "_kernelname": kernel,
            "_is_custom_op": operator.custom,
            "tvm_blockdim": 1,
            "tvm_magic": "RT_DEV_BINARY_MAGIC_ELF",
        }

    def _desc(self, name: str) -> TensorDesc:
        value = self.interface.values.get(name, Value())
        if not value.elem_type:
            return TensorDesc()
        dims = tuple(-1 if size is None else size for size in value.dims or ())
        return TensorDesc("", PROTO_NUMBERS.get(dtype_name(value.elem_type), 0), dims, "ND")


def _interface_desc(spec: TensorSpec) -> TensorDesc:
    form = FORMATS.get(spec.acl_format, "ND")
    return TensorDesc("", PROTO_NUMBERS.get(spec.dtype, 0), spec.dims, form, spec.size)


def _kernel_name(operator: Operator, descs: Sequence[TensorDesc]) -> str:
    text = repr([(desc.dtype, desc.shape) for desc in descs])
    digest = hashlib.sha256(f"{operator.ge_type}{text}".encode()).hexdigest()
    return f"te_{operator.ge_type.lower()}_{digest}__kernel"


def _kernel_bytes(name: str) -> bytes:
    """Return a stand-in for a kernel: the head of an ELF for AI Core without any code."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, _AI_CORE)
    return head.ljust(64, b"\0") + f"simulated, no code: {name}".encode()
