"""Sessions: where nodes stand, weights outside the file, outputs, errors, isolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.host.attention_cases import Case, error_of, expected, inputs_of, model_of

from omfuse.errors import ModelError, OmfuseError, ToolchainError, UsageError
from omfuse.fuse.contract import DOMAIN, FlashAttentionAttrs
from omfuse.host import plain
from omfuse.host.lower import HOST_DOMAIN
from omfuse.host.nodes import NodeWriter
from omfuse.host.session import HostSession
from omfuse.host.site import Site, Value
from omfuse.session import open_session

CASE = Case(FlashAttentionAttrs(num_heads=2, num_kv_heads=2, scale=0.3, causal="top_left"))


def with_body(model: onnx.ModelProto, case: Case) -> onnx.ModelProto:
    """Add a function body with an overload, as rewritten models carry."""
    names = [name for name in model.graph.node[0].input if name]
    elem = {n: TensorProto.BOOL if n == "attn_mask" else TensorProto.FLOAT for n in names}
    site = Site(case.attrs, tuple((n, Value(elem[n])) for n in names), case.lse, case.opset)
    write = NodeWriter(case.opset)
    outputs = plain.build(site, write)
    imports = [helper.make_opsetid("", case.opset)]
    function = helper.make_function(
        DOMAIN, "FlashAttention", names, outputs, write.nodes, imports, overload="one"
    )
    function.attribute.extend(sorted(case.attrs.as_dict()))
    model.functions.append(function)
    model.graph.node[0].overload = "one"
    return model


def in_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move the node into both branches of an If."""
    graph = model.graph
    branch = helper.make_graph(graph.node, "branch", [], graph.output)
    node = helper.make_node("If", ["yes"], ["output"], then_branch=branch, else_branch=branch)
    del graph.node[:]
    graph.node.append(node)
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    return model


def in_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move the node into a local function of another domain."""
    node = model.graph.node[0]
    names = list(node.input)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    function = helper.make_function("user", "Block", names, ["output"], [node], imports)
    model.functions.append(function)
    call = helper.make_node("Block", names, ["output"], name="block", domain="user")
    del model.graph.node[:]
    model.graph.node.append(call)
    model.opset_import.append(helper.make_opsetid("user", 1))
    return model


def same(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


@pytest.mark.parametrize("place", [same, in_branch, in_function])
@pytest.mark.parametrize("lowering", ["body", "plain", "auto"])
def test_a_node_runs_wherever_it_stands(
    place: Callable[[onnx.ModelProto], onnx.ModelProto], lowering: str
) -> None:
    feeds = inputs_of(CASE)
    model = place(with_body(model_of(CASE, feeds), CASE))
    before = model.SerializeToString(deterministic=True)
    with HostSession(model, lowering) as session:
        got = session.run(feeds)["output"]
        kernels = list(session.kernels.values())
    assert error_of(CASE, got, expected(CASE, feeds)[0], feeds["value"]) < 4e-6
    assert len(kernels) == (2 if place is in_branch else 1)
    assert all(kernel.startswith("body" if lowering == "body" else "") for kernel in kernels)
    assert model.SerializeToString(deterministic=True) == before


def test_long_unmasked_nodes_get_the_flash_path() -> None:
    case = dataclasses.replace(CASE, q_len=2048, kv_len=2048, batch=1, depth=8)
    feeds = inputs_of(case.with_attrs(causal="none"))
    model = model_of(case.with_attrs(causal="none"), feeds)
    with HostSession(model, "auto") as session:
        assert session.kernels["attn"].startswith(("kernel: ", "mha: scores would take 32 MiB"))


def test_declared_symbols_can_be_given_sizes() -> None:
    case = dataclasses.replace(CASE.with_attrs(causal="none"), dynamic=True)
    model = model_of(case, inputs_of(case))
    sizes = dict.fromkeys(("query", "key", "value"), (1, 2, 4096, 8))
    with HostSession(model, "auto", input_shapes=sizes) as session:
        assert session.kernels["attn"].startswith(("kernel: ", "mha: "))
        assert session.inputs[0].shape == tuple(f"query_{i}" for i in range(4))


def saved_with_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray], np.ndarray]:
    """Save a model whose value comes from an external file."""
    feeds = inputs_of(CASE)
    model = model_of(CASE, feeds)
    weight = feeds.pop("value")
    model.graph.initializer.append(numpy_helper.from_array(weight, "value"))
    model.graph.input.remove(model.graph.input[2])
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path, feeds, weight


@pytest.mark.parametrize("isolated", [False, True])
def test_external_weights_stay_where_they_are(
    tmp_path: Path, isolated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, feeds, weight = saved_with_weights(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    with HostSession(path.name, isolated=isolated) as session:
        got = session.run(feeds)["output"]
    want = expected(CASE, {**feeds, "value": weight})[0]
    assert error_of(CASE, got, want, weight) < 4e-6
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_model_in_memory_finds_its_weights_by_base_dir(tmp_path: Path) -> None:
    path, feeds, _ = saved_with_weights(tmp_path)
    model = onnx.load(path, load_external_data=False)
    with HostSession(model, base_dir=tmp_path) as session, HostSession(path) as other:
        assert (session.run(feeds)["output"] == other.run(feeds)["output"]).all()


@pytest.mark.parametrize("isolated", [False, True])
def test_missing_weights_are_named(tmp_path: Path, isolated: bool) -> None:
    path, _, _ = saved_with_weights(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError) as caught:
        HostSession(path, isolated=isolated)
    assert caught.value.code == "external-data-missing"
    assert caught.value.hint


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path, _, _ = saved_with_weights(tmp_path / "inner")
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OmfuseError):
        HostSession(path)


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    whole = with_body(model_of(CASE, inputs_of(CASE)), CASE).SerializeToString()
    unknown = helper.make_model(
        helper.make_graph(
            [helper.make_node("Frobnicate", ["x"], ["y"], domain="com.acme")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)],
        ir_version=8,
    )
    return {
        "empty": (b"", "model-unreadable"),
        "text": (b"hello, this is no model FlashAttention", "model-unreadable"),
        "cut short": (whole[: len(whole) // 2], "model-unreadable"),
        "unknown operator": (unknown.SerializeToString(), "unknown-op"),
    }


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("kind", ["empty", "text", "cut short", "unknown operator"])
def test_broken_files_give_one_clear_error(tmp_path: Path, kind: str, isolated: bool) -> None:
    data, code = bad_files(tmp_path)[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        HostSession(path, isolated=isolated)
    assert caught.value.code == code
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_every_prefix_of_a_model_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    whole = with_body(model_of(CASE, inputs_of(CASE)), CASE).SerializeToString()
    path = tmp_path / "model.onnx"
    for size in range(1, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        with pytest.raises(OmfuseError):
            HostSession(path)


def test_no_such_file() -> None:
    with pytest.raises(ModelError) as caught:
        open_session("nowhere.onnx")
    assert caught.value.code == "model-not-found"


@pytest.mark.parametrize(
    "change",
    [
        lambda feeds: feeds.pop("key"),
        lambda feeds: feeds.update(more=np.zeros(1)),
        lambda feeds: feeds.update(query=feeds["query"].astype(np.float64)),
        lambda feeds: feeds.update(query=feeds["query"][0]),
        lambda feeds: feeds.update(query=feeds["query"][:, :1]),
    ],
)
@pytest.mark.parametrize("isolated", [False, True])
def test_feeds_are_checked(change: Callable[[dict[str, np.ndarray]], None], isolated: bool) -> None:
    feeds = inputs_of(CASE)
    with HostSession(model_of(CASE, feeds), isolated=isolated) as session:
        change(feeds)
        with pytest.raises(UsageError) as caught:
            session.run(feeds)
        assert caught.value.code == "bad-feed"
        good = inputs_of(CASE)
        assert session.run(good)["output"].shape == good["query"].shape


def test_isolated_gives_the_same_bits(tmp_path: Path) -> None:
    feeds = inputs_of(CASE)
    model = model_of(CASE, feeds)
    with HostSession(model) as near, HostSession(model, isolated=True) as far:
        assert (near.run(feeds)["output"] == far.run(feeds)["output"]).all()
        assert near.kernels == far.kernels
        assert near.inputs == far.inputs


def test_a_native_crash_is_an_error(tmp_path: Path) -> None:
    feeds = inputs_of(CASE)
    session = HostSession(model_of(CASE, feeds), isolated=True)
    session._engine._process.kill()  # what a segmentation fault looks like from outside
    with pytest.raises(ToolchainError) as caught:
        session.run(feeds)
    assert caught.value.code == "onnxruntime-crashed"
    assert "SIGKILL" in caught.value.message
    session.close()


def test_inner_tensors_can_be_read() -> None:
    feeds = inputs_of(CASE)
    model = model_of(CASE, feeds)
    model.graph.node[0].output[0] = "inner"
    model.graph.node.append(helper.make_node("Neg", ["inner"], ["output"]))
    with HostSession(model, extra_outputs=["inner"]) as session:
        results = session.run(feeds)
    assert (results["inner"] == -results["output"]).all()
    with pytest.raises(UsageError, match="no node"):
        HostSession(model, extra_outputs=["nothing"])


def test_a_closed_session_says_so() -> None:
    session = HostSession(model_of(CASE, inputs_of(CASE)))
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(inputs_of(CASE))


def test_an_unknown_lowering_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        HostSession(model_of(CASE, inputs_of(CASE)), "fastest")
    assert caught.value.code == "unknown-lowering"


def test_equal_nodes_share_one_function() -> None:
    from omfuse.host.lower import lower

    model = model_of(CASE, inputs_of(CASE))
    twin = model.graph.node.add()
    twin.CopyFrom(model.graph.node[0])
    twin.output[0] = "again"
    twin.name = "attn2"
    lowered = lower(model)
    assert list(lowered.kernels) == ["attn", "attn2"]
    assert sum(f.domain == HOST_DOMAIN for f in lowered.model.functions) == 1
