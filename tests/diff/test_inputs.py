from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from omfuse.diff.dims import Dim, axis
from omfuse.diff.inputs import generate_inputs, open_original, plan_inputs, settle
from omfuse.errors import ModelError, UsageError

NODE = helper.make_node
CORPUS = Path(os.environ.get("OMFUSE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))


def model(nodes, inputs, weights=None, outputs=("y",)) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", values, outs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def kinds(m: onnx.ModelProto) -> dict[str, str]:
    return {role.name: role.kind for role in plan_inputs(m).roles}


def test_ids_stay_inside_the_table_they_index_through_other_ops() -> None:
    """The offset of BART's positions counts: row 2 is the first that an id of 0 reads."""
    nodes = [
        NODE("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        NODE("Add", ["wide", "two"], ["shifted"]),
        NODE("Unsqueeze", ["shifted", "axis"], ["un"]),
        NODE("Gather", ["table", "un"], ["y"]),
    ]
    weights = {"two": np.int64(2), "axis": np.array([0]), "table": np.ones((9, 4), np.float32)}
    m = model(nodes, [("ids", TensorProto.INT32, [64, "S"])], weights)
    ids = generate_inputs(m, 0)["ids"]
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() == 6


@pytest.mark.parametrize("drop", [False, True])
def test_polarity_of_a_bool_mask_comes_from_the_graph(drop: bool) -> None:
    """No row may be empty, some keys are hidden, and the first row is full."""
    order = ["m", "low", "s"] if drop else ["m", "s", "low"]
    nodes = [NODE("Where", order, ["z"]), NODE("Softmax", ["z"], ["y"])]
    feeds = [("s", TensorProto.FLOAT, ["B", "S"]), ("m", TensorProto.BOOL, ["B", "S"])]
    made = generate_inputs(model(nodes, feeds, {"low": np.float32(-np.inf)}), 3)
    keep = made["m"] != drop
    assert keep[0].all()
    assert keep.any(axis=-1).all()
    assert not keep.all()


def test_a_mask_of_one_minus_times_a_fill_is_an_integer_padding_mask() -> None:
    nodes = [
        NODE("Cast", ["attention_mask"], ["f"], to=TensorProto.FLOAT),
        NODE("Sub", ["one", "f"], ["inverted"]),
        NODE("Mul", ["inverted", "fill"], ["bias"]),
        NODE("Add", ["s", "bias"], ["z"]),
        NODE("Softmax", ["z"], ["y"]),
    ]
    feeds = [
        ("s", TensorProto.FLOAT, ["B", "S"]),
        ("attention_mask", TensorProto.INT64, ["B", "S"]),
    ]
    m = model(nodes, feeds, {"one": np.float32(1), "fill": np.float32(-1e4)})
    mask = generate_inputs(m, 0)["attention_mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert mask[0].all()
    assert (np.diff(mask, axis=1) <= 0).all()  # right padding: ones, then zeros


def test_additive_mask_bias_and_activation_are_told_apart() -> None:
    nodes = [
        NODE("MatMul", ["x", "w"], ["s"]),
        NODE("Add", ["s", "m"], ["a"]),
        NODE("Add", ["a", "b"], ["z"]),
        NODE("Softmax", ["z"], ["y"]),
    ]
    feeds = [
        ("x", TensorProto.FLOAT, ["B", 4, 7, 5]),
        ("m", TensorProto.FLOAT, ["B", 1, 7, 7]),
        ("b", TensorProto.FLOAT, [1, 4, 7, 7]),
    ]
    m = model(nodes, feeds, {"w": np.ones((5, 7), np.float32)})
    assert kinds(m) == {"x": "activation", "m": "additive_mask", "b": "bias"}
    made = generate_inputs(m, 0)
    assert set(np.unique(made["m"])) == {-1e4, 0.0}
    assert (made["m"].max(axis=-1) == 0).all()
    assert (made["x"] < 0).any()  # never uniform [0, 1)


def test_the_key_axis_of_a_mask_follows_cache_and_new_tokens() -> None:
    nodes = [
        NODE("Gather", ["table", "input_ids"], ["new"]),
        NODE("Concat", ["past_key", "new"], ["k"], axis=1),
        NODE("Cast", ["attention_mask"], ["f"], to=TensorProto.FLOAT),
        NODE("Unsqueeze", ["f", "last"], ["u"]),
        NODE("Mul", ["k", "u"], ["y"]),
    ]
    feeds = [
        ("input_ids", TensorProto.INT64, ["batch", "seq"]),
        ("attention_mask", TensorProto.INT64, ["batch", "total"]),
        ("past_key", TensorProto.FLOAT, ["batch", "past", 8]),
    ]
    weights = {"table": np.ones((20, 8), np.float32), "last": np.array([2])}
    made = generate_inputs(model(nodes, feeds, weights), 0)
    total = made["past_key"].shape[1] + made["input_ids"].shape[1]
    assert made["attention_mask"].shape == (2, total)
    assert made["attention_mask"][:, -made["input_ids"].shape[1] :].all()


def test_dims_are_taken_and_checked() -> None:
    m = model([NODE("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["B", "S", 3])])
    assert generate_inputs(m, 0, {"S": 29})["x"].shape == (2, 29, 3)
    with pytest.raises(UsageError, match="no input has a symbolic dim"):
        generate_inputs(m, 0, {"T": 3})


def test_expressions_of_symbols() -> None:
    assert axis(None, "P_plus_1", "x", 0).size({"P": 5}) == 6
    assert Dim("(P)+(2*S)").size({"P": 5, "S": 3}) == 11
    assert axis(None, "", "x", 1) != axis(None, "", "z", 1)


def test_other_sizes_are_tried_and_told() -> None:
    """A patch stem accepts only multiples of 8."""
    nodes = [NODE("Reshape", ["x", "shape"], ["y"])]
    m = model(nodes, [("x", TensorProto.FLOAT, [3, "length"])], {"shape": np.array([3, -1, 8])})
    with open_original(m) as session:
        plan = settle(plan_inputs(m), session.run)
    assert plan.sizes["length"] % 8 == 0
    assert len(plan.tried) == 1
    assert "Reshape" in plan.tried[0]


def test_no_guess_runs_says_what_was_tried() -> None:
    nodes = [NODE("Reshape", ["x", "shape"], ["y"])]
    m = model(nodes, [("x", TensorProto.FLOAT, [3, "length"])], {"shape": np.array([3, -1, 997])})
    with pytest.raises(ModelError, match=r"none of \d+ guesses") as caught:
        generate_inputs(m, 0)
    assert caught.value.code == "no-inputs-found"
    assert "--dim" in caught.value.hint


def test_the_same_seed_gives_the_same_bytes() -> None:
    m = model([NODE("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["B", "S", 3])])
    one, again, other = (generate_inputs(m, seed)["x"] for seed in (1, 1, 2))
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


def _corpus() -> list[dict]:
    manifest = CORPUS / "manifest.json"
    if not manifest.is_file():
        return []
    return [c for c in json.loads(manifest.read_text())["cases"] if c["runs_ort"]]


def _share_that_runs(cases: list[dict]) -> tuple[float, list[str]]:
    failed = []
    for case in cases:
        path = CORPUS / "visible" / case["file"]
        try:
            generate_inputs(onnx.load(path), 0)
        except ModelError as error:
            failed.append(f"{case['id']}: {error.message[:200]}")
    return 1 - len(failed) / len(cases), failed


@pytest.mark.skipif(not _corpus(), reason="no corpus: set OMFUSE_CORPUS")
def test_corpus_sample() -> None:
    share, failed = _share_that_runs(_corpus()[::12])
    assert share >= 0.97, failed


@pytest.mark.slow
@pytest.mark.skipif(not _corpus(), reason="no corpus: set OMFUSE_CORPUS")
def test_corpus() -> None:
    share, failed = _share_that_runs(_corpus())
    assert share >= 0.97, failed
