"""Rewrite a model: find every attention, prove it, and replace it by one node."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from omfuse import rules
from omfuse.errors import UsageError
from omfuse.fuse import contrib, edit, native
from omfuse.fuse.body import Signature, function_body
from omfuse.fuse.contract import DOMAIN, DOMAIN_VERSION
from omfuse.fuse.lower import Fusion, lower
from omfuse.fuse.overloads import Work, assign_overloads
from omfuse.graph.facts import Facts, model_facts
from omfuse.graph.model_io import copy_model, load_model, save_model
from omfuse.graph.view import GraphView, Node, graph_views
from omfuse.match.anchors import Anchor, find_anchors
from omfuse.match.choose import by_profit
from omfuse.match.declined import Declined
from omfuse.match.engine import Search
from omfuse.match.normal_form import describe
from omfuse.match.report import DECLINED, FUSED, NOT_ATTENTION, Record

Progress = Callable[[int, int], None]
Lowering = Callable[[Node, GraphView, Facts, str], Fusion]

# Operators that are one attention already.
READY: dict[str, Lowering] = {
    native.OPERATOR: native.lower_native,
    contrib.MULTI_HEAD: contrib.lower_contrib,
    contrib.PACKED: contrib.lower_contrib,
    contrib.GROUPED: contrib.lower_contrib,
}


@dataclass
class RewriteResult:
    """The rewritten model and one record a softmax."""

    model: onnx.ModelProto
    records: list[Record]
    lowered: list[Record]  # attention operators that were there already
    nodes_before: int
    nodes_after: int
    seconds: float
    changed: bool = field(default=False)

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
    model: onnx.ModelProto | str | Path,
    *,
    only: Sequence[str] = (),
    patterns: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> RewriteResult:
    """Replace every provable attention by one FlashAttention node.

    Args:
        model: a model, or the path of one; external weights are not read.  A ModelProto is copied.
        only: names of softmax nodes to fuse; all when empty.
        patterns: Python files with further lift rules.
        progress: called with (softmaxes done, softmaxes in all) of each graph.

    Raises:
        ModelError: the model cannot be read or is not valid.
    """
    started = time.perf_counter()
    if isinstance(model, onnx.ModelProto):
        result = onnx.ModelProto()
        result.CopyFrom(model)
    else:
        result = load_model(model)
    with rules.loaded(patterns):
        return _rewrite(result, only, progress, started)


def _rewrite(
    result: onnx.ModelProto, only: Sequence[str], progress: Progress | None, started: float
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
    for view in views:
        fusions = _fuse_graph(view, facts[id(view)], only, taken, records, progress)
        fusions += _lower_graph(view, facts[id(view)], only, taken, lowered)
        if fusions:
            work.append((view, facts[id(view)].opset, fusions))
    signatures, rejected = assign_overloads(work)
    _take_back(rejected, records)
    _take_back(rejected, lowered)
    work = [entry for entry in work if entry[2]]
    for view, _, fusions in reversed(work):  # inner graphs first: an edit copies what it keeps
        edit.apply(view, fusions)
    if signatures:
        _finish(result, signatures, work)
    after = sum(len(view.nodes) for view in graph_views(result, (DOMAIN,))) if work else before
    seconds = time.perf_counter() - started
    return RewriteResult(result, records, lowered, before, after, seconds, bool(work))


def _take_back(rejected: Sequence[Fusion], records: list[Record]) -> None:
    names = {fusion.node.name: fusion for fusion in rejected}
    for index, record in enumerate(records):
        if record.node_name in names:
            records[index] = Record(
                record.node,
                DECLINED,
                code="function-overload",
                reason="local functions of this model need more than one kind of attention node",
                hint="inline the functions first (onnx.inliner.inline_local_functions)",
                normal_form=record.normal_form,
                graph=record.graph,
            )


def _fuse_graph(
    view: GraphView,
    facts: Facts,
    only: Sequence[str],
    taken: set[str],
    records: list[Record],
    progress: Progress | None,
) -> list[Fusion]:
    fusions: list[Fusion] = []
    used: set[int] = set()
    anchors = list(find_anchors(view, facts))
    for done, anchor in enumerate(anchors, 1):
        if isinstance(anchor, Anchor):
            if only and anchor.node.name not in only:
                continue
            fusion, record = _fuse_anchor(anchor, view, facts, taken)
            if fusion is not None and used & {node.index for node in fusion.removed}:
                fusion, record = (
                    None,
                    _refused(
                        anchor, view, Declined("overlap", "the block shares nodes with another one")
                    ),
                )
            if fusion is not None:
                used |= {node.index for node in fusion.removed}
                fusions.append(fusion)
        else:
            node, declined = anchor
            record = _record(node.name, view, declined)
        records.append(record)
        if progress is not None:
            progress(done, len(anchors))
    return fusions


def _lower_graph(
    view: GraphView, facts: Facts, only: Sequence[str], taken: set[str], records: list[Record]
) -> list[Fusion]:
    """Lower the attention operators of a graph to ours."""
    fusions: list[Fusion] = []
    for node in view.nodes:
        lowering = READY.get(node.op)
        if lowering is not None and (not only or node.name in only):
            fusion, record = _lower_ready(node, lowering, view, facts, taken)
            records.append(record)
            if fusion is not None:
                fusions.append(fusion)
    return fusions


def _lower_ready(
    node: Node, lowering: Lowering, view: GraphView, facts: Facts, taken: set[str]
) -> tuple[Fusion | None, Record]:
    name = _free_name(f"{node.name or 'attention'}/FlashAttention", taken)
    try:
        fusion = lowering(node, view, facts, name)
    except Declined as declined:
        return None, _record(node.name, view, declined)
    taken.add(name)
    return fusion, _fused_record(node.name, view, fusion, fusion.normal_form)


def _fused_record(node: str, view: GraphView, fusion: Fusion, form: str) -> Record:
    return Record(
        node,
        FUSED,
        normal_form=form,
        exactness=fusion.exactness,
        output=fusion.output,
        node_name=fusion.node.name,
        graph=view.name,
    )


def _fuse_anchor(
    anchor: Anchor, view: GraphView, facts: Facts, taken: set[str]
) -> tuple[Fusion | None, Record]:
    try:
        return _try_anchor(anchor, view, facts, taken)
    except Exception as error:  # one strange block must not keep the others from being fused
        text = f"{type(error).__name__}: {error}"
        hint = "this is a defect of omfuse, please report it with the model"
        return None, _refused(anchor, view, Declined("internal", text, hint))


def _try_anchor(
    anchor: Anchor, view: GraphView, facts: Facts, taken: set[str]
) -> tuple[Fusion | None, Record]:
    try:
        blocks = by_profit(Search(view, facts, anchor).run(), view)
    except Declined as declined:
        return None, _refused(anchor, view, declined)
    problem: Declined | None = None
    for block in blocks:
        name = _free_name(f"{anchor.node.name or 'attention'}/FlashAttention", taken)
        try:
            fusion = lower(block, view, facts, name)
        except Declined as declined:
            problem = problem or declined
            continue
        taken.add(name)
        form = describe(block, fusion.attrs.masked_rows)
        return fusion, _fused_record(anchor.node.name, view, fusion, form)
    assert problem is not None
    return None, _refused(anchor, view, problem)


def _free_name(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def _refused(anchor: Anchor, view: GraphView, declined: Declined) -> Record:
    return _record(anchor.node.name, view, declined)


def _record(name: str, view: GraphView, declined: Declined) -> Record:
    return Record(
        name,
        DECLINED if declined.attention else NOT_ATTENTION,
        code=declined.code,
        reason=declined.reason,
        hint=declined.hint or None,
        graph=view.name,
        last_node=declined.node or None,
    )


def _finish(
    model: onnx.ModelProto,
    signatures: dict[str, Signature],
    work: Work,
) -> None:
    """Add function bodies and the domain import; raise the IR version where overloads need it."""
    model.ir_version = max(model.ir_version, 10)
    have = {(f.domain, f.name, f.overload) for f in model.functions}
    for overload in sorted(signatures):
        body = function_body(signatures[overload], overload)
        if (body.domain, body.name, body.overload) not in have:
            model.functions.append(body)
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
