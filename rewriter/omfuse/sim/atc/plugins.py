"""Where ATC finds operators: packages of vendors first, then its own.

What ATC's own parser plug-ins list is not public; here they list every operator of ONNX in its
versions 8 to 18 (the newer parsers 11 to 19 too), without those that ATC is known to lack, and the
attention plug-ins that are public.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from omfuse.atc.op_package import missing_libraries
from omfuse.sim.package import LIBRARY_MARK

_KEY = re.compile(rb"[A-Za-z0-9_.\-]+::\d+::\w+")
_ABI_MIN, _ABI_MAX = (6, 3), (7, 7)
# Operators without an adapter in ATC, whatever their version.
_LACKING = frozenset(
    """Loop Scan SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength SequenceMap SplitToSequence ConcatFromSequence Optional OptionalGetElement
    OptionalHasElement StringConcat StringNormalizer StringSplit RegexFullMatch ImageDecoder
    Attention RotaryEmbedding FlexAttention LinearAttention TensorScatter CausalConvWithState
    DeformConv""".split()
)
_PROMPT = frozenset(["ascend310p", "ascend910b", "ascend910_93"])
_SCORE = frozenset(["ascend910b", "ascend910_93"])
# ONNX type -> GE type, versions of ai.onnx, families that have the kernel.
_ATTENTION = {
    "NPUPromptFlashAttention": ("PromptFlashAttention", (*range(11, 17), 19), _PROMPT),
    "NPUIncreFlashAttention": ("IncreFlashAttention", (*range(11, 17), 19), _PROMPT),
    "NPUFlashAttention": ("FlashAttentionScore", tuple(range(11, 19)), _SCORE),
}


@dataclass(frozen=True)
class Operator:
    """How one ONNX key is understood.

    Attributes:
        ge_type: operator of the graph engine.
        custom: from a vendor's package.
        has_proto: whether its definition (IR) is there.
        dtypes: dtypes of its kernel by family of chips; None when every chip has it.
    """

    ge_type: str
    custom: bool = False
    has_proto: bool = True
    dtypes: Mapping[str, tuple[str, ...]] | None = None


@dataclass
class Registry:
    """Every key that is known, and warnings that ATC only writes to its log."""

    keys: dict[str, Operator] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


def load_registry(env: Mapping[str, str], new_parser: bool) -> Registry:
    """Load packages in ATC's order; the first registration keeps a key."""
    registry = Registry()
    for root in _roots(env):
        _load_package(root, registry, env)
    for key, operator in _builtin(new_parser).items():
        registry.keys.setdefault(key, operator)
    return registry


def _roots(env: Mapping[str, str]) -> Iterator[Path]:
    for entry in env.get("ASCEND_CUSTOM_OPP_PATH", "").split(":"):
        if entry and Path(entry).is_dir():
            yield Path(entry)
    opp = env.get("ASCEND_OPP_PATH")
    if not opp:
        return
    config = Path(opp) / "vendors" / "config.ini"
    if not config.is_file():
        yield Path(opp)  # the old layout: framework/custom
        return
    lines = config.read_text("utf-8", errors="replace").splitlines()
    _, _, order = (lines[0] if lines else "").partition("=")
    for vendor in filter(None, (name.strip() for name in order.split(","))):
        if (config.parent / vendor).is_dir():
            yield config.parent / vendor


def _load_package(root: Path, registry: Registry, env: Mapping[str, str]) -> None:
    if not _version_fits(root):
        registry.log.append(f"[WARNING] GE: skip {root}: its compiler_version does not fit")
        return
    libraries = sorted((root / "framework").rglob("*.so"))
    libraries.sort(key=lambda path: path.name.endswith("_legacy.so"))
    described = _described(root)
    protos = b"".join(path.read_bytes() for path in (root / "op_proto").rglob("*.so"))
    for path in libraries:
        data = path.read_bytes()
        if not data.startswith((LIBRARY_MARK, b"\x7fELF")):
            registry.log.append(f"[WARNING] GE: dlopen {path} failed: invalid ELF header")
            continue
        missing = [] if data.startswith(LIBRARY_MARK) else missing_libraries(path, env)
        if missing:
            registry.log.append(f"[WARNING] GE: dlopen {path} failed: no {', '.join(missing)}")
            continue
        for raw in dict.fromkeys(_KEY.findall(data)):
            key = raw.decode()
            operator = _custom(key, data, described, protos)
            registry.keys.setdefault(key, operator)


def _custom(
    key: str, data: bytes, described: Mapping[str, dict[str, tuple[str, ...]]], protos: bytes
) -> Operator:
    short = key.split("::")[-1]
    named = [n for n in described if n.endswith(short) and n.encode() in data]
    ge_type = max(named, key=len, default=short)
    if not named:
        match = re.search(rb"\b(\w*" + re.escape(short.encode()) + rb")\n", data)
        ge_type = match[1].decode() if match else short
    return Operator(ge_type, True, ge_type.encode() in protos, described.get(ge_type, {}))


def _version_fits(root: Path) -> bool:
    path = root / "version.info"
    if not path.is_file():
        return True
    match = re.search(r"compiler_version=(\d+)\.(\d+)", path.read_text("utf-8", errors="replace"))
    return match is None or _ABI_MIN <= (int(match[1]), int(match[2])) <= _ABI_MAX


def _described(root: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return operator -> family of chips -> dtypes of the first input."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for path in sorted((root / "op_impl/ai_core/tbe/config").glob("*/aic-*-ops-info.json")):
        try:
            document = json.loads(path.read_text("utf-8"))
        except ValueError:
            continue
        for name, info in document.items() if isinstance(document, dict) else ():
            first = info.get("input0", {}) if isinstance(info, dict) else {}
            dtypes = first.get("dtype", "") if isinstance(first, dict) else ""
            words = tuple(dict.fromkeys(w.strip() for w in str(dtypes).split(",") if w.strip()))
            found.setdefault(name, {})[path.parent.name] = words
    return found


@lru_cache(maxsize=2)
def _builtin(new_parser: bool) -> Mapping[str, Operator]:
    from onnx import defs

    types = {s.name for s in defs.get_all_schemas_with_history() if s.domain == ""} - _LACKING
    found = {}
    for version in range(8, 20 if new_parser else 19):
        for name in types:
            if defs.has(name, version, ""):
                found[f"ai.onnx::{version}::{name}"] = Operator(GE_TYPES.get(name, name))
    for name, (ge_type, versions, families) in _ATTENTION.items():
        kernels = dict.fromkeys(families, ("float16",))
        for key in ["npu::1", *(f"ai.onnx::{version}" for version in versions)]:
            found[f"{key}::{name}"] = Operator(ge_type, dtypes=kernels)
    return found


GE_TYPES = {
    "BatchNormalization": "BNInference",
    "Concat": "ConcatD",
    "Constant": "Const",
    "Conv": "Conv2D",
    "Div": "RealDiv",
    "Gather": "GatherV2",
    "Gemm": "MatMulV2",
    "Identity": "Identity",
    "LayerNormalization": "LayerNorm",
    "MatMul": "BatchMatMulV2",
    "MaxPool": "MaxPoolV3",
    "ReduceMean": "ReduceMeanD",
    "Slice": "StridedSliceD",
    "Softmax": "SoftmaxV2",
    "Split": "SplitD",
    "Transpose": "TransposeD",
    "Where": "SelectV2",
}
