"""Find, prove and lower the attention of one graph; one record for every softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from omfuse.fuse import contrib, native
from omfuse.fuse.lower import Fusion, lower
from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.anchors import Anchor, find_anchors
from omfuse.match.choose import by_profit
from omfuse.match.declined import Declined
from omfuse.match.engine import Search
from omfuse.match.normal_form import describe
from omfuse.match.report import DECLINED, FUSED, NOT_ATTENTION, Record

Progress = Callable[[int, int], None]
Guard = Callable[[Fusion], "str | None"]
Lowering = Callable[[Node, GraphView, Facts, str], Fusion]

# Operators that are one attention already.
READY: dict[str, Lowering] = {
    native.OPERATOR: native.lower_native,
    contrib.MULTI_HEAD: contrib.lower_contrib,
    contrib.PACKED: contrib.lower_contrib,
    contrib.GROUPED: contrib.lower_contrib,
}


@dataclass
class Choice:
    """What the caller wants: which softmaxes, whether a block pays, names in use, progress."""

    only: Sequence[str]
    guard: Guard | None
    taken: set[str]
    progress: Progress | None


def fuse_graph(view: GraphView, facts: Facts, choice: Choice) -> tuple[list[Fusion], list[Record]]:
    """Fuse the softmaxes of one graph."""
    fusions: list[Fusion] = []
    records: list[Record] = []
    used: set[int] = set()
    anchors = list(find_anchors(view, facts))
    for done, anchor in enumerate(anchors, 1):
        if isinstance(anchor, Anchor):
            if choice.only and anchor.node.name not in choice.only:
                continue
            fusion, record = _fuse_anchor(anchor, view, facts, choice)
            if fusion is not None and used & {node.index for node in fusion.removed}:
                why = Declined("overlap", "the block shares nodes with another one")
                fusion, record = None, refused(anchor.node.name, view, why)
            if fusion is not None:
                used |= {node.index for node in fusion.removed}
                fusions.append(fusion)
        else:
            node, declined = anchor
            record = refused(node.name, view, declined)
        records.append(record)
        if choice.progress is not None:
            choice.progress(done, len(anchors))
    return fusions, records


def lower_graph(view: GraphView, facts: Facts, choice: Choice) -> tuple[list[Fusion], list[Record]]:
    """Lower the attention operators of one graph to ours."""
    fusions: list[Fusion] = []
    records: list[Record] = []
    for node in view.nodes:
        lowering = READY.get(node.op)
        if lowering is not None and (not choice.only or node.name in choice.only):
            fusion, record = _lower_ready(node, lowering, view, facts, choice)
            records.append(record)
            if fusion is not None:
                fusions.append(fusion)
    return fusions, records


def take_back(rejected: Sequence[Fusion], records: list[Record]) -> None:
    """Turn the records of fusions that cannot stay into declined ones."""
    names = {fusion.node.name for fusion in rejected}
    why = Declined(
        "function-overload",
        "local functions of this model need more than one kind of attention node",
        "inline the functions first (onnx.inliner.inline_local_functions)",
    )
    for index, record in enumerate(records):
        if record.node_name in names:
            form, graph = record.normal_form, record.graph
            records[index] = replace(_declined(record.node, graph, why), normal_form=form)


def _lower_ready(
    node: Node, lowering: Lowering, view: GraphView, facts: Facts, choice: Choice
) -> tuple[Fusion | None, Record]:
    name = _free_name(f"{node.name or 'attention'}/FlashAttention", choice.taken)
    try:
        fusion = lowering(node, view, facts, name)
        _judge(fusion, choice)
    except Declined as declined:
        return None, refused(node.name, view, declined)
    choice.taken.add(name)
    return fusion, _fused_record(node.name, view, fusion, fusion.normal_form)


def _judge(fusion: Fusion, choice: Choice) -> None:
    reason = choice.guard(fusion) if choice.guard is not None else None
    if reason is not None:
        raise Declined("profit", reason, "--force fuses it all the same")


def _fuse_anchor(
    anchor: Anchor, view: GraphView, facts: Facts, choice: Choice
) -> tuple[Fusion | None, Record]:
    try:
        return _try_anchor(anchor, view, facts, choice)
    except Declined as declined:
        return None, refused(anchor.node.name, view, declined)
    except Exception as error:  # one strange block must not keep the others from being fused
        text = f"{type(error).__name__}: {error}"
        hint = "if onnx.checker accepts the model, report this: it is a defect of omfuse"
        return None, refused(anchor.node.name, view, Declined("internal", text, hint))


def _try_anchor(
    anchor: Anchor, view: GraphView, facts: Facts, choice: Choice
) -> tuple[Fusion, Record]:
    problem: Declined | None = None
    for block in by_profit(Search(view, facts, anchor).run(), view):
        name = _free_name(f"{anchor.node.name or 'attention'}/FlashAttention", choice.taken)
        try:
            fusion = lower(block, view, facts, name)
            _judge(fusion, choice)
        except Declined as declined:
            problem = problem or declined
            continue
        choice.taken.add(name)
        form = describe(block, fusion.attrs.masked_rows)
        return fusion, _fused_record(anchor.node.name, view, fusion, form)
    assert problem is not None
    raise problem


def _free_name(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


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


def refused(node: str, view: GraphView, declined: Declined) -> Record:
    """Return the record of a softmax or operator that stays."""
    return _declined(node, view.name, declined)


def _declined(node: str, graph: str, declined: Declined) -> Record:
    return Record(
        node,
        DECLINED if declined.attention else NOT_ATTENTION,
        code=declined.code,
        reason=declined.reason,
        hint=declined.hint or None,
        graph=graph,
        last_node=declined.node or None,
    )
