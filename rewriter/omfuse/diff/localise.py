"""Which block is wrong: name the culprits of a difference and write the smallest reproducer."""

from __future__ import annotations

from pathlib import Path

import onnx

from omfuse.diff import emulate, splice
from omfuse.diff.blocks import Checker
from omfuse.diff.golden import Original
from omfuse.diff.report import DiffReport, Tell, Wants
from omfuse.diff.reproducer import write as write_reproducer


def explain(
    report: DiffReport,
    original: Original,
    other: onnx.ModelProto,
    wants: Wants,
    say: Tell,
    other_dir: Path | None = None,
) -> None:
    """Add blocks, culprits, bisection and a reproducer to a report.

    Args:
        report: what the comparison of the outputs found; changed in place.
        original: the reference.
        other: the other graph, with its small weights.
        wants: what to look for.
        say: told of each step.
        other_dir: folder of the other graph's large weights.
    """
    failed = report.verdict == "fail"
    asked = wants.localise is not False
    if not (asked or wants.bisect or wants.reduce or wants.tensors):
        return
    say("finding the blocks that differ")
    wide = emulate.flat(original.model)
    case = report.worst_case()
    checker = Checker(
        original, wide, other, case.feeds, report.precision, wants.dead_rows, other_dir
    )
    if wants.tensors:
        say("comparing every shared tensor")
        report.tensors = checker.along(splice.shared_tensors(wide, other))
    if not (asked or wants.bisect or wants.reduce):
        return
    blocks = splice.find_blocks(wide, other, original.base_dir, other_dir)
    if not blocks:
        report.notes.append("the two graphs share no tensor between inputs and outputs")
        return
    for number, block in enumerate(blocks):
        say(f"checking block {number + 1} of {len(blocks)}")
        report.blocks.append(checker.check(block))
    say("comparing along the model")
    checker.accumulate(blocks, report.blocks)
    report.culprits = [
        b.name for b in report.blocks if b.local is not None and b.local.verdict == "fail"
    ]
    report.pictures.update(checker.pictures)
    if report.culprits and not failed:
        # A block is judged far more sharply alone than through everything after it.
        report.verdict, failed = "fail", True
        report.notes.append(
            "the outputs are within their budget, but a block alone is not: it computes "
            "something else, and the precision hides it at the end of the model"
        )
    if wants.bisect and failed:
        say("switching rewrites on")
        found, steps = checker.bisect(blocks)
        report.bisection = steps
        report.culprits += [name for name in found if name not in report.culprits]
    if failed and not report.culprits:
        report.notes.append(
            "every block is clean on golden inputs: the error builds up along the model"
        )
    if wants.reduce and failed:
        guilty = [
            b for b, r in zip(blocks, report.blocks, strict=True) if r.name in report.culprits
        ]
        report.reproducer = write_reproducer(wants.reduce, guilty or blocks[-1:], checker, report)
