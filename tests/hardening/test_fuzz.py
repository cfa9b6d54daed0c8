"""Damaged files and damaged graphs: one clear error or a right answer, never anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.damage import BYTES, GRAPH, Damage, damage_bytes, retarget
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx_text import build, feeds

import omfuse
from omfuse.errors import ModelError, OmfuseError

SAMPLE = (Path(__file__).parents[2] / "examples" / "sample.onnx").read_bytes()
quick = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@quick
@given(
    st.lists(
        st.tuples(
            st.sampled_from(BYTES),
            st.integers(0, len(SAMPLE) - 1),
            st.integers(1, 4000),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_files(damages: list[tuple[str, int, int]]) -> None:
    _read(damage_bytes(SAMPLE, damages))


@quick
@given(st.binary(max_size=300))
def test_files_that_are_no_models(data: bytes) -> None:
    _read(data)


def _read(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        try:
            result = omfuse.rewrite(path)
        except OmfuseError as error:
            event(error.code)
            return
        event(f"{result.fused} fused")
        assert path.read_bytes() == data


QK = "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) c = Constant<value_float=0.5>() "
BASE = build(
    QK + "d = Mul(s, c) b = Add(d, bias) f = Constant<value_float=-1e9>() z = Where(mask, b, f) "
    "p = Softmax<axis=-1>(z) x = MatMul(p, v) y = Transpose<perm=[0,2,1,3]>(x)"
)


@settings(quick, max_examples=400)
@given(
    st.lists(
        st.tuples(st.sampled_from(GRAPH), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=3,
    )
)
@example([(retarget, 24, 37)])  # the fill is added to every score
def test_damaged_graphs(
    damages: list[tuple[Damage, int, int]],
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(BASE)
    for damage, a, b in damages:
        damage(model, a, b)
    _judge(model)


def _judge(model: onnx.ModelProto) -> None:
    """What still runs must give the same after the rewrite; the rest must be refused or left."""
    before = model.SerializeToString(deterministic=True)
    try:
        result = omfuse.rewrite(model)
    except OmfuseError as error:
        event(error.code)
        return
    assert model.SerializeToString(deterministic=True) == before
    stumbled = [record for record in result.records if record.code == "internal"]
    if not result.changed and not stumbled:
        return
    inputs = feeds(BASE)
    try:
        expected = run_plainly(model, inputs)
    except Exception:
        event("does not run")
        return
    event("runs")
    assert not stumbled, stumbled  # only over what no runtime can run
    for a, b in zip(expected, run_plainly(result.model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def run_plainly(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    from onnx_text import run

    return run(model, inputs)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin"])
def test_weights_outside_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    folder = tmp_path / "model"
    folder.mkdir()
    model = build("w = Add(q, big) y = Softmax<axis=-1>(w)", "float[2,2] q, float[2,2] big")
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), "big")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    del model.graph.input[1]
    model.graph.initializer.append(tensor)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        omfuse.rewrite(folder / "m.onnx")
    assert caught.value.code == "external-data-outside"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    model = build("w = Add(q, big) y = Softmax<axis=-1>(w)", "float[2,2] q, float[2,2] big")
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), "big")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    del model.graph.input[1]
    model.graph.initializer.append(tensor)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        omfuse.rewrite(folder / "m.onnx")
    assert caught.value.code == "external-data-outside"


def test_a_very_deep_and_a_very_wide_graph() -> None:
    """20,000 nodes in a chain, and one softmax read by 2,000 products: no recursion, no blow-up."""
    lines = " ".join(f"x{i + 1} = Neg(x{i})" for i in range(20000))
    deep = build(f"x0 = Identity(q) {lines} y = Softmax<axis=-1>(x20000)")
    assert omfuse.rewrite(deep).fused == 0
    wide = " ".join(f"y{i} = MatMul(p, v)" for i in range(2000))
    total = " ".join(f"t{i + 1} = Add(t{i}, y{i})" for i in range(2000))
    body = f"{QK} p = Softmax<axis=-1>(s) {wide} t0 = MatMul(p, v) {total} y = Identity(t2000)"
    result = omfuse.rewrite(build(body))
    assert not [record for record in result.records if record.code == "internal"]
