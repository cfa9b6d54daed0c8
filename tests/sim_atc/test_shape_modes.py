"""Shapes and dtypes of a compile: in the payload, in the file, and when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.sim_atc.conftest import FORM, FUSED, IMAGE, drive, parse, save

import omfuse
from omfuse.host import native
from omfuse.session import open_session
from omfuse.sim.payload import Payload, is_simulated, load_payload

pytestmark = pytest.mark.usefixtures("here")
QKV = ("q", "k", "v")
Dims = tuple[int, ...]


def compiled(tmp_path: Path, shape: Mapping[str, Any], model: str = FUSED, **more: Any) -> Path:
    path = tmp_path / "m.om"
    omfuse.compile(parse(model), path, "310P3", device="sim", shape=shape, use_cache=False, **more)
    return path


def feeds(dims: Dims, dtype: str = "float32") -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(dims).astype(dtype) for name in QKV}


def close(found: Any, exact: Any) -> None:
    """The simulated device may compute attention with the kernel, in fp16."""
    np.testing.assert_allclose(found, exact, rtol=2e-2, atol=4e-3)


def runs(tmp_path: Path, path: Path, dims: Dims) -> None:
    """The compiled file computes what the model computes."""
    if native.compiler() is None:
        pytest.skip("the simulated device needs a C++ compiler")
    given = feeds(dims)
    with open_session(save(tmp_path, FUSED)) as host, open_session(path, device="sim") as sim:
        close(sim.run(given)["y"], host.run(given)["y"])


def test_a_static_shape(tmp_path: Path) -> None:
    path = compiled(tmp_path, {"batch": 2, "seq": 8})
    payload = load_payload(path)
    assert is_simulated(path)
    assert (payload.mode, payload.soc, payload.opset) == ("static", "Ascend310P3", 17)
    assert [s.dims for s in payload.inputs] == [(2, 2, 8, 16)] * 3
    (out,) = payload.outputs
    assert (out.name.split(":")[1:], out.dims, out.size) == (["0", "y"], (2, 2, 8, 16), 2048)
    assert payload.gears == payload.gear_inputs == payload.gear_outputs == ()
    assert payload.work_size > 0
    (block,) = payload.attention
    assert block.op_type == "FlashAttention"
    runs(tmp_path, path, (2, 2, 8, 16))


def test_gears_of_the_batch(tmp_path: Path) -> None:
    path = compiled(tmp_path, {"batch": [1, 4, 2], "seq": 8})
    payload = load_payload(path)
    assert (payload.mode, payload.gears) == ("batch", ((1,), (4,), (2,)))
    assert payload.gear_inputs == tuple(((n, 2, 8, 16),) * 3 for n in (1, 4, 2))
    assert payload.gear_outputs == tuple(((n, 2, 8, 16),) for n in (1, 4, 2))
    assert payload.inputs[0].dims == payload.outputs[0].dims == (-1, 2, 8, 16)
    assert payload.inputs[0].size == payload.outputs[0].size == 4 * 2 * 8 * 16 * 4
    found = omfuse_inspect(path)
    assert found["gears"]["values"] == [[1], [4], [2]]
    assert found["gears"]["output_shapes"] == ["0,0,1,2,8,16", "1,0,4,2,8,16", "2,0,2,2,8,16"]
    (block,) = found["attention"]
    assert (block["copies"], block["complete"]) == (3, True)
    assert found["graphs"] == 4
    runs(tmp_path, path, (4, 2, 8, 16))


def omfuse_inspect(path: Path) -> dict[str, Any]:
    from omfuse.atc.om.summary import describe_om

    return describe_om(path)


def test_gears_of_dims_in_step(tmp_path: Path) -> None:
    path = compiled(tmp_path, {"batch,seq": "1,8;4,16"})
    payload = load_payload(path)
    assert (payload.mode, payload.gears) == ("dims", ((1, 8) * 3, (4, 16) * 3))
    assert payload.gear_outputs == (((1, 2, 8, 16),), ((4, 2, 16, 16),))
    assert payload.outputs[0].dims == (-1, 2, -1, 16)
    assert omfuse_inspect(path)["gears"]["order"] == list(QKV)
    runs(tmp_path, path, (4, 2, 16, 16))


def test_numbers_of_dims_gears_follow_the_order_of_the_flag(tmp_path: Path) -> None:
    run = drive(
        tmp_path, FORM, {}, input_shape="v:1,2,-1,16;k:1,2,-1,16;q:-1,2,8,16",
        dynamic_dims="8,8,1;16,16,1", input_format="ND",
    )  # fmt: skip
    payload = load_payload(run.om)
    assert [s.onnx_name for s in payload.inputs] == ["q", "k", "v"]
    assert payload.gear_inputs == (
        ((1, 2, 8, 16), (1, 2, 8, 16), (1, 2, 8, 16)),
        ((1, 2, 8, 16), (1, 2, 16, 16), (1, 2, 16, 16)),
    )
    assert run.info["gears"]["order"] == ["v", "k", "q"]


def test_gears_of_an_image(tmp_path: Path) -> None:
    run = drive(
        tmp_path, IMAGE, {}, input_shape="x:1,3,-1,-1", dynamic_image_size="8,8;16,4",
        input_format="NCHW",
    )  # fmt: skip
    payload = load_payload(run.om)
    assert (payload.mode, payload.gears) == ("image", ((8, 8), (16, 4)))
    assert payload.gear_outputs == (((1, 3, 4, 4),), ((1, 3, 8, 2),))
    assert payload.inputs[0].acl_format == 0
    assert run.info["gears"]["kind"] == "image"


@pytest.mark.parametrize(
    ("spec", "pair", "size"), [("1~4", (1, 4), 4 * 2 * 8 * 16 * 4), ("-1", (1, -1), 0)]
)
def test_ranges(tmp_path: Path, spec: str, pair: tuple[int, int], size: int) -> None:
    path = compiled(tmp_path, {"batch": spec, "seq": 8})
    payload = load_payload(path)
    assert payload.mode == "dynamic"
    assert payload.inputs[0].dims == payload.outputs[0].dims == (-1, 2, 8, 16)
    assert payload.inputs[0].ranges == (pair, (2, 2), (8, 8), (16, 16))
    assert payload.inputs[0].size == payload.outputs[0].size == size
    found = omfuse_inspect(path)
    assert found["unknown_shape"] is True
    assert found["inputs"][0]["ranges"][0] == list(pair)
    runs(tmp_path, path, (3, 2, 8, 16))


def test_a_fixed_input_of_a_model_with_open_shapes_has_its_size(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 3] x, float[1] step) => (float[n, 3] y, float[1] z) {
      y = Add(x, step)
      z = Mul(step, step)
    }
    """
    payload = load_payload(compiled(tmp_path, {"n": "-1"}, text))
    assert payload.mode == "dynamic"
    assert [tensor.size for tensor in (*payload.inputs, *payload.outputs)] == [0, 4, 0, 4]


def test_ranges_by_position_and_by_the_old_flag(tmp_path: Path) -> None:
    shapes = ";".join(["1~4,2,8,16"] * 3)
    one = load_payload(drive(tmp_path, FORM, {}, input_shape=shapes).om)
    named = ";".join(f"{n}:[1~4,2,8,16]" for n in QKV)
    two = load_payload(drive(tmp_path, FORM, {}, input_shape_range=named).om)
    assert one.inputs == two.inputs
    assert one.inputs[2].ranges[0] == (1, 4)


def test_sizes_that_follow_from_values_make_a_dynamic_model(tmp_path: Path) -> None:
    model = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x) => (int64[1,n] y) { [find] y = NonZero(x) }
    """
    payload = load_payload(drive(tmp_path, model, {}, input_shape="x:4").om)
    assert payload.mode == "dynamic"
    assert payload.inputs[0].ranges == ((4, 4),)
    assert payload.outputs[0].dims == (1, -1)


def test_shapes_that_inference_cannot_find_are_measured(tmp_path: Path) -> None:
    model = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2,6] x) => (float[a,b] y) <float[2] f = {1.0, 2.0}> {
      [size] s = Shape(x)
      [real] r = Cast<to: int = 1>(s)
      [more] m = Mul(r, f)
      [root] t = Sqrt(m)
      [twice] u = Mul(t, t)
      [whole] w = Cast<to: int = 7>(u)
      [fill] y = ConstantOfShape(w)
    }
    """
    payload = load_payload(drive(tmp_path, model, {}, input_shape="x:2,6").om)
    assert payload.mode == "static"
    assert payload.outputs[0].dims in ((2, 12), (1, 12), (2, 11))


# Dtypes and formats


def payload_of(tmp_path: Path, **flags: Any) -> Payload:
    return load_payload(drive(tmp_path, FORM, {}, **flags).om)


def test_fp16_at_the_inputs(tmp_path: Path) -> None:
    payload = payload_of(tmp_path, input_fp16_nodes="q;v")
    assert [s.dtype for s in payload.inputs] == ["float16", "float32", "float16"]
    assert [s.acl_dtype for s in payload.inputs] == [1, 0, 1]
    assert {s.onnx_dtype for s in payload.inputs} == {"float32"}
    assert payload.inputs[0].size * 2 == payload.inputs[1].size


@pytest.mark.parametrize(
    ("word", "dtype", "acl"),
    [("FP16", "float16", 1), ("FP32", "float32", 0), ("UINT8", "uint8", 4), ("INT8", "int8", 2)],
)
def test_dtype_at_the_outputs(tmp_path: Path, word: str, dtype: str, acl: int) -> None:
    (out,) = payload_of(tmp_path, output_type=word).outputs
    assert (out.dtype, out.acl_dtype, out.onnx_dtype) == (dtype, acl, "float32")


def test_outputs_by_choice_with_their_own_dtype(tmp_path: Path) -> None:
    payload = payload_of(tmp_path, out_nodes="attn:0;scaled:0", output_type="scaled:0:FP16")
    assert [s.name for s in payload.outputs] == ["attn:0:y", "scaled:0:a"]
    assert [s.dtype for s in payload.outputs] == ["float32", "float16"]
    by_name = payload_of(tmp_path, out_nodes="a;y")
    assert [s.onnx_name for s in by_name.outputs] == ["a", "y"]


@pytest.mark.parametrize(("layout", "number"), [("NCHW", 0), ("ND", 2), ("NCDHW", 2), (None, 0)])
def test_the_format_of_four_dims(tmp_path: Path, layout: str | None, number: int) -> None:
    assert payload_of(tmp_path, input_format=layout).inputs[0].acl_format == number


@pytest.mark.parametrize(
    ("flags", "mode"),
    [({}, "force_fp16"), ({"precision_mode": "must_keep_origin_dtype"}, "must_keep_origin_dtype"),
     ({"precision_mode_v2": "origin"}, "origin")],
)  # fmt: skip
def test_the_precision_in_force(tmp_path: Path, flags: dict[str, str], mode: str) -> None:
    model = FORM.replace("float[n,2", "float16[n,2").replace("float[1] w", "float16[1] w")
    assert load_payload(drive(tmp_path, model, {}, **flags).om).precision == mode


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_at_the_interface(tmp_path: Path, kind: str) -> None:
    model = FORM.replace("float[n,2", f"{kind}[n,2").replace("float[1] w", f"{kind}[1] w")
    run = drive(tmp_path, model, {}, soc_version="Ascend910B3")
    payload = load_payload(run.om)
    assert {s.dtype for s in payload.inputs} == {kind}
    assert payload.outputs[0].size == 2 * 2 * 8 * 16
    assert run.info["attention"][0]["inputs"][0] == [kind, [1, 2, 8, 16]]


# Weights


def test_weights_are_in_the_file_once_for_all_gears(tmp_path: Path) -> None:
    model = parse(FORM)
    big = onnx.numpy_helper.from_array(np.ones((64, 1024), np.float32), "w2")
    model.graph.initializer.append(big)
    model.graph.node[0].input[1] = "w"
    one = drive(tmp_path, model, {})
    gears = ";".join(f"{n}:-1,2,8,16" for n in QKV)
    two = drive(tmp_path, model, {}, input_shape=gears, dynamic_batch_size="1,2,4")
    size = {part["name"]: part["bytes"] for part in one.info["partitions"]}
    again = {part["name"]: part["bytes"] for part in two.info["partitions"]}
    assert size["WEIGHTS_DATA"] == again["WEIGHTS_DATA"] >= 64 * 1024 * 4
    assert two.info["operators"]["Const"] == 3 * one.info["operators"]["Const"]


def test_external_data_travels_in_the_payload(tmp_path: Path) -> None:
    model = parse(FORM)
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.raw_data = np.float32(2).tobytes()
    onnx.external_data_helper.set_external_data(tensor, "w.bin", 64, 4)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"\0" * 64 + np.float32(2).tobytes())
    run = drive(tmp_path, model, {})
    assert load_payload(run.om).external == {"w.bin": (folder / "w.bin").read_bytes()}
    assert run.info["operators"]["FileConstant"] == 1


@pytest.mark.parametrize("mode", ["1", "2"])
def test_weights_beside_the_file(tmp_path: Path, mode: str) -> None:
    model = parse(FORM)
    data = np.arange(64, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(data, "w2"))
    run = drive(tmp_path, model, {}, external_weight=mode)
    (extra,) = run.extra_files
    assert run.info["operators"]["FileConstant"] == 2
    assert "WEIGHTS_DATA" not in {part["name"] for part in run.info["partitions"]}
    if mode == "1":
        contents = [path.read_bytes() for path in sorted(extra.iterdir())]
        assert sorted(contents) == sorted([data.tobytes(), np.float32(2).tobytes()])
    else:
        assert extra.name == "m_weight_combined"
        assert data.tobytes() in extra.read_bytes()
    target = tmp_path / "away" / "m.om"
    omfuse.compile(
        parse(FUSED), target, "310P3", device="sim", shape=["batch=1", "seq=8"],
        settings={"external_weight": mode}, use_cache=False,
    )  # fmt: skip
    assert [p.name for p in target.parent.iterdir() if p.suffix == ".om"] == ["m.om"]


def test_attention_inside_an_if_is_listed(tmp_path: Path) -> None:
    attention = (
        "FlashAttention<num_heads: int = 2, num_kv_heads: int = 2, scale: float = 0.25,"
        ' layout: string = "BNSD", out_layout: string = "BNSD",'
        " scale_value: floats = [0.25, 0.0]>(q, q, q)"
    )
    model = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2,8,16] q, bool[1] c) => (float[1,2,8,16] y) {{
      [choose] y = If (c) <
        then_branch = t () => (float[1,2,8,16] a) {{ [inner] a = {attention} }},
        else_branch = e () => (float[1,2,8,16] b) {{ [plain] b = Relu(q) }}
      >
    }}
    """
    run = drive(tmp_path, model, {}, input_shape="q:1,2,8,16;c:1")
    (block,) = run.info["attention"]
    assert (block["node"], block["complete"]) == ("inner", True)
    assert run.info["graphs"] == 3
    assert load_payload(run.om).attention[0].node == "inner"


def test_half_at_the_interface_of_a_running_model(tmp_path: Path) -> None:
    if native.compiler() is None:
        pytest.skip("the simulated device needs a C++ compiler")
    path = compiled(
        tmp_path, {"batch": 1, "seq": 8}, settings={"input_fp16_nodes": "q", "output_type": "FP16"}
    )
    given = feeds((1, 2, 8, 16))
    half = {**given, "q": given["q"].astype(np.float16)}
    with open_session(save(tmp_path, FUSED)) as host, open_session(path, device="sim") as sim:
        assert [info.dtype.name for info in sim.inputs] == ["float16", "float32", "float32"]
        result = sim.run(half)["y"]
        assert result.dtype == np.float16
        exact = host.run({**given, "q": half["q"].astype(np.float32)})["y"]
        close(result, exact)


def test_an_image_gear_runs(tmp_path: Path) -> None:
    if native.compiler() is None:
        pytest.skip("the simulated device needs a C++ compiler")
    run = drive(
        tmp_path, IMAGE, {}, input_shape="x:1,3,-1,-1", dynamic_image_size="8,8;16,4",
        input_format="NCHW",
    )  # fmt: skip
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 4)).astype(np.float32)
    with open_session(save(tmp_path, IMAGE)) as host, open_session(run.om, device="sim") as sim:
        np.testing.assert_array_equal(sim.run({"x": image})["y"], host.run({"x": image})["y"])
