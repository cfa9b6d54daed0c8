"""Names of nodes and values in flags, against the model that ATC will read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.problem import RuleBreak, RuleContext

_INDEXED = re.compile(r"(?P<node>.+):(?P<index>\d{1,9})\Z")


def check_node_names(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    """Find the names of ``out_nodes`` and ``input_fp16_nodes``; fusing removes some nodes."""
    if ctx.nodes is None or ctx.inputs is None:
        return
    for word in (w.strip() for w in (o.out_nodes or "").split(";")):
        match = _INDEXED.match(word)
        if match is None:
            if word and word not in ctx.tensors:
                yield _unknown("E10016", "out_nodes", word, ctx.tensors)
        elif match["node"] not in ctx.nodes:
            yield _unknown("E11017", "out_nodes", match["node"], ctx.nodes)
        elif int(match["index"]) >= ctx.nodes[match["node"]]:
            yield RuleBreak(
                "E11016",
                "out_nodes",
                f"{match['node']} has {ctx.nodes[match['node']]} outputs, {match['index']} is none",
                "indexes begin at 0",
            )
    for word in (w.strip() for w in (o.input_fp16_nodes or "").split(";")):
        if word and word not in ctx.inputs:
            code = "E10017" if word in ctx.nodes else "E10016"
            yield _unknown(code, "input_fp16_nodes", word, ctx.inputs)


def _unknown(code: str, flag: str, word: str, known: Iterable[str]) -> RuleBreak:
    what = "input" if flag == "input_fp16_nodes" else "node" if code == "E11017" else "value"
    near = difflib.get_close_matches(word, known, n=3)
    hint = "names are those of the fused model, `omfuse compile --dry-run` writes it"
    if flag == "input_fp16_nodes":
        hint = f"its inputs are {', '.join(known)}"
    elif near:
        hint = f"near names: {', '.join(near)}; {hint}"
    return RuleBreak(code, flag, f"the model has no {what} {word!r}", hint)
