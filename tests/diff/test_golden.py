from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from omfuse.diff import emulate
from omfuse.diff.golden import inputs_digest, load_original
from omfuse.errors import ModelError
from omfuse.host.feeding import write_npz


def gain(factor: float, elem: int = TensorProto.FLOAT) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["deep/inner"]),
        helper.make_node("Add", ["deep/inner", "x"], ["y"]),
    ]
    tensor = numpy_helper.from_array(np.array(factor, dtype), "factor")
    x, y = value("x", elem, ["S", 4]), value("y", elem, ["S", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


FEEDS = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


def test_a_second_run_comes_from_the_cache_and_is_the_same(tmp_path) -> None:
    for hits in (0, 1):
        original = load_original(gain(0.5), cache=tmp_path)
        results = original.run(FEEDS, taps=["deep/inner"])
        assert original.hits == hits
        np.testing.assert_array_equal(results["y"], FEEDS["x"] * 1.5)
        np.testing.assert_array_equal(results["deep/inner"], FEEDS["x"] * 0.5)
        original.close()


@pytest.mark.parametrize("change", ["model", "inputs", "precision", "onnxruntime"])
def test_whatever_changes_the_result_changes_the_key(change, tmp_path, monkeypatch) -> None:
    first = load_original(gain(0.5), cache=tmp_path)
    first.run(FEEDS)
    first.close()
    feeds = {"x": FEEDS["x"] + 1} if change == "inputs" else FEEDS
    if change == "onnxruntime":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.0")
    second = load_original(gain(0.25 if change == "model" else 0.5), cache=tmp_path)
    second.wide = gain(0.25 if change == "model" else 0.5)
    second.run(feeds, "bf16" if change == "precision" else "fp32")
    assert second.hits == 0
    second.close()


def test_a_damaged_entry_is_written_again(tmp_path) -> None:
    original = load_original(gain(0.5), cache=tmp_path)
    original.run(FEEDS)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:40])
    np.testing.assert_array_equal(original.run(FEEDS)["y"], FEEDS["x"] * 1.5)
    assert original.hits == 0
    original.run(FEEDS)
    assert original.hits == 1
    original.close()


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    original = load_original(gain(0.5), cache=blocked / "inner")
    assert original.run(FEEDS)["y"].shape == (2, 4)
    original.close()


def test_an_fp16_model_is_golden_in_fp32() -> None:
    """3 * 1.0009765625 + itself is not representable in fp16, and must not be rounded."""
    model = gain(3.0, TensorProto.FLOAT16)
    feeds = {"x": np.full((1, 4), 1.0009765625, np.float16)}
    original = load_original(model, cache=False)
    assert original.isolated  # fp16 models may crash onnxruntime natively
    golden = original.run(feeds)["y"]
    original.close()
    assert golden.dtype == np.float32
    np.testing.assert_array_equal(golden, np.full((1, 4), 4.00390625, np.float32))
    wide = emulate.widen(model)
    assert wide.graph.initializer[0].data_type == TensorProto.FLOAT
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT16  # input untouched


def test_digest_sees_dtype_shape_and_bytes() -> None:
    x = np.zeros((2, 4), np.float32)
    variants = [x, x.reshape(4, 2), x.astype(np.int32), x + 1]
    assert len({inputs_digest({"x": v}) for v in variants} | {inputs_digest({"z": x})}) == 5


def test_a_failed_write_leaves_nothing(tmp_path) -> None:
    class Unwritable:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_npz(tmp_path / "x.npz", {"a": Unwritable()})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a model at all", None])
def test_bad_files_are_one_clear_error(content, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_original(path)
    assert caught.value.code == ("model-not-found" if content is None else "model-unreadable")
    assert caught.value.hint
