"""Weights that stay in their files: compared, blamed and emulated like those that are held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import omfuse
from omfuse.api import save
from omfuse.diff import diff, weights
from omfuse.diff.sides import load_npz
from omfuse.fuse.contract import is_flash_attention

DEPTH, HIDDEN = 8, 16


def projected(dtype: int) -> onnx.ModelProto:
    """Two attentions behind projections, three weights each."""
    rng = np.random.default_rng(0)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    nodes, tensors, source = [], [], "x"
    for layer in range(2):
        made = {}
        for what in "qkv":
            name = f"{what}{layer}"
            weight = rng.standard_normal((HIDDEN, HIDDEN)) / 4
            tensors.append(numpy_helper.from_array(weight.astype(kind), f"w{name}"))
            nodes.append(helper.make_node("MatMul", [source, f"w{name}"], [name], name))
            made[what] = name
        turned, scores, soft, out = (f"{w}{layer}" for w in ("kt", "s", "p", "y"))
        nodes += [
            helper.make_node("Transpose", [made["k"]], [turned], turned, perm=[0, 2, 1]),
            helper.make_node("MatMul", [made["q"], turned], [scores], scores),
            helper.make_node("Softmax", [scores], [soft], soft, axis=-1),
            helper.make_node("MatMul", [soft, made["v"]], [out], out),
        ]
        source = out
    graph = helper.make_graph(
        nodes,
        "projected",
        [helper.make_tensor_value_info("x", dtype, [2, "length", HIDDEN])],
        [helper.make_tensor_value_info(source, dtype, [2, "length", HIDDEN])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, dtype: int) -> tuple[Path, Path]:
    original, fused = folder / "a" / "model.onnx", folder / "b" / "fused.onnx"
    for path in (original, fused):
        path.parent.mkdir()
    onnx.save(
        projected(dtype),
        original,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    save(omfuse.rewrite(original), original, fused)
    return original, fused


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SMALL", 64)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model and its rewrite, each with its weights beside it, none small enough to be held."""
    return written(tmp_path, TensorProto.FLOAT)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_equal_models_pass(tmp_path: Path, dtype: int) -> None:
    pair = written(tmp_path, dtype)
    report = diff(*pair, cache=False, localise=True)
    assert report.verdict == "pass"
    assert len(report.blocks) == 2
    assert all(block.problem is None for block in report.blocks)


def test_a_model_in_memory_takes_its_weights_from_the_original(pair: tuple[Path, Path]) -> None:
    result = omfuse.rewrite(pair[0])
    report = diff(pair[0], result.model, session_options={"base_dir": pair[0]}, cache=False)
    assert report.verdict == "pass"


def test_a_wrong_scale_is_found_in_its_block(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(pair[1], load_external_data=False)
    wrong = [node for node in model.graph.node if is_flash_attention(node)][1]
    for attribute in wrong.attribute:
        if attribute.name == "scale":
            attribute.f *= 1.5
    onnx.save(model, pair[1])
    report = diff(*pair, cache=False, bisect=True, reduce=tmp_path / "piece")
    assert report.verdict == "fail"
    assert wrong.name in report.culprits
    piece = tmp_path / "piece"
    alone = diff(
        piece / "original.onnx",
        piece / "rewritten.onnx",
        inputs=load_npz(piece / "inputs.npz"),
        cache=False,
    )
    assert alone.verdict == "fail"


def test_a_changed_weight_is_found(pair: tuple[Path, Path]) -> None:
    file = pair[1].parent / "weights.bin"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2  # w of the second layer
    data[middle : middle + 64] = bytes(64)
    file.write_bytes(bytes(data))
    report = diff(*pair, cache=False, localise=True)
    assert report.verdict == "fail"
    assert "q1" in {block.output for block in report.blocks}


def test_the_cache_sees_other_weights(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, fused = pair
    cache = tmp_path / "cache"
    assert diff(original, fused, cache=cache).verdict == "pass"
    for path in pair:
        file = path.parent / "weights.bin"
        data = np.frombuffer(file.read_bytes(), np.uint8).copy()
        data[: len(data) // 2] = np.roll(data[: len(data) // 2], 32)
        file.write_bytes(data.tobytes())
    assert diff(original, fused, cache=cache).verdict == "pass"


def test_a_large_constant_node_is_held(tmp_path: Path) -> None:
    """A Constant node is no weight that could be cast beside its file."""
    model = projected(TensorProto.FLOAT16)
    weight = next(t for t in model.graph.initializer if t.name == "wq0")
    constant = helper.make_node("Constant", [], ["wq0"], "c", value=weight)
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, constant)
    fused = omfuse.rewrite(model).model
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, convert_attribute=True)
    assert diff(path, fused, cache=False).verdict == "pass"
