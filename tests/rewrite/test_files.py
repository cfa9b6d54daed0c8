"""Loading and saving: bad files, external weights, unwritable outputs, untouched graphs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_text import build, feeds, run

import omfuse
from omfuse import api
from omfuse.errors import ModelError, OutputError, UsageError
from omfuse.graph import model_io

ATTENTION = """kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt)
    p = Softmax<axis=-1>(s) y = MatMul(p, v)"""


def saved(tmp_path: Path, body: str = ATTENTION) -> Path:
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    onnx.save(build(body), path)
    return path


def with_external_weights(folder: Path) -> Path:
    """A projection whose weight lies in weights.bin."""
    model = build(
        "w2 = Identity(w) qw = MatMul(q, w2) " + ATTENTION.replace("MatMul(q,", "MatMul(qw,")
    )
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(weight.tobytes())
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def code_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    return str(getattr(error.value, "code", ""))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x3a\xff\xff\xff\x7f12"])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        omfuse.rewrite(path)
    assert code_of(error) == "not-onnx"


def test_a_truncated_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError) as error:
        omfuse.rewrite(path)
    assert code_of(error) == "not-onnx"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        omfuse.rewrite(tmp_path / "none.onnx")
    assert code_of(error) == "model-missing"


def test_a_cycle_is_named_and_an_unsorted_graph_is_sorted(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = onnx.load(path)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    onnx.save(model, path)
    assert omfuse.rewrite(path).fused == 1
    model.graph.node.append(helper.make_node("Add", ["q", "c2"], ["c1"], name="one"))
    model.graph.node.append(helper.make_node("Add", ["q", "c1"], ["c2"], name="two"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as error:
        omfuse.rewrite(path)
    assert code_of(error) == "cycle"


def test_a_value_written_twice(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Identity", ["q"], ["p"]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as error:
        omfuse.rewrite(path)
    assert code_of(error) == "duplicate-name"


def test_external_weights_follow_the_model_without_being_read(tmp_path: Path) -> None:
    path = with_external_weights(tmp_path / "in")
    out = tmp_path / "out" / "fused.onnx"
    out.parent.mkdir()
    result = omfuse.rewrite(path)
    assert result.fused == 1
    assert all(not t.raw_data for t in result.model.graph.initializer if t.name == "w"), (
        "the weight was pulled into memory"
    )
    api.save(result, path, out)
    assert (out.parent / "weights.bin").read_bytes() == (path.parent / "weights.bin").read_bytes()
    inputs = feeds(onnx.load(path))
    np.testing.assert_allclose(
        run(onnx.load(out), inputs)[0], run(onnx.load(path), inputs)[0], rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    ("location", "keep", "code"),
    [
        ("weights.bin", 0, "external-data-missing"),
        ("weights.bin", 10, "external-data-short"),
        ("../weights.bin", 64, "external-data-outside"),
        ("/etc/hostname", 64, "external-data-outside"),
    ],
)
def test_bad_external_data(tmp_path: Path, location: str, keep: int, code: str) -> None:
    path = with_external_weights(tmp_path / "in")
    model = onnx.load(path, load_external_data=False)
    (tensor,) = [t for t in model.graph.initializer if t.name == "w"]
    tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    data = (path.parent / "weights.bin").read_bytes()[:keep]
    (path.parent / "weights.bin").unlink()
    if keep:
        (path.parent / "weights.bin").write_bytes(data)
    with pytest.raises(ModelError) as error:
        omfuse.rewrite(path)
    assert code_of(error) == code


def test_a_model_without_attention_is_copied_byte_by_byte(tmp_path: Path) -> None:
    path = saved(tmp_path, "y = Softmax<axis=-1>(q)")
    result = omfuse.rewrite(path)
    api.save(result, path, tmp_path / "out.onnx")
    assert not result.changed
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(UsageError) as error:
        api.save(omfuse.rewrite(path), path, path)
    assert code_of(error) == "same-file"
    assert path.read_bytes() == before


def test_an_unwritable_output_leaves_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(OutputError) as error:
        api.save(omfuse.rewrite(path), path, tmp_path / "no" / "out.onnx")
    assert code_of(error) == "output-not-writable"


@pytest.mark.parametrize("number", [28, 5])
def test_a_full_disk_or_an_interrupt_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = with_external_weights(tmp_path / "in")
    out = tmp_path / "out" / "fused.onnx"
    out.parent.mkdir()
    result = omfuse.rewrite(path)

    def fail(self: Path, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError) as error:
        api.save(result, path, out)
    assert code_of(error) == ("disk-full" if number == 28 else "output-not-writable")
    assert list(out.parent.iterdir()) == []

    def interrupt(self: Path, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.save(result, path, out)
    assert list(out.parent.iterdir()) == []


def test_a_foreign_weight_file_at_the_output_is_not_overwritten(tmp_path: Path) -> None:
    path = with_external_weights(tmp_path / "in")
    out = tmp_path / "out" / "fused.onnx"
    out.parent.mkdir()
    (out.parent / "weights.bin").write_bytes(b"precious")
    with pytest.raises(OutputError) as error:
        api.save(omfuse.rewrite(path), path, out)
    assert code_of(error) == "external-data-clash"
    assert (out.parent / "weights.bin").read_bytes() == b"precious"


def test_names_order_and_metadata_outside_the_block_survive(tmp_path: Path) -> None:
    model = build("a = Relu(q) " + ATTENTION.replace("MatMul(q,", "MatMul(a,") + " z = Neg(y)")
    model.producer_name = "someone"
    model.metadata_props.add(key="author", value="me")
    model.graph.doc_string = "text"
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    result = omfuse.rewrite(model).model
    assert [node.op_type for node in result.graph.node] == ["Relu", "FlashAttention", "Neg"]
    assert (result.producer_name, result.graph.doc_string) == ("someone", "text")
    assert result.metadata_props[0].value == "me"
    assert omfuse.rewrite(model).model.SerializeToString() == result.SerializeToString()


def test_sorting_keeps_the_order_where_it_can() -> None:
    graph = build("b = Neg(q) a = Relu(q) y = Add(a, b)").graph
    before = [node.op_type for node in graph.node]
    model_io.check_graph(graph, "x")
    assert [node.op_type for node in graph.node] == before


def test_a_graphsurgeon_graph_is_rewritten_like_its_file() -> None:
    """Scripts that edit graphs with onnx-graphsurgeon hand the graph over as it is."""
    import onnx_graphsurgeon as gs

    sample = Path(__file__).parents[2] / "examples" / "sample.onnx"
    graph = gs.import_onnx(onnx.load(sample))
    for node in graph.nodes:
        node.name = f"mine/{node.name}"
    result = omfuse.rewrite(graph)
    assert result.fused == omfuse.rewrite(sample).fused == 6
    assert all(record.node.startswith("mine/") for record in result.records)
    onnx.checker.check_model(result.model)
