import numpy as np
import pytest
from onnx import TensorProto, helper
from sim_files import (
    FLOAT,
    PAYLOADS,
    expected,
    feeds,
    model_of,
    om_bytes,
    spec,
    static_payload,
    write,
)

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
