"""Precision presets: which flags, which operators are protected, and why.

Plain fp16 is ATC's default and what nearly every script in the field uses; it is also the first
cause of lost accuracy (softmax and norms overflow or lose digits).  FlashAttention itself keeps its
scores in fp32 inside the kernel whatever the preset says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from omfuse.atc.config import SocConfig
from omfuse.atc.constants import all_graphs
from omfuse.errors import UsageError

PRESETS = {
    "fp16": "fp16 everywhere, ATC's own default",
    "protected": "fp16, but unfused softmax and norms stay fp32",
    "mixed": "operators that ATC lists as safe go to fp16, the rest keeps its dtype",
    "cube": "fp16 into the cube unit, fp32 out of it, vector work in fp32",
    "bf16": "like mixed with bf16, for chips that have it",
    "origin": "the dtypes of the model; slow, for proving where accuracy is lost",
}
DEFAULT = "fp16"
_MODES = {
    "fp16": "force_fp16",
    "protected": "force_fp16",
    "mixed": "allow_mix_precision_fp16",
    "cube": "cube_fp16in_fp32out",
    "bf16": "allow_mix_precision_bf16",
    "origin": "must_keep_origin_dtype",
}
_NORMS = frozenset(
    ["LayerNormalization", "InstanceNormalization", "ReduceLogSumExp", "LpNormalization"]
)
_SOFTMAX = frozenset(["Softmax", "LogSoftmax"])
_SCORE_OPS = frozenset(["Add", "Sub", "Mul", "Div", "Where", "Cast", "Tanh", "Max", "Min"])
_SCORE_DEPTH = 6


@dataclass(frozen=True)
class PrecisionPlan:
    """Flags of a preset, files to write beside the model, sentences for the user."""

    flags: dict[str, str]
    reasons: list[str]
    files: dict[str, str] = field(default_factory=dict)  # flag -> content
    clamp: bool = True


def check_preset(name: str, soc: SocConfig) -> None:
    """Refuse an unknown preset or one that the chip lacks.

    Raises:
        UsageError: ``unknown-precision`` or ``no-bf16``.
    """
    if name not in PRESETS:
        raise UsageError(
            "unknown-precision",
            f"no precision {name!r}",
            where="--precision",
            hint="; ".join(f"{key}: {text}" for key, text in PRESETS.items()),
        )
    if name == "bf16" and not soc.bf16:
        raise UsageError(
            "no-bf16",
            f"{soc.name} has no bf16",
            where="--precision bf16",
            hint="use fp16, protected or mixed",
        )


def clamps_masks(name: str) -> bool:
    """Tell whether mask constants must survive fp16 under a preset."""
    return name in ("fp16", "protected", "mixed", "cube")


def plan_precision(name: str, form: onnx.ModelProto, soc: SocConfig) -> PrecisionPlan:
    """Turn a preset into flags; names of protected nodes come from the ATC form."""
    check_preset(name, soc)
    flags = {"precision_mode": _MODES[name]}
    reasons = [f"precision {name}: {PRESETS[name]}"]
    files: dict[str, str] = {}
    if name == "protected":
        guarded = list(dict.fromkeys(_guarded(form)))
        if guarded:
            files["keep_dtype"] = "\n".join(guarded) + "\n"
            reasons.append(
                f"{len(guarded)} nodes of unfused softmax and norms keep their dtype (keep_dtype): "
                "exponentials and sums of squares leave the range of fp16 first"
            )
        files["op_precision_mode"] = (
            "[ByOpType]\nSoftmaxV2=high_precision\nLayerNorm=high_precision\n"
        )
        reasons.append(
            "SoftmaxV2 and LayerNorm use their high precision kernels (op_precision_mode)"
        )
    if name == "origin":
        reasons.append("fp32 nodes need fp32 kernels: an operator that has none fails with EZ3003")
    return PrecisionPlan(flags, reasons, files, clamps_masks(name))


def write_files(plan: PrecisionPlan, folder: Path) -> dict[str, str]:
    """Write the plan's files and return all its flags."""
    flags = dict(plan.flags)
    for flag, content in plan.files.items():
        path = folder / f"{flag}.{'ini' if flag == 'op_precision_mode' else 'txt'}"
        path.write_text(content, "utf-8")
        flags[flag] = str(path)
    return flags


def _guarded(model: onnx.ModelProto) -> Iterator[str]:
    for graph in all_graphs(model.graph):
        producer = {o: n for n in graph.node for o in n.output if o}
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for source in node.input:
                readers[source].append(node)
        for node in graph.node:
            if node.op_type in _SOFTMAX:
                yield node.name
                yield from _scores(node, producer)
            elif node.op_type in _NORMS:
                yield node.name
            elif node.op_type == "ReduceMean":
                yield from _written_norm(node, producer, readers)


def _scores(softmax: onnx.NodeProto, producer: dict[str, onnx.NodeProto]) -> Iterator[str]:
    """Yield the scale, mask and cap nodes between the score product and its softmax."""
    level = [softmax]
    for _ in range(_SCORE_DEPTH):
        above = [
            producer[i]
            for node in level
            for i in node.input
            if i in producer and producer[i].op_type in _SCORE_OPS
        ]
        yield from (node.name for node in above)
        level = above


def _written_norm(
    mean: onnx.NodeProto,
    producer: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
) -> Iterator[str]:
    """Yield a norm written out: square, mean, epsilon, root."""
    square = producer.get(mean.input[0])
    if square is None or square.op_type not in ("Pow", "Mul"):
        return
    for added in readers[mean.output[0]]:
        roots = readers[added.output[0]] if added.op_type == "Add" else []
        for root in roots:
            if root.op_type in ("Sqrt", "Pow"):
                yield from (square.name, mean.name, added.name, root.name)
