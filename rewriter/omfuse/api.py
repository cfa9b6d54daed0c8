"""Rewrite a model: find every attention, prove it, and replace it by one node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from omfuse import profit, rules
from omfuse.errors import UsageError
from omfuse.fuse import edit
from omfuse.fuse.bodies import attach, own_bodies
from omfuse.fuse.body import Signature, function_body
from omfuse.fuse.contract import DOMAIN, DOMAIN_VERSION
from omfuse.fuse.joined_keys import join_keys
from omfuse.fuse.overloads import Work, assign_overloads
from omfuse.fuse.savings import Saving, saving
from omfuse.fusing import Choice, Guard, Progress, fuse_graph, lower_graph, take_back
from omfuse.graph.facts import model_facts
from omfuse.graph.model_io import copy_model, load_model, save_model
from omfuse.graph.view import graph_views
from omfuse.match.report import DECLINED, FUSED, NOT_ATTENTION, Record

if TYPE_CHECKING:
    from onnx_graphsurgeon import Graph


@dataclass
class RewriteResult:
    """The rewritten model and one record a softmax."""

    model: onnx.ModelProto
    records: list[Record]
    lowered: list[Record]  # attention operators that were there already
    nodes_before: int
    nodes_after: int
    seconds: float = 0.0
    changed: bool = False

    @property
    def fused(self) -> int:
        """Number of blocks that became a FlashAttention node."""
        return self._count(FUSED)

    @property
    def declined(self) -> int:
        """Number of attention blocks left as they were."""
        return self._count(DECLINED)

    @property
    def not_attention(self) -> int:
        """Number of softmaxes that are something else."""
        return self._count(NOT_ATTENTION)

    def _count(self, status: str) -> int:
        return sum(record.status == status for record in self.records)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of ``omfuse.rewrite/1`` that do not depend on files."""
        return {
            "fused": self.fused,
            "declined": self.declined,
            "not_attention": self.not_attention,
            "softmaxes": [record.as_dict() for record in self.records],
            "attention_nodes": [record.as_dict() for record in self.lowered],
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "seconds": round(self.seconds, 3),
        }


def rewrite(
    model: onnx.ModelProto | Graph | str | Path,
    *,
    only: Sequence[str] = (),
    patterns: Sequence[str | Path] = (),
    soc: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RewriteResult:
    """Replace every provable attention by one FlashAttention node.

    Args:
        model: a model, an onnx-graphsurgeon graph, or a path; external weights are not read, and
            what is in memory is copied.
        only: names of softmax nodes to fuse; all when empty.
        patterns: Python files with further lift rules.
        soc: leave blocks as they are that would not pay on this SoC (:mod:`omfuse.profit`).
        force: with ``soc``: fuse these too.
        progress: called with (softmaxes done, softmaxes in all) of each graph.

    Raises:
        ModelError: the model cannot be read or is not valid.
        UsageError: ``unknown-soc``.
    """
    started = time.perf_counter()
    guard = profit.guard(soc) if soc is not None and not force else None
    if isinstance(model, onnx.ModelProto):
        result = onnx.ModelProto()
        result.CopyFrom(model)
    elif isinstance(model, (str, Path)):
        result = load_model(model)
    else:
        result = _exported(model)
    with rules.loaded(patterns):
        done = _rewrite_joined(result, only, guard, progress)
    return replace(done, seconds=time.perf_counter() - started)


def _rewrite_joined(
    model: onnx.ModelProto, only: Sequence[str], guard: Guard | None, progress: Progress | None
) -> RewriteResult:
    """Rewrite ``model`` with keys joined wherever that leads to a fused block."""
    joined, names = join_keys(model)
    if not names:
        return _rewrite(model, only, guard, progress)
    before = sum(len(view.nodes) for view in graph_views(model, (DOMAIN,)))
    done = _rewrite(joined, only, guard, progress)
    fused = {record.node for record in done.records if record.status == FUSED}
    if not set(names) <= fused:
        joined, _ = join_keys(model, [name for name in names if name not in fused])
        done = _rewrite(joined, only, guard, progress)
    return replace(done, nodes_before=before)


def _rewrite(
    result: onnx.ModelProto,
    only: Sequence[str],
    guard: Guard | None,
    progress: Progress | None,
) -> RewriteResult:
    """Rewrite ``result`` in place."""
    views = list(graph_views(result, (DOMAIN,)))
    before = sum(len(view.nodes) for view in views)
    facts = model_facts(result, views)
    records: list[Record] = []
    lowered: list[Record] = []
    work: Work = []
    taken = {node.name for view in views for node in view.nodes}
    taken |= {name for view in views for name in view.producers}
    choice = Choice(only, guard, taken, progress)
    for view in views:
        fusions, found = fuse_graph(view, facts[id(view)], choice)
        ready, already = lower_graph(view, facts[id(view)], choice)
        records += found
        lowered += already
        if fusions or ready:
            work.append((view, facts[id(view)].opset, [*fusions, *ready]))
    signatures, rejected = assign_overloads(work, own_bodies(result).get(""))
    take_back(rejected, records)
    take_back(rejected, lowered)
    work = [entry for entry in work if entry[2]]
    saved: dict[str, Saving] = {}
    for view, _, fusions in reversed(work):  # inner graphs first: an edit copies what it keeps
        for fusion, gone in zip(fusions, edit.apply(view, fusions), strict=True):
            saved[fusion.node.name] = saving(fusion, gone, facts[id(view)])
    for found in (records, lowered):
        found[:] = [_with_saving(record, saved) for record in found]
    if signatures:
        _finish(result, signatures, work)
    after = sum(len(view.nodes) for view in graph_views(result, (DOMAIN,))) if work else before
    return RewriteResult(result, records, lowered, before, after, changed=bool(work))


def _exported(graph: Graph) -> onnx.ModelProto:
    """Turn a graph that a script edits into a model; local functions and weights stay."""
    import onnx_graphsurgeon

    model: onnx.ModelProto = onnx_graphsurgeon.export_onnx(graph, do_type_check=False)
    return model


def _with_saving(record: Record, saved: dict[str, Saving]) -> Record:
    one = saved.get(record.node_name or "")
    if one is None:
        return record
    return replace(record, saved_nodes=one.nodes, saved_bytes=one.traffic)


def _finish(
    model: onnx.ModelProto,
    signatures: dict[str, Signature],
    work: Work,
) -> None:
    """Add function bodies and the domain import; raise the IR version where overloads need it."""
    attach(model, [function_body(signatures[name], name) for name in sorted(signatures)])
    ours = helper.make_opsetid(DOMAIN, DOMAIN_VERSION)
    imports = [model.opset_import]
    imports += [
        view.proto.opset_import for view, *_ in work if isinstance(view.proto, onnx.FunctionProto)
    ]
    for table in imports:
        if all(entry.domain != DOMAIN for entry in table):
            table.append(ours)


def save(result: RewriteResult, source: str | Path, output: str | Path) -> None:
    """Write a rewritten model; where nothing was fused, the file is copied byte by byte.

    Raises:
        UsageError: ``same-file`` when the output is the input.
        OutputError: the output cannot be written; nothing half-written is left.
    """
    if Path(output).exists() and Path(output).samefile(source):
        raise UsageError(
            "same-file", "the output would overwrite the input", str(output), "choose another -o"
        )
    if result.changed:
        save_model(result.model, output, Path(source).parent)
    else:
        copy_model(source, output)
