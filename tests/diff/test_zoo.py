"""The bug zoo: every bug fails and names its block, correct arithmetic passes, others' rules."""

from __future__ import annotations

import pytest
from benchmarks.diff_sensitivity import BLOCKS, ZOO, Bug, row

LENGTH = 96
# Bugs that msit's thresholds pass: cosine and averages hide them.
MSIT_BLIND = {"scale +2 %", "padding ignored (causal)", "NaN in one row"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("bug", ZOO, ids=lambda bug: bug.name)
def test_zoo(bug: Bug, precision: str) -> None:
    found = row(bug, LENGTH, precision)
    report = found["report"]
    if not bug.wrong:
        assert report.verdict == "pass"
        assert not report.culprits
        assert found["x limit"] < 0.8
        return
    assert report.verdict == "fail"
    assert report.culprits == (list(BLOCKS) if bug.dead else [BLOCKS[0]])
    assert report.blocks[0].softmax == "block0.p"


@pytest.mark.parametrize("bug", ZOO, ids=lambda bug: bug.name)
def test_what_the_thresholds_of_others_say(bug: Bug) -> None:
    found = row(bug, 128, "fp16")
    assert found["polygraphy"] == "fail"  # also for correct arithmetic
    if not bug.wrong:
        assert found["msit"] == "pass"
    if bug.name in MSIT_BLIND:
        assert found["msit"] == "pass"


def test_fp16_scores_pass() -> None:
    """Scores kept in fp16 are a slower way to be right, not a bug."""
    found = row(Bug("fp16 scores", inner_precision="fp16", wrong=False), LENGTH, "fp16")
    assert found["report"].verdict == "pass"


def test_dead_rows_are_reported_by_default_and_judged_on_request() -> None:
    from benchmarks.diff_sensitivity import make_inputs, original, rewritten

    from omfuse.diff import diff

    bug = next(bug for bug in ZOO if bug.dead)
    sides = original(32, causal=False), rewritten(32, bug)
    feeds = make_inputs(32, dead=True)
    verdicts = {
        policy: diff(*sides, inputs=feeds, precision="fp16", dead_rows=policy).outputs[0]
        for policy in ("report", "strict", "zero")
    }
    assert {p: v.verdict for p, v in verdicts.items()} == {
        "report": "pass",
        "strict": "fail",
        "zero": "pass",
    }
    assert verdicts["report"].dead_rows["rows"] == 8 * 32
    assert verdicts["report"].dead_rows["max_abs"] > 0.1


def test_a_block_that_is_wrong_alone_fails_though_the_outputs_pass() -> None:
    """In bf16 the limits at the end of a model are wider than a 2 % scale error."""
    from benchmarks.diff_sensitivity import make_inputs, original, rewritten

    from omfuse.diff import diff

    bug = next(bug for bug in ZOO if bug.name == "scale +2 %")
    sides = original(512), rewritten(512, bug, "bf16")
    given = {"inputs": make_inputs(512), "precision": "bf16"}
    outputs_only = diff(*sides, **given, localise=False)
    report = diff(*sides, **given)
    assert outputs_only.verdict == "pass"
    assert report.verdict == "fail"
    assert report.culprits == [BLOCKS[0]]
