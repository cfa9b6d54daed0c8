"""On every model of the corpus: shapes, dtypes and constants are what onnxruntime computes."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from tests.graph.observed import contradictions, observe

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("OMFUSE_CORPUS", ROOT.parent / "shared" / "corpus"))

pytestmark = pytest.mark.skipif(
    not (FOLDER / "manifest.json").is_file(),
    reason="no corpus: set OMFUSE_CORPUS to its folder",
)


def test_every_value_is_what_the_facts_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.corpus import feeds_of, load_cases

    wrong, values, idle = {}, 0, []
    for case in load_cases(FOLDER):
        model = onnx.load(case["path"])
        for label, feeds in feeds_of(str(FOLDER), case):
            try:
                observed = observe(model, feeds)
            except ort.capi.onnxruntime_pybind11_state.NotImplemented:  # bf16 as exported
                idle.append(case["id"])
                continue
            values += len(observed)
            if found := contradictions(model, feeds, observed):
                wrong[f"{case['id']} {label}"] = found[:3]
    assert not wrong
    assert values > 1000 * len(idle)
