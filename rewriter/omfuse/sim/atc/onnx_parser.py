"""Read the ONNX file by the rules of ATC's parser: keys, names, interface, attributes, kernels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from omfuse.atc.config import SocConfig
from omfuse.errors import OmfuseError
from omfuse.fuse.contract import OP_TYPE, attrs_from_mapping
from omfuse.host.shapes import graphs
from omfuse.sim.atc.failure import AtcFailure, Message
from omfuse.sim.atc.plugins import Operator, Registry

_SIZE_LIMIT = 2**31 - 1
_EXEMPT = ("Input", "Constant", "FileConstant")
_BAD_DTYPES = ("FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "UINT4", "UNDEFINED")
_CONSTANT = Operator("Const")
_SHORT = 100  # characters of a name in a message


@dataclass
class Parsed:
    """A model that the parser accepts.

    Attributes:
        model: as it is in the file; external data unread.
        operators: what each domain and type of the model is.
        inputs: dims of the real inputs, -1 where open.
        folder: of the model and its external data.
    """

    model: onnx.ModelProto
    operators: dict[tuple[str, str], Operator]
    inputs: dict[str, tuple[int, ...]]
    folder: Path
    names: set[str] = field(default_factory=set)

    def operator(self, node: onnx.NodeProto) -> Operator:
        """Return what a node of any graph is; constants need no parser."""
        return self.operators.get((node.domain, node.op_type), _CONSTANT)


def failure(code: str, text: str) -> AtcFailure:
    """Return a failure after the work began."""
    return AtcFailure([Message(code, text)], started=True)


def inner(text: str) -> AtcFailure:
    """Return an inner error."""
    return failure("E19999", text)


def parse(path: Path, registry: Registry, new_parser: bool, report: Path) -> Parsed:
    """Read and check a model.

    Args:
        path: the ``.onnx`` file.
        registry: known operators.
        new_parser: look keys up as parsers since July 2026 do.
        report: where check_result.json goes when an operator is unknown.

    Raises:
        AtcFailure: by the rules of the parser.
    """
    model = _load(path)
    _name_nodes(model)
    _check_interface(model)
    _precheck(model, registry, new_parser, report)
    operators: dict[tuple[str, str], Operator] = {}
    for graph in graphs(model.graph):
        _check_weights(graph, path.parent)
        for node in graph.node:
            operator = registry.keys.get(_key(node, model, new_parser), _CONSTANT)
            operators[node.domain, node.op_type] = operator
            if not operator.has_proto:
                raise failure(
                    "E10501",
                    f"IR for Op [{node.name}], optype [{operator.ge_type}], is not registered.",
                )
            _check_attributes(node, operator)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {v.name: dims_of(v) for v in model.graph.input if v.name not in weights}
    names = {n.name for n in model.graph.node} | weights
    return Parsed(model, operators, inputs, path.parent, names)


def dims_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the dims of a value, -1 where open."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else -1
        for dim in value.type.tensor_type.shape.dim
    )


def _load(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if not 0 < size <= _SIZE_LIMIT:
        raise failure("E13015", f"File [{path}] size [{size}] is out of the range (0, 2147483647].")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise failure("E13005", f"Failed to parse file [{path}]: {type(error).__name__}") from None
    if not model.HasField("graph") or not model.graph.node:
        raise failure("E16004", f"Model [{path}] has no graph.")
    return model


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name what has no name, then refuse names that stand twice."""
    for graph in graphs(model.graph):
        for index, node in enumerate(graph.node):
            if not node.name:
                node.name = f"{node.op_type}_{index}"
    counts = Counter(node.name for node in model.graph.node)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        messages = [
            Message("E13009", f"Op name [{name[:_SHORT]}] is duplicated.") for name in twice
        ]
        raise AtcFailure(messages, started=True)


def _check_interface(model: onnx.ModelProto) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    for what, values in (
        ("input", [v for v in model.graph.input if v.name not in weights]),
        ("output", list(model.graph.output)),
    ):
        if not values:
            raise failure("E16001", f"The model has no {what} node.")
        for value in values:
            kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            if kind in _BAD_DTYPES and what == "input":
                raise inner(f"dtype {kind} of {value.name} is not supported")


def _versions(model: onnx.ModelProto, new_parser: bool) -> dict[str, int]:
    if new_parser:
        return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return {entry.domain: entry.version for entry in model.opset_import}


def _key(node: onnx.NodeProto, model: onnx.ModelProto, new_parser: bool) -> str:
    """Return ``domain::version::type``, empty for an operator that needs no parser."""
    if node.op_type in _EXEMPT:
        return ""
    versions = _versions(model, new_parser)
    domain = node.domain
    if new_parser:
        domain = domain or "ai.onnx"
    elif not domain:
        if len(versions) != 1:
            raise failure(
                "E16005", f"The model has [{len(versions)}] domains, only 1 is supported."
            )
        only = next(iter(versions))
        return f"{only or 'ai.onnx'}::{versions[only]}::{node.op_type}"
    if domain not in versions:
        raise inner(f"The opset of domain[{domain}] has no responding version.")
    return f"{domain}::{versions[domain]}::{node.op_type}"


def _precheck(model: onnx.ModelProto, registry: Registry, new_parser: bool, report: Path) -> None:
    """Look up every operator of the root graph, then of the bodies of If."""
    for graph in graphs(model.graph):
        unknown = []
        for node in graph.node:
            key = _key(node, model, new_parser)
            if key and key not in registry.keys:
                unknown.append((node.name, key))
        if unknown:
            _write_report(report, graph, model, new_parser, dict(unknown))
            raise AtcFailure(
                [
                    Message(
                        "E13010",
                        f"No parser is registered for Op [{name}, optype [{key}]].",
                        cause="The operator is not supported, or its plug-in is not installed.",
                        solution="Check the version of the installation package, or install the "
                        "plug-in of the operator.",
                    )
                    for name, key in unknown
                ],
                started=True,
            )


def _write_report(
    report: Path,
    graph: onnx.GraphProto,
    model: onnx.ModelProto,
    new_parser: bool,
    unknown: Mapping[str, str],
) -> None:
    report.write_text(
        json.dumps(check_report(graph, model, new_parser, unknown), indent=2), "utf-8"
    )


def check_report(
    graph: onnx.GraphProto, model: onnx.ModelProto, new_parser: bool, unknown: Mapping[str, str]
) -> dict[str, object]:
    """Return the content of check_result.json."""
    cause = [{"code": 1, "message": "The type is not supported."}]
    operators = []
    for node in graph.node:
        entry: dict[str, object] = {
            "name": node.name,
            "type": _key(node, model, new_parser) or node.op_type,
            "result": "failed" if node.name in unknown else "success",
        }
        if node.name in unknown:
            entry["cause"] = cause
        operators.append(entry)
    return {
        "name": graph.name,
        "result": "failed" if unknown else "success",
        "total": len(operators),
        "pass": len(operators) - len(unknown),
        "fail": len(unknown),
        "op": operators,
    }


def _check_weights(graph: onnx.GraphProto, folder: Path) -> None:
    """Look for external data where the parser does: beside the model."""
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind in _BAD_DTYPES:
            raise inner(f"dtype {kind} of {tensor.name} is not supported")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = {e.key: e.value for e in tensor.external_data}.get("location", "")
            if not (folder / location).is_file():
                raise failure("E13000", f"Path [{folder / location}] is invalid: not found.")


def _check_attributes(node: onnx.NodeProto, operator: Operator) -> None:
    """Parse the parameters of our node as its plug-in does: a missing one is an error."""
    if node.op_type != OP_TYPE or not operator.custom:
        return
    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    exact = found.pop("scale_value", None)
    try:
        if exact is None:
            raise OmfuseError("bad-attribute", "missing scale_value")
        attrs_from_mapping(found, where=node.name)
    except (OmfuseError, TypeError, ValueError) as error:
        raise failure(
            "E11010", f"Parse params failed for op [{node.name}], optype [{node.op_type}]: {error}"
        ) from None


def check_kernels(
    parsed: Parsed, soc: SocConfig, dtypes: Mapping[str, str], precision: str
) -> None:
    """Refuse operators without a kernel for the chip, or without one for their dtype.

    Args:
        parsed: the model.
        soc: the target.
        dtypes: dtype of each value as far as known.
        precision: precision mode in force; only the ones that keep dtypes can fail here.

    Raises:
        AtcFailure: EZ3003 with EZ3002.
    """
    keeps = precision in ("must_keep_origin_dtype", "origin")
    for node in (node for graph in graphs(parsed.model.graph) for node in graph.node):
        operator = parsed.operator(node)
        if operator.dtypes is None:
            continue
        kernels = operator.dtypes.get(soc.short)
        if kernels is None:
            raise _no_kernel(node.name, operator, f"there is no kernel for {soc.short}")
        dtype = {"float32": "float"}.get(dtypes.get(node.input[0], ""), dtypes.get(node.input[0]))
        if keeps and kernels and dtype and dtype not in kernels:
            raise _no_kernel(node.name, operator, f"dtype {dtype} is not in {list(kernels)}")


def _no_kernel(name: str, operator: Operator, why: str) -> AtcFailure:
    return AtcFailure(
        [
            Message(
                "EZ3003",
                f"No supported Ops kernel and engine are found for [{name}], optype "
                f"[{operator.ge_type}].",
                solution="Check whether the operator is supported on this chip.",
            ),
            Message(
                "EZ3002",
                f"Optype [{operator.ge_type}] of Ops kernel [AIcoreEngine] is unsupported. "
                f"Reason: {why}.",
            ),
        ],
        started=True,
    )
