"""The ATC form of a model: what ATC's parser of any CANN version accepts.

Made as the last step of a compile and never kept as the user's file: no functions, one
``opset_import``, our FlashAttention in the default domain, unique node names, an opset that the
shipped parsers list, mask constants that survive fp16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import helper, inliner, shape_inference

from omfuse.atc.config import SocConfig
from omfuse.atc.constants import all_graphs, known_dtypes
from omfuse.atc.form import attention as fused
from omfuse.atc.form import builtin, casts, masks, names
from omfuse.atc.form.builtin_nodes import BUILTIN_TYPES
from omfuse.atc.form.opset import lower_opset, model_opset
from omfuse.errors import ModelError, UsageError
from omfuse.fuse.contract import DOMAIN, OP_TYPE, is_flash_attention

_SUBGRAPH_OPS = frozenset(["Loop", "Scan", "SequenceMap"])


@dataclass(frozen=True)
class FormOptions:
    """How to make the form.

    Attributes:
        attention: ``custom``, ``prompt-flash`` or ``score``.
        opset: version to lower to, 0 to keep the model's own, None to let omfuse choose.
        mask_fill: value for mask constants that overflow fp16, None to leave them.
        keep_domains: foreign domains for which the user has parser plug-ins.
        shapes: fixed input shapes, empty when some dim stays open.
        keep_dtypes: ATC will insert no casts, so those around our attention are written here.
    """

    attention: str = "custom"
    opset: int | None = None
    mask_fill: float | None = masks.DEFAULT_FILL
    keep_domains: tuple[str, ...] = ()
    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    keep_dtypes: bool = False


@dataclass
class AtcForm:
    """The form and what was done: ``notes`` for the user, ``attention`` node names."""

    model: onnx.ModelProto
    opset: int
    attention: list[str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_form(
    model: onnx.ModelProto, options: FormOptions, soc: SocConfig, folder: Path | None = None
) -> AtcForm:
    """Make the ATC form; ``model`` is not changed.

    Args:
        model: a model, usually one that `omfuse rewrite` wrote; external data may stay unread.
        options: how to make it.
        soc: the target, for the limits of built-in attention.
        folder: folder of the external data.

    Raises:
        ModelError: ``no-input``, ``foreign-domain``, ``unsupported-dtype``.
        UsageError: ``attention-limit``, ``opset-not-lowered``, ``unknown-attention``.
    """
    if options.attention not in fused.CHOICES:
        raise UsageError(
            "unknown-attention",
            f"no attention {options.attention!r}",
            where="--attention",
            hint=f"use one of {', '.join(fused.CHOICES)}",
        )
    work = onnx.ModelProto()
    work.CopyFrom(model)
    notes: list[str] = []
    work = _inline(work, notes)
    names.drop_initializer_inputs(work)
    _check_interface(work)
    _check_dtypes(work)
    _set_shapes(work, options.shapes)
    work = _infer(work, notes)
    work = _lower(work, options, notes)
    names.settle_names(work)
    if options.attention == "custom":
        fused.to_custom(work)
        cast = casts.cast_attention(work, soc) if options.keep_dtypes else 0
        if cast:
            notes.append(
                f"{cast} FlashAttention nodes get their operands cast to fp16: the kernel has no "
                "other dtype here, and this precision mode inserts no casts"
            )
    else:
        builtin.to_builtin(work, options.attention, soc)
    _settle_domains(work, options, notes)
    if options.mask_fill is not None:
        clamped = masks.clamp_masks(work, options.mask_fill, folder)
        notes += [
            f"mask constant {c.name}: {c.lowest:.4g} became {c.fill:g}, {_sums(c.fill)}"
            for c in clamped[:5]
        ]
    if len(work.graph.node) and names.settle_outputs(work):
        notes.append("unnamed outputs were stripped or named")
    names.settle_names(work)
    names.drop_dead(work)
    del work.functions[:]
    for graph in all_graphs(work.graph):
        del graph.value_info[:]
    attention = fused.attention_nodes(work, options.attention)
    warnings = _warnings(work, soc)
    if attention and options.attention != "custom" and "warning" in soc.attention:
        warnings.append(str(soc.attention["warning"]))
    return AtcForm(work, model_opset(work), attention, notes, warnings)


def _sums(fill: float) -> str:
    if 2 * fill < masks.FP16_LOWEST:
        return "but two of them add up to -inf in fp16"
    return "which survives fp16 sums"


def _inline(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    foreign = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, OP_TYPE)]
    if not foreign:
        return model
    notes.append(f"{len(foreign)} local functions inlined; ATC never reads them")
    return inliner.inline_selected_functions(model, [(DOMAIN, OP_TYPE)], exclude=True)


def _check_interface(model: onnx.ModelProto) -> None:
    for what, items in (("input", model.graph.input), ("output", model.graph.output)):
        if not items:
            raise ModelError(
                f"no-{what}",
                f"the model has no {what} (ATC E16001)",
                hint=f"export it with at least one real {what}",
            )


def _check_dtypes(model: onnx.ModelProto) -> None:
    for info in (*model.graph.input, *model.graph.output):
        if info.type.WhichOneof("value") not in (None, "tensor_type"):
            kind = str(info.type.WhichOneof("value")).partition("_")[0]
            raise ModelError(
                "unsupported-dtype",
                f"it is a {kind}, and ATC's parser reads tensors only (ATC E19999)",
                where=info.name,
                hint="export the model with one tensor for each part",
            )
        dtype = info.type.tensor_type.elem_type
        if dtype in _ODD_TYPES:
            raise ModelError(
                "unsupported-dtype",
                f"ATC's parser does not read {onnx.TensorProto.DataType.Name(dtype)} (ATC E19999)",
                where=info.name,
                hint="cast it inside the model, and take or give another dtype",
            )


def _set_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | None]]) -> None:
    for info in model.graph.input:
        dims = shapes.get(info.name)
        if dims is None or not info.type.HasField("tensor_type"):
            continue
        for dim, size in zip(info.type.tensor_type.shape.dim, dims, strict=False):
            if size is not None:
                dim.dim_value = size
    if shapes:
        # Shapes written for open dims would contradict the fixed ones.
        for graph in all_graphs(model.graph):
            del graph.value_info[:]
        for info in model.graph.output:
            for dim in info.type.tensor_type.shape.dim:
                if dim.HasField("dim_param"):
                    dim.ClearField("dim_param")


def _infer(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        notes.append(f"shapes could not be inferred: {str(error).splitlines()[0][:120]}")
        return model


def _lower(model: onnx.ModelProto, options: FormOptions, notes: list[str]) -> onnx.ModelProto:
    if options.opset == 0:
        return model
    lowered, report = lower_opset(model, options.opset)
    if report.target != report.source:
        changed = ", ".join(f"{name} {n}" for name, n in sorted(report.changed.items()))
        notes.append(
            f"opset {report.source} lowered to {report.target}, which shipped parsers list"
            + (f"; rewritten: {changed}" if changed else "")
        )
    if options.opset and report.target > options.opset:
        raise UsageError(
            "opset-not-lowered",
            f"opset {report.source} cannot become {options.opset}: {'; '.join(report.blocked[:4])}",
            where="--opset",
            hint="leave --opset out to take the lowest possible",
        )
    if options.opset and options.opset > report.source:
        notes.append(f"the model is of opset {report.source}; --opset only lowers")
    if report.blocked:
        notes.append(f"not lower because of {'; '.join(report.blocked[:3])}")
    return lowered


def _settle_domains(model: onnx.ModelProto, options: FormOptions, notes: list[str]) -> None:
    foreign = fused.domains_in_use(model)
    unwanted = {d: t for d, t in foreign.items() if d not in options.keep_domains}
    if unwanted:
        listed = "; ".join(f"{d}: {', '.join(types)}" for d, types in unwanted.items())
        raise ModelError(
            "foreign-domain",
            f"ATC has no parser for operators of {listed} (ATC E13010)",
            hint="export without runtime optimisation (com.microsoft comes from onnxruntime), or "
            "name the domain with --keep-domain when you have a plug-in for it",
        )
    version = model_opset(model)
    imported = {o.domain: o.version for o in model.opset_import}
    keys = builtin.BUILTIN_OPSETS.get(options.attention)
    spelled = bool(foreign) or (keys is not None and version not in keys)
    if not spelled:
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", version))
        return
    # Several imports work on old parsers only when every domain is written out.
    wanted = {"ai.onnx": version, **{d: imported.get(d, 1) for d in foreign}}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.op_type == BUILTIN_TYPES.get(options.attention):
                node.domain = builtin.BUILTIN_DOMAIN
                wanted.setdefault(builtin.BUILTIN_DOMAIN, 1)
            elif node.domain == "":
                node.domain = "ai.onnx"
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(d, v) for d, v in wanted.items())
    notes.append(f"domains written out: {', '.join(f'{d} {v}' for d, v in wanted.items())}")


def _warnings(model: onnx.ModelProto, soc: SocConfig) -> list[str]:
    found = []
    types = {n.op_type for g in all_graphs(model.graph) for n in g.node}
    for name in sorted(types & _SUBGRAPH_OPS):
        found.append(f"{name} has no parser in ATC (E13010): unroll it at export")
    fused_types = {OP_TYPE, *BUILTIN_TYPES.values()}
    if soc.attention["custom"] and "Softmax" in types and not types & fused_types:
        found.append("no FlashAttention in this model; `omfuse rewrite` fuses attention first")
    odd = sorted(
        {
            onnx.TensorProto.DataType.Name(t.data_type)
            for g in all_graphs(model.graph)
            for t in g.initializer
            if t.data_type in _ODD_TYPES
        }
    )
    if odd:
        found.append(f"ATC's parser does not read {', '.join(odd)}")
    if not soc.bf16 and onnx.TensorProto.BFLOAT16 in known_dtypes(model).values():
        found.append(f"the model holds bf16, which {soc.name} has not: export it in fp16 or fp32")
    return found


_ODD_TYPES = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "UINT4", "FLOAT4E2M1")
    if hasattr(onnx.TensorProto, name)
)


def count_attention(model: onnx.ModelProto) -> int:
    """Count the FlashAttention nodes of a rewritten model, in all graphs and functions."""
    nodes = [n for g in all_graphs(model.graph) for n in g.node]
    nodes += [n for f in model.functions for n in f.node]
    return sum(is_flash_attention(n) for n in nodes)
