"""The shared corpus of exported models, when it is there: coverage, lookalikes, equality."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("OMFUSE_CORPUS", ROOT.parent / "shared" / "corpus"))

pytestmark = pytest.mark.skipif(
    not (FOLDER / "manifest.json").is_file(),
    reason="no corpus: set OMFUSE_CORPUS to its folder",
)


@cache
def answer() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import coverage
        from benchmarks.corpus import load_cases

        lines = coverage.measure_all(FOLDER, load_cases(FOLDER), jobs=2)
        return coverage.report(lines)
    finally:
        sys.path.remove(str(ROOT))


def test_nearly_every_true_block_is_fused() -> None:
    total = answer()["total"]
    assert total["percent_equal"] >= 99.5, answer()["out_of_range"]


def test_nothing_is_fused_that_must_not_be() -> None:
    assert answer()["false_positives"] == []


def test_every_rewritten_model_equals_its_original() -> None:
    assert answer()["unequal"] == {}
    assert answer()["errors"] == {}


def test_no_block_trips_over_a_defect_of_ours() -> None:
    assert not [entry for entry in answer()["declined"] if entry["code"].endswith("internal")]
