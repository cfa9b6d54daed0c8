from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from omfuse.diff import diff, emulate, splice
from omfuse.diff.blocks import Checker
from omfuse.diff.golden import load_original
from omfuse.diff.sides import load_npz

HEADS, DEPTH, LENGTH = 2, 8, 12


def stack(count: int, fused: bool, wrong: frozenset[int] = frozenset()) -> onnx.ModelProto:
    """``count`` residual attention blocks; the wrong ones use another scale."""
    node, nodes, x = helper.make_node, [], "x"
    weights = {"scale": np.float32(0.5)}
    for i in range(count):
        p = f"b{i}."
        if fused:
            nodes.append(
                node(
                    "FlashAttention",
                    [x, "k", "v"],
                    [p + "o"],
                    f"fa{i}",
                    domain="omfuse",
                    num_heads=HEADS,
                    num_kv_heads=HEADS,
                    scale=0.4 if i in wrong else 0.5,
                )
            )
        else:
            nodes += [
                node("Transpose", ["k"], [p + "kt"], perm=[0, 1, 3, 2]),
                node("MatMul", [x, p + "kt"], [p + "s"]),
                node("Mul", [p + "s", "scale"], [p + "z"]),
                node("Softmax", [p + "z"], [p + "p"], axis=-1),
                node("MatMul", [p + "p", "v"], [p + "o"]),
            ]
        nodes.append(node("Add", [x, p + "o"], [p + "x"]))
        x = p + "x"
    nodes.append(node("Identity", [x], ["y"]))
    value = helper.make_tensor_value_info
    shape = [2, HEADS, LENGTH, DEPTH]
    inputs = [value(n, TensorProto.FLOAT, shape) for n in ("x", "k", "v")]
    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(
        nodes, "stack", inputs, [value("y", TensorProto.FLOAT, shape)], tensors
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("omfuse", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_blocks_are_what_the_graphs_make_differently() -> None:
    blocks = splice.find_blocks(stack(3, False), stack(3, True))
    assert [b.name for b in blocks] == ["fa0", "fa1", "fa2"]
    assert [b.output for b in blocks] == ["b0.o", "b1.o", "b2.o"]
    assert set(blocks[1].inputs) == {"b0.x", "k", "v"}
    assert not splice.find_blocks(stack(2, False), stack(2, False))


def test_a_changed_weight_is_a_block_of_its_own() -> None:
    a, b = stack(2, False), stack(2, False)
    b.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(0.3), "scale"))
    report = diff(a, b, seeds=(0,))
    assert report.verdict == "fail"
    assert report.culprits == ["b0.z", "b1.z"]


def test_only_the_wrong_block_is_blamed_and_the_error_travels() -> None:
    report = diff(stack(4, False), stack(4, True, frozenset({1})), precision="fp16")
    assert report.culprits == ["fa1"]
    local = [b.local.verdict for b in report.blocks]
    along = [b.accumulated.verdict for b in report.blocks]
    assert local == ["pass", "fail", "pass", "pass"]
    assert along[0] == "pass"
    assert along[1] == "fail"


@pytest.mark.parametrize("wrong", [{0}, {5}, {1, 4}, {2, 3}])
def test_bisection_finds_every_culprit(wrong: set[int]) -> None:
    a, b = stack(6, False), stack(6, True, frozenset(wrong))
    report = diff(a, b, seeds=(0,), precision="fp16", localise=False, bisect=True)
    feeds = report.cases[0].feeds
    original = load_original(a, cache=False)
    checker = Checker(original, emulate.flat(a), b, feeds, "fp16")
    found, steps = checker.bisect(splice.find_blocks(a, b))
    original.close()
    assert set(found) == {f"fa{i}" for i in wrong}
    assert len(steps) <= 1 + len(wrong) * 5
    assert report.bisection == steps


def test_a_hybrid_of_no_block_is_the_original() -> None:
    a, b = stack(3, False), stack(3, True)
    hybrid = splice.hybrid(a, b, splice.find_blocks(a, b)[1:2])
    onnx.checker.check_model(hybrid)
    ops = [n.op_type for n in hybrid.graph.node]
    assert ops.count("FlashAttention") == 1
    assert ops.count("Softmax") == 3  # the replaced one is dead, not removed
    assert splice.hybrid(a, b, []).SerializeToString() == a.SerializeToString()


def test_reduce_writes_a_reproducer_that_fails(tmp_path) -> None:
    wrong = stack(4, True, frozenset({2}))
    folder = tmp_path / "small"
    report = diff(stack(4, False), wrong, seeds=(0,), precision="fp16", reduce=folder)
    assert report.reproducer
    files = {path.name for path in folder.iterdir()}
    assert files == {"original.onnx", "rewritten.onnx", "inputs.npz", "README.txt"}
    inputs = load_npz(folder / "inputs.npz")
    assert all(array.shape[0] == 1 for array in inputs.values())  # one batch row is enough
    again = diff(
        folder / "original.onnx", folder / "rewritten.onnx", inputs=inputs, precision="fp16"
    )
    assert again.verdict == "fail"
    assert len(onnx.load(folder / "rewritten.onnx").graph.node) == 1


def test_tensors_are_compared_in_bounded_groups(monkeypatch) -> None:
    from omfuse.diff import blocks

    one = 2 * HEADS * LENGTH * DEPTH * 4
    monkeypatch.setattr(blocks, "TAP_BYTES", 2 * one)
    seen: list[int] = []
    whole = Checker.golden

    def counting(self, names):
        seen.append(len(names))
        return whole(self, names)

    monkeypatch.setattr(Checker, "golden", counting)
    a, b = stack(3, False), stack(3, True)
    report = diff(a, b, seeds=(0,), precision="fp16", localise=False, tensors=True)
    assert [t.name for t in report.tensors] == splice.shared_tensors(a, b)
    assert all(t.verdict == "pass" for t in report.tensors)
    assert max(seen) <= 2
    assert sum(seen) == len(report.tensors)


def test_emulation_rounds_every_value_and_clamps_fills() -> None:
    a = stack(1, False)
    rounded = emulate.rounded(a, "fp16")
    feeds = {n: np.random.default_rng(0).standard_normal((2, HEADS, LENGTH, DEPTH)) for n in "xkv"}
    feeds = {n: array.astype(np.float32) for n, array in feeds.items()}
    original = load_original(a, cache=False)
    exact, narrow = original.run(feeds), original.run(feeds, "fp16")
    original.close()
    assert np.array_equal(narrow["y"], narrow["y"].astype(np.float16).astype(np.float32))
    error = np.linalg.norm(narrow["y"] - exact["y"]) / np.linalg.norm(exact["y"])
    assert 1e-5 < error < 2e-3
    assert sum(n.op_type == "Cast" for n in rounded.graph.node) >= 2 * 7
