"""On every model of the corpus: rewriting again changes nothing, and the bytes are the same."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

import omfuse

FOLDER = Path(os.environ.get("OMFUSE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
FILES = sorted((FOLDER / "visible").glob("*.onnx"))

pytestmark = pytest.mark.skipif(not FILES, reason="no corpus: set OMFUSE_CORPUS to its folder")


def data(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def test_rewriting_twice_changes_nothing_and_is_deterministic() -> None:
    unstable = []
    for path in FILES:
        once = omfuse.rewrite(path)
        again = omfuse.rewrite(once.model)
        if again.changed or data(again.model) != data(once.model):
            unstable.append(f"{path.name}: not idempotent")
        if data(omfuse.rewrite(path).model) != data(once.model):
            unstable.append(f"{path.name}: not deterministic")
        if not once.changed and data(once.model) != data(onnx.load(path)):
            unstable.append(f"{path.name}: touched without a fusion")
    assert not unstable


def test_every_softmax_ends_in_exactly_one_record() -> None:
    for path in FILES:
        model = onnx.load(path)
        result = omfuse.rewrite(path)
        names = [record.node for record in result.records]
        softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
        assert len(names) >= softmaxes, path.name
        assert {r.status for r in result.records} <= {"fused", "declined", "not-attention"}
        for record in result.records:
            assert (record.status == "fused") == (record.code is None)
            assert record.status == "fused" or record.reason
