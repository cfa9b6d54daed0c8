"""Tensors of a session: bf16, names, ranks, sizes, shapes that follow from values."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from sim_files import (
    bfloat16_payload,
    dynamic_payload,
    model_of,
    numpy_type,
    spec,
    write,
)

from omfuse.acl.codes import AclError
from omfuse.errors import ModelError, UsageError
from omfuse.session import open_session
from omfuse.sim.payload import Payload


def test_bfloat16(tmp_path, device):
    x = np.array([1, 2.5, -3], numpy_type("bfloat16"))
    with open_session(write(tmp_path / "m.om", bfloat16_payload()), "sim") as session:
        result = session.run({"x": x})["y"]
    assert result.dtype == numpy_type("bfloat16")
    np.testing.assert_array_equal(result.astype(float), [2, 5, -6])


@pytest.mark.parametrize("isolated", [False, True])
def test_bfloat16_as_files_hold_it(isolated, tmp_path, device):
    x = np.array([1, 2.5, -3], numpy_type("bfloat16"))
    np.save(tmp_path / "x.npy", x)
    loaded = np.load(tmp_path / "x.npy")
    assert loaded.dtype.name == "void16"  # numpy's files have no name for it
    path = write(tmp_path / "m.om", bfloat16_payload())
    with open_session(path, "sim", isolated=isolated) as session:
        for bits in (loaded, x.view(np.uint16)):
            result = session.run({"x": bits})["y"]
            np.testing.assert_array_equal(result.astype(float), [2, 5, -6])
        for wrong in (x.astype(np.float32), x.view(np.int16), np.zeros(3, "V4")):
            with pytest.raises(UsageError) as caught:
                session.run({"x": wrong})
            assert "takes bfloat16" in caught.value.message
            assert "ml_dtypes.bfloat16" in caught.value.hint


def test_bfloat16_bits_where_its_package_is_missing(tmp_path, device, monkeypatch):
    path = write(tmp_path / "m.om", bfloat16_payload())
    x = np.array([1, 2.5, -3], numpy_type("bfloat16"))
    from omfuse.acl import describe

    monkeypatch.setattr(describe, "numpy_dtype", lambda code, where=None: np.dtype(np.uint16))
    with open_session(path, "sim") as session:
        assert session.inputs[0].dtype == np.uint16
        for bits in (x.view("V2"), x.view(np.uint16)):
            result = session.run({"x": bits})["y"]
            np.testing.assert_array_equal(result.view(x.dtype).astype(float), [2, 5, -6])


def test_bfloat16_without_its_package(monkeypatch):
    from omfuse.acl.constants import numpy_dtype

    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert numpy_dtype(27) == np.uint16
    with pytest.raises(ModelError, match="no numpy form"):
        numpy_dtype(13)


def test_names_that_are_long_strange_or_not_unique(tmp_path, device):
    long = "encoder/" + "x" * 150
    nodes = [
        helper.make_node("Identity", [long], ["y:0"], "N"),
        helper.make_node("Identity", ["tab ö"], ["z"], "M"),
    ]
    model = model_of(nodes, {long: [2], "tab ö": [2]}, {"y:0": [2], "z": [2]})
    payload = Payload(
        "Ascend310P3",
        "static",
        (spec(long, (2,)), spec("tab ö", (2,))),
        (
            spec("N:0:y:0", (2,), onnx_name="y:0"),
            spec("M:0:y:0", (2,), onnx_name="z"),
        ),
        model.SerializeToString(),
    )
    x = np.array([1, 2], np.float32)
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        assert [t.name for t in session.inputs] == [long, "tab ö"]
        assert [t.name for t in session.outputs] == ["y:0", "y:0#2"]
        result = session.run({long: x, "tab ö": x + 1})
    np.testing.assert_array_equal(result["y:0#2"], x + 1)


def test_names_that_are_no_text(tmp_path, device):
    """The interface gives bytes; they come back as they went."""
    strange = b"enc\xff\x80der".decode("utf-8", errors="surrogateescape")
    nodes = [helper.make_node("Identity", ["x"], ["y"], "N")]
    model = model_of(nodes, {"x": [2]}, {"y": [2]})
    payload = Payload(
        "Ascend310P3", "static", (spec(strange, (2,), onnx_name="x"),),
        (spec("N:0:y", (2,), onnx_name="y"),), model.SerializeToString(),
    )  # fmt: skip
    x = np.array([1, 2], np.float32)
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        assert session.inputs[0].name == strange
        np.testing.assert_array_equal(session.run({strange: x})["y"], x)
        with pytest.raises(UsageError, match="is missing"):
            session.run({})


def test_tensors_without_elements(om, tmp_path, device):
    path = write(tmp_path / "empty.om", dynamic_payload(-1))
    nodes = [helper.make_node("Identity", ["x"], ["y"], "I")]
    model = model_of(nodes, {"x": [0, 4]}, {"y": [0, 4]})
    payload = Payload(
        "Ascend310P3", "static", (spec("x", (0, 4)),), (spec("I:0:y", (0, 4), onnx_name="y"),),
        model.SerializeToString(),
    )  # fmt: skip
    path = write(tmp_path / "m.om", payload)
    with open_session(path, "sim") as session:
        assert session.run({"x": np.empty((0, 4), np.float32)})["y"].shape == (0, 4)


def identity_payload(dims, mode="static"):
    nodes = [helper.make_node("Identity", ["x"], ["y"], "I")]
    model = model_of(nodes, {"x": list(dims)}, {"y": list(dims)})
    made = (spec("x", dims),), (spec("I:0:y", dims, onnx_name="y"),)
    return Payload("Ascend310P3", mode, *made, model.SerializeToString())


@pytest.mark.parametrize("dims", [(), (1,) * 8, (2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1)], ids=len)
def test_any_rank(dims, tmp_path, device):
    x = np.arange(np.prod(dims, dtype=int), dtype=np.float32).reshape(dims)
    with open_session(write(tmp_path / "m.om", identity_payload(dims)), "sim") as session:
        result = session.run({"x": x})["y"]
    assert result.shape == dims
    np.testing.assert_array_equal(result, x)


def test_more_dims_than_an_array_can_have(tmp_path, device):
    with pytest.raises(ModelError) as caught:
        open_session(write(tmp_path / "m.om", identity_payload((1,) * 128)), "sim")
    assert caught.value.code == "bad-description"
    assert "128 dims" in caught.value.message


def test_absurd_sizes_are_an_error_of_memory(tmp_path, device):
    with pytest.raises(AclError) as caught:
        open_session(write(tmp_path / "m.om", identity_payload((2**40,))), "sim")
    assert caught.value.number == 207001
    assert f"needs {2**42} bytes" in caught.value.message


def test_fixed_inputs_and_outputs_that_follow_from_values(tmp_path, device):
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], "Z"),
        helper.make_node("Transpose", ["where"], ["y"], "T"),
    ]
    model = model_of(nodes, {"x": [2, 3]}, {"y": ["n", 2]})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    outputs = (spec("T:0:y", (-1, 2), "int64", onnx_name="y"),)
    payload = Payload(
        "Ascend310P3", "dynamic", (spec("x", (2, 3)),), outputs, model.SerializeToString()
    )
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        assert session.mode == "dynamic"
        for fill in (0, 1, 5):
            x = np.zeros((2, 3), np.float32)
            x.reshape(-1)[:fill] = 1
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.argwhere(x))
        with pytest.raises(UsageError) as caught:
            session.run({"x": np.zeros((3, 3), np.float32)})
        assert caught.value.code == "bad-shape"


@pytest.mark.parametrize("size", [0, 24])
def test_a_fixed_input_beside_an_open_one(size, tmp_path, device):
    """Whatever size the runtime tells for it: in a model with open shapes none is used."""
    from dataclasses import replace

    nodes = [helper.make_node("Add", ["x", "step"], ["y"], "A")]
    model = model_of(nodes, {"x": ["n", 3], "step": [1]}, {"y": ["n", 3]})
    x = spec("x", (-1, 3), ranges=((1, -1), (3, 3)))
    step = replace(spec("step", (1,), ranges=((1, 1),)), size=size)
    payload = Payload(
        "Ascend310P3", "dynamic", (x, step), (spec("A:0:y", (-1, 3), onnx_name="y"),),
        model.SerializeToString(),
    )  # fmt: skip
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        for rows in (2, 5):
            feed = np.ones((rows, 3), np.float32)
            result = session.run({"x": feed, "step": np.array([2], np.float32)})
            np.testing.assert_array_equal(result["y"], feed + 2)
        with pytest.raises(UsageError, match="dim 0 must be 1"):
            session.run({"x": feed, "step": np.ones(2, np.float32)})
