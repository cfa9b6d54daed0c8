import numpy as np
import pytest
from onnx import TensorProto, helper
from sim_files import (
    FLOAT,
    PAYLOADS,
    dynamic_payload,
    expected,
    feeds,
    model_of,
    numpy_type,
    om_bytes,
    spec,
    static_payload,
    write,
)

from omfuse.acl.codes import AclError
from omfuse.acl.opening import library_of
from omfuse.acl.pipeline import Pipeline
from omfuse.acl.resources import SharedWorkspace
from omfuse.errors import ModelError, UsageError
from omfuse.session import open_session
from omfuse.sim.payload import Payload


def check(result, one):
    want = expected(one["a"], one["b"])
    assert list(result) == list(want)
    for name, value in want.items():
        np.testing.assert_array_equal(result[name], value)


@pytest.mark.parametrize("mode", PAYLOADS)
def test_shapes_of_every_mode(mode, om, device):
    sizes = [(2, 4)] if mode == "static" else [(2, 4), (1, 4), (2, 4)]
    if mode in ("image", "dims"):
        sizes.append((4, 8))
    with open_session(om(mode), "sim") as session:
        assert session.mode == {"open": "dynamic"}.get(mode, mode)
        assert session.device == "sim"
        assert [t.name for t in session.inputs] == ["a", "b"]
        assert [t.name for t in session.outputs] == ["total", "twice"]
        for seed, (rows, width) in enumerate(sizes):
            one = feeds(rows, width, seed)
            check(session.run(one), one)
    assert session.seconds.keys() == {"h2d", "compute", "d2h"}


SENTENCES = {
    "static": ((3, 4), "input 'a' [3,4]: dim 0 must be 2", "the model takes a float32[2,4]"),
    "batch": ((3, 4), "no gear was compiled for a [3,4]", "compiled are batch 1, 2, 4"),
    "image": ((3, 4), "no gear was compiled", "height x width 1x4, 2x4, 4x8"),
    "dims": ((2, 8), "no gear was compiled", "a [1,4] with b [1,4]; a [2,4] with b [2,4]"),
    "dynamic": ((9, 4), "input 'a' [9,4]: dim 0 must be in 1~8", "wider --shape"),
    "open": ((0, 4), "dim 0 must be 1 or more", "wider --shape"),
}


@pytest.mark.parametrize("mode", SENTENCES)
def test_wrong_shapes_list_the_valid_ones(mode, om, device):
    shape, message, hint = SENTENCES[mode]
    with open_session(om(mode), "sim") as session:
        before = len(device.report()["trace"])
        with pytest.raises(UsageError) as caught:
            session.run(feeds(*shape))
        used = [entry[2] for entry in device.report()["trace"][before:]]
        assert set(used) <= {"aclrtGetCurrentContext", "aclrtSetCurrentContext"}
        assert caught.value.code == "bad-shape"
        assert message in caught.value.message
        assert hint in caught.value.hint
        one = feeds(2)
        check(session.run(one), one)


def test_inputs_that_disagree_on_the_batch(om, device):
    with open_session(om("batch"), "sim") as session, pytest.raises(UsageError) as caught:
        session.run({"a": feeds(1)["a"], "b": feeds(2)["b"]})
    assert "disagree on the batch: a [1,4], b [2,4]" in caught.value.message


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda f: f.pop("b"), "input 'b' is missing", "a float32[2,4], b float32[2,4]"),
        (lambda f: f.update(c=1), "no input is called 'c'", "a float32[2,4]"),
        (lambda f: f.update(a=f["a"].astype("float64")), "takes float32, got float64", "astype"),
        (lambda f: f.update(a=f["a"][0]), "has 2 dims [2,4], got [4]", "reshape"),
    ],
)
def test_wrong_feeds(change, message, hint, om, device):
    one = feeds(2)
    change(one)
    with open_session(om("static"), "sim") as session, pytest.raises(UsageError) as caught:
        session.run(one)
    assert caught.value.code == "bad-feed"
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_any_memory_layout_is_fed_right(om, device):
    one = feeds(2)
    crooked = {
        "a": np.asfortranarray(one["a"]),
        "b": np.repeat(one["b"], 2, axis=1)[:, ::2],
    }
    swapped = {name: array.astype(array.dtype.newbyteorder()) for name, array in one.items()}
    with open_session(om("static"), "sim") as session:
        check(session.run(crooked), one)
        check(session.run(swapped), one)


def test_outputs_by_name_and_into_given_arrays(om, device):
    one = feeds(2)
    with open_session(om("static"), "sim") as session:
        assert list(session.run(one, ["twice"])) == ["twice"]
        with pytest.raises(UsageError, match="no output is called 'x'"):
            session.run(one, ["x"])
        target = np.zeros((2, 4), np.float32)
        assert session.run(one, out={"total": target})["total"] is target
        np.testing.assert_array_equal(target, one["a"] + one["b"])
        read_only = np.frombuffer(bytes(32), np.float32).reshape(2, 4)
        for wrong, what in (
            (np.zeros((4, 2), np.float32), "float32[4, 2]"),
            (read_only, "float32[2, 4], read-only"),
            (np.zeros((4, 2), np.float32).T, "float32[2, 4], not contiguous"),
            ([1, 2], "list"),
        ):
            with pytest.raises(UsageError) as caught:
                session.run(one, out={"total": wrong})
            assert caught.value.code == "bad-out"
            assert caught.value.message.endswith(f"the array given for it is {what}")
        with pytest.raises(UsageError, match="no output is called 'x'"):
            session.run(one, out={"x": target})
        assert not read_only.any()
        assert list(session.run(one, "twice")) == ["twice"]


def test_buffers_are_reused(om, device):
    with open_session(om("static"), "sim") as session:
        session.run(feeds(2))
        before = len(device.report()["trace"])
        session.run(feeds(2))
        names = [entry[2] for entry in device.report()["trace"][before:]]
    assert names.count("aclrtMemcpy") == 4
    assert len([n for n in names if "Malloc" in n or "Create" in n]) == 0
    assert len(names) == 7


def test_dynamic_outputs_are_reused_and_grow(om, device):
    with open_session(om("open"), "sim") as session:
        for rows in (2, 2, 50, 2, 50):
            one = feeds(rows)
            check(session.run(one), one)
        before = len(device.report()["trace"])
        session.run(feeds(50))
        names = [entry[2] for entry in device.report()["trace"][before:]]
    assert "aclrtMalloc" not in names


@pytest.mark.parametrize("mode", ["static", "batch", "dynamic"])
def test_feedback_stays_on_the_device(mode, om, device):
    one = feeds(2)
    with open_session(om(mode), "sim") as session:
        session.bind("total", "a")
        assert list(session.run(one)) == ["twice"]
        before = len(device.report()["trace"])
        total = one["a"] + one["b"]
        for _ in range(3):
            total = total + one["b"]
            result = session.run({"b": one["b"]})
            np.testing.assert_array_equal(result["twice"], total * 2)
        copies = [e[2] for e in device.report()["trace"][before:]].count("aclrtMemcpy")
        assert copies == 3 * 2  # b in, twice out
        asked = session.run({"b": one["b"]}, ["total"])
        np.testing.assert_array_equal(asked["total"], total + one["b"])
        check_fresh = session.run(one, ["total"])
        np.testing.assert_array_equal(check_fresh["total"], one["a"] + one["b"])
        session.forget()
        with pytest.raises(UsageError, match="input 'a' is missing"):
            session.run({"b": one["b"]})


def test_an_input_is_bound_to_one_output(om, device):
    one = feeds(2)
    with open_session(om("static"), "sim") as session:
        session.bind("total", "a")
        session.bind("total", "a")
        for output, fed in (("twice", "a"), ("total", "b")):
            with pytest.raises(UsageError, match="is bound already") as caught:
                session.bind(output, fed)
            assert caught.value.code == "bad-binding"
        session.bind("twice", "b")
        session.run(one)
        made = session.run({}, ["total"])["total"]
        np.testing.assert_array_equal(made, 3 * (one["a"] + one["b"]))
        with Pipeline(session) as pipeline, pytest.raises(UsageError) as caught:
            pipeline.submit(one)
        assert caught.value.code == "pipeline-bound"


def test_file_names_of_any_bytes(om, tmp_path, device):
    import os
    import shutil

    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.om")
    shutil.copy(om("static"), path)
    one = feeds(2)
    for options in ({}, {"load": "memory"}, {"isolated": True}):
        with open_session(path, "sim", **options) as session:
            check(session.run(one), one)
    with SharedWorkspace([path], 0, library_of(str(device.path))) as workspace:
        with open_session(path, "sim", workspace=workspace) as session:
            check(session.run(one), one)
        with pytest.raises(UsageError) as caught:
            open_session(path, "sim", workspace=workspace, isolated=True)
        assert caught.value.code == "isolated-workspace"


def test_bindings_must_fit(tmp_path, device):
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], "R", keepdims=0)]
    model = model_of(nodes, {"x": [2, 4]}, {"y": []})
    payload = Payload(
        "Ascend310P3", "static", (spec("x", (2, 4)),), (spec("R:0:y", (), onnx_name="y"),),
        model.SerializeToString(),
    )  # fmt: skip
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        with pytest.raises(UsageError) as caught:
            session.bind("y", "x")
        assert caught.value.code == "bad-binding"
        result = session.run({"x": np.ones((2, 4), np.float32)})["y"]
    assert result.shape == ()
    assert result == 8


def test_bfloat16(tmp_path, device):
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16)
    nodes = [helper.make_node("Add", ["x", "x"], ["y"], "A")]
    model = model_of(nodes, {"x": [3]}, {"y": [3]}, dtype=TensorProto.FLOAT)
    inside = [
        spec("x", (3,), "bfloat16"),
        spec("A:0:y", (3,), "bfloat16", onnx_name="y"),
    ]
    from dataclasses import replace

    inside = [replace(one, onnx_dtype="float32") for one in inside]
    payload = Payload(
        "Ascend910B3", "static", (inside[0],), (inside[1],), model.SerializeToString()
    )
    x = np.array([1, 2.5, -3], kind)
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        result = session.run({"x": x})["y"]
    assert result.dtype == numpy_type("bfloat16")
    np.testing.assert_array_equal(result.astype(float), [2, 5, -6])


def bfloat16_payload():
    from dataclasses import replace

    nodes = [helper.make_node("Add", ["x", "x"], ["y"], "A")]
    model = model_of(nodes, {"x": [3]}, {"y": [3]}, dtype=TensorProto.FLOAT)
    x, y = spec("x", (3,), "bfloat16"), spec("A:0:y", (3,), "bfloat16", onnx_name="y")
    inside = [replace(one, onnx_dtype="float32") for one in (x, y)]
    return Payload("Ascend910B3", "static", (inside[0],), (inside[1],), model.SerializeToString())


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


def test_load_from_memory_and_shared_workspace(om, device):
    paths = [str(om("static")), str(om("batch"))]
    one = feeds(2)
    with open_session(paths[0], "sim", load="memory") as session:
        check(session.run(one), one)
    library = library_of(str(device.path))
    with SharedWorkspace(paths, 0, library) as workspace:
        with (
            open_session(paths[0], "sim", workspace=workspace) as first,
            open_session(paths[1], "sim", workspace=workspace) as second,
        ):
            for session in (first, second, first):
                check(session.run(one), one)
            # Work memory belongs to one run at a time: no overlap.
            for session in (first, second):
                with pytest.raises(UsageError) as caught:
                    Pipeline(session)
                assert caught.value.code == "pipeline-workspace"
            for left, right in zip(first.map([one] * 4), second.map([one] * 4), strict=True):
                check(left, one)
                check(right, one)
        with pytest.raises(UsageError) as caught:
            open_session(paths[0], "sim", workspace=workspace, index=1)
        assert caught.value.code == "other-device"
    with pytest.raises(UsageError, match="no way 'post'"):
        open_session(paths[0], "sim", load="post")


def test_closed_sessions_say_so(om, device):
    session = open_session(om("static"), "sim")
    session.close()
    with pytest.raises(UsageError) as caught:
        session.run(feeds(2))
    assert caught.value.code == "session-closed"


def test_forgotten_sessions_give_everything_back(om, device):
    session = open_session(om("static"), "sim")
    session.run(feeds(2))
    del session  # the fixture looks at the ledger


def test_abandoned_pipeline(om, device):
    with open_session(om("static"), "sim") as session:
        for index, _ in enumerate(session.map(feeds(2, seed=i) for i in range(10))):
            if index == 2:
                break


def test_kinds_are_told_apart(om, tmp_path, device):
    real = tmp_path / "real.om"
    real.write_bytes(om_bytes(static_payload().to_bytes(), simulated=False))
    for path, where, code in (
        (real, "sim", "not-simulated"),
        (om("static"), "ascend", "simulated-om"),
        (tmp_path / "none.om", "sim", "model-not-found"),
    ):
        with pytest.raises(ModelError) as caught:
            open_session(path, where)
        assert caught.value.code == code
    text = tmp_path / "text.om"
    text.write_text("hello")
    with pytest.raises(ModelError) as caught:
        open_session(text, "ascend")
    assert caught.value.code == "not-om"


@pytest.mark.parametrize("cut", [300, 400, -10])
def test_damaged_files(cut, om, device):
    path = om("static")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Exception) as caught:  # noqa: PT011
        open_session(path, "sim")
    assert caught.value.code == "acl-145006"
    assert "damaged" in caught.value.message


def test_a_model_that_onnxruntime_refuses_is_a_load_error(tmp_path, device):
    model = model_of([helper.make_node("NoSuchOp", ["x"], ["y"], "N")], {"x": [2]}, {"y": [2]})
    payload = Payload(
        "Ascend310P3", "static", (spec("x", (2,)),), (spec("N:0:y", (2,), onnx_name="y"),),
        model.SerializeToString(),
    )  # fmt: skip
    with pytest.raises(Exception) as caught:  # noqa: PT011
        open_session(write(tmp_path / "m.om", payload), "sim")
    assert caught.value.code == "acl-545001"
    assert "NoSuchOp" in caught.value.message


def test_weights_beside_the_model(tmp_path, device):
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], "M")]
    model = model_of(nodes, {"x": [4]}, {"y": [4]}, [weight])
    data = np.arange(4, dtype=np.float32)
    payload = Payload(
        "Ascend310P3", "static", (spec("x", (4,)),), (spec("M:0:y", (4,), onnx_name="y"),),
        model.SerializeToString(), external={"w.bin": data.tobytes()},
    )  # fmt: skip
    with open_session(write(tmp_path / "m.om", payload), "sim") as session:
        result = session.run({"x": np.full(4, 2, np.float32)})["y"]
    np.testing.assert_array_equal(result, data * 2)
