"""The files ATC leaves in its folder: check_result.json and fusion_result.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEY = re.compile(r"(?P<domain>[\w.\-]+)::(?P<version>\d+)::(?P<type>\w+)\Z")
_OLDEST_OPSET = 8
_DEPTH = 6  # of the lists in fusion_result.json, more than any release writes
_ATTENTION_PASS = re.compile(r"attention|softmax", re.I)


@dataclass(frozen=True)
class Unsupported:
    """One operator key without a parser: ``ai.onnx::20::Gelu``, and the nodes that use it."""

    key: str
    op_type: str
    version: int | None
    nodes: tuple[str, ...]
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"key": self.key, "nodes": list(self.nodes), "advice": self.advice}


@dataclass(frozen=True)
class FusionPass:
    """How often a pass of ATC matched and took effect."""

    name: str
    graph: str
    matched: int
    applied: int


def read_json(path: Path) -> Any:
    """Read a JSON file, None when it is missing or not JSON."""
    try:
        return json.loads(path.read_text("utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None


def read_check_result(path: Path, default_opset: int | None = None) -> list[Unsupported]:
    """Read check_result.json and group its failed operators by key."""
    document = read_json(path)
    groups: dict[str, list[str]] = {}
    operators = document.get("op", []) if isinstance(document, Mapping) else []
    for op in operators if isinstance(operators, list) else []:
        if not isinstance(op, Mapping) or op.get("result") != "failed":
            continue
        causes = op.get("cause")
        messages = [str(c.get("message", "")) for c in causes or [] if isinstance(c, Mapping)]
        if any("type is not supported" in m for m in messages):
            groups.setdefault(str(op.get("type", "")), []).append(str(op.get("name", "")))
    return group_unsupported(groups, default_opset)


def group_unsupported(
    groups: Mapping[str, Iterable[str]], default_opset: int | None = None
) -> list[Unsupported]:
    """Turn ``key -> nodes`` into advice, the most frequent operator first."""
    found = []
    for key, nodes in groups.items():
        match = _KEY.search(key)
        version = int(match["version"]) if match else default_opset
        op_type = match["type"] if match else key.split("::")[-1]
        domain = match["domain"] if match else "ai.onnx"
        advice = _opset_advice(domain, op_type, version)
        found.append(Unsupported(key, op_type, version, tuple(nodes), advice))
    return sorted(found, key=lambda u: (-len(u.nodes), u.key))


def _opset_advice(domain: str, op_type: str, version: int | None) -> str:
    from onnx import defs

    if op_type == "FlashAttention":
        return (
            "the FlashAttention package was not found or its plug-in failed to load: "
            "`omfuse op build`, `omfuse op install`, then `omfuse op check`"
        )
    if op_type.startswith("NPU"):
        return "this CANN ships no plug-in for it; use --attention custom"
    if domain not in ("ai.onnx", ""):
        return f"no plug-in for the domain {domain}; export without it or install its package"
    if op_type in ("Loop", "Scan"):
        return "ATC has no adapter for it; unroll it, or export with fixed lengths"
    if not defs.has(op_type):
        return "not an ONNX operator; it needs a plug-in of its own"
    if version is not None and version < _OLDEST_OPSET:
        return (
            f"shipped plug-ins begin at opset {_OLDEST_OPSET}; export with 11, 13 or 17, or raise "
            "the model with onnx.version_converter"
        )
    since = sorted(
        {s.since_version for s in defs.get_all_schemas_with_history() if s.name == op_type}
    )
    older = [v for v in since if version is None or v < version]
    if not older or since[0] > 18:
        return (
            f"new in opset {since[0]}; --opset 17 writes it out where it can, or export with an "
            "older opset"
        )
    usable = max((v for v in older if v <= 18), default=older[0])
    if version is not None and version > 18:
        return "shipped plug-ins list most operators up to 18; try --opset 17 or 18"
    return (
        f"its form changed at opset {', '.join(map(str, since[-3:]))}; "
        f"try --opset {max(usable, 11)} or export with 11, 13 or 17"
    )


def read_fusion_result(path: Path, every: bool = False) -> list[FusionPass]:
    """Read fusion_result.json: passes that took effect, of attention only unless ``every``."""
    found = []
    for graph, name, times in _passes(read_json(path), ""):
        matched, applied = _count(times, "match_times"), _count(times, "effect_times")
        if (matched or applied) and (every or _ATTENTION_PASS.search(name)):
            found.append(FusionPass(name, graph, matched, applied))
    return found


def _passes(part: Any, graph: str, depth: int = 0) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield graph, name and counts of every pass; releases nest them differently."""
    if depth > _DEPTH:
        return
    if isinstance(part, list):
        for entry in part:
            yield from _passes(entry, graph, depth + 1)
    if not isinstance(part, Mapping):
        return
    graph = str(part.get("session_and_graph_id", part.get("graph_id", graph)))
    for name, value in part.items():
        if isinstance(value, Mapping) and ("match_times" in value or "effect_times" in value):
            yield graph, str(name), value
        else:
            yield from _passes(value, graph, depth + 1)


def _count(times: Mapping[str, Any], key: str) -> int:
    try:
        return int(times.get(key, 0))
    except (TypeError, ValueError):
        return 0
