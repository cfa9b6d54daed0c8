"""Rewrite, compile with the stand-in, run on the simulated device, compare with the original."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.diff_sensitivity import ZOO, Bug, make_inputs, original, rewritten
from onnx import helper

import omfuse
from omfuse.diff import diff
from omfuse.errors import UsageError
from omfuse.host.session import HostSession
from omfuse.session import open_session
from omfuse.sim.atc.inprocess import atc_in_process
from omfuse.sim.restore import restore

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sample.onnx"
SOC = "Ascend310P3"
LENGTH = 96


@pytest.fixture(autouse=True)
def _runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMFUSE_RUN_DIR", str(tmp_path / "runs"))


def compiled(model, target, **more):
    with atc_in_process():
        omfuse.compile(model, target, SOC, device="sim", use_cache=False, **more)
    return target


@pytest.fixture(scope="module")
def fused():
    return omfuse.rewrite(SAMPLE).model


SHAPES = {
    "static": (["batch=2", "source=16", "target=12"], [(2, 16, 12)]),
    "batch": (["batch=1,2,4", "source=16", "target=12"], [(1, 16, 12), (4, 16, 12)]),
    "dims": (["batch,source,target=1,16,12;2,24,8"], [(1, 16, 12), (2, 24, 8)]),
    "dynamic": (["batch=1~4", "source=1~64", "target=1~64"], [(1, 5, 3), (4, 64, 64), (2, 9, 1)]),
    "open": (["batch=-1", "source=-1", "target=-1"], [(1, 5, 3), (6, 70, 2)]),
}


def sample_feeds(batch, source, target, seed=0):
    draw = np.random.default_rng(seed)
    mask = np.ones((batch, source), np.int64)
    mask[-1, source // 2 + 1 :] = 0
    return {
        "source_ids": draw.integers(0, 50, (batch, source)),
        "source_mask": mask,
        "target_ids": draw.integers(0, 50, (batch, target)),
    }


@pytest.mark.parametrize("mode", SHAPES)
def test_every_shape_mode_equals_the_original(mode, fused, tmp_path, device):
    shape, sizes = SHAPES[mode]
    path = compiled(fused, tmp_path / "m.om", shape=shape)
    with open_session(path, "sim") as session:
        assert session.mode == {"open": "dynamic"}.get(mode, mode)
        assert len(session.kernels) == 6
        for seed, size in enumerate(sizes):
            feeds = sample_feeds(*size, seed)
            report = diff(SAMPLE, session, inputs=feeds, precision="fp16", cache=False)
            assert report.verdict == "pass", report.as_dict()
        wrong = sample_feeds(3, 100, 100)
        if mode != "open":
            with pytest.raises(UsageError) as caught:
                session.run(wrong)
            assert caught.value.code == "bad-shape"


@pytest.mark.parametrize("bug", ZOO, ids=lambda bug: bug.name)
def test_the_comparison_catches_bugs_of_the_device(bug, tmp_path, device):
    right = Bug("right", causal=bug.causal, masked_rows="uniform")
    path = compiled(rewritten(LENGTH, right), tmp_path / "m.om")
    device.transform = lambda model: rewritten(LENGTH, bug)
    report = diff(
        original(LENGTH, bug.causal),
        path,
        inputs=make_inputs(LENGTH, bug.dead),
        device="sim",
        cache=False,
        dead_rows="strict" if bug.dead else "report",
    )
    assert report.device == "sim"
    assert report.verdict == ("fail" if bug.wrong else "pass")


def test_noise_between_runs_is_not_hidden(tmp_path, device):
    path = compiled(rewritten(32, Bug("right")), tmp_path / "m.om")
    draw = np.random.default_rng(0)
    device.mutate = lambda feeds, outputs: [
        o + draw.standard_normal(o.shape).astype(o.dtype) for o in outputs
    ]
    report = diff(original(32), path, inputs=make_inputs(32), device="sim", cache=False)
    assert report.verdict == "fail"
    assert any(note.startswith("not repeatable") for note in report.notes), report.notes
    device.mutate = None
    report = diff(original(32), path, inputs=make_inputs(32), device="sim", cache=False)
    assert report.verdict == "pass"
    assert not any("repeatable" in note for note in report.notes)


def test_a_device_that_computes_other_shapes_is_an_error(tmp_path, device):
    path = compiled(rewritten(32, Bug("right")), tmp_path / "m.om")
    device.mutate = lambda feeds, outputs: [o[:1] for o in outputs]
    with open_session(path, "sim") as session:
        with pytest.raises(Exception, match=r"has shape .* the model says") as caught:
            session.run(make_inputs(32))
        assert caught.value.exit_code == 3


def form_node():
    return helper.make_node(
        "FlashAttention", ["q", "k", "v"], ["y"], "attn",
        num_heads=2, num_kv_heads=2, scale=0.1, layout="BNSD", out_layout="BNSD",
        scale_value=[0.12345678, 0.0],
    )  # fmt: skip


def test_restored_nodes_take_the_exact_scale_and_a_body(device):
    node = form_node()
    value = helper.make_tensor_value_info
    second = helper.make_node(
        "FlashAttention", ["y", "y", "y"], ["z"], "next",
        num_heads=2, num_kv_heads=2, scale=0.5, layout="BNSD", out_layout="BSND",
    )  # fmt: skip
    shape = [1, 2, "s", 8]
    kind = onnx.TensorProto.FLOAT16
    graph = helper.make_graph(
        [node, second],
        "g",
        [value(n, kind, shape) for n in "qkv"],
        [value("z", kind, [1, "s", 2, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    restore(model)
    onnx.checker.check_model(model, full_check=True)
    attention = [n for n in model.graph.node if n.op_type == "FlashAttention"]
    scale = next(a.f for a in attention[0].attribute if a.name == "scale")
    assert scale == np.float32(0.12345678)
    assert len({(f.name, f.overload) for f in model.functions}) == 2
    draw = np.random.default_rng(0)
    feeds = {n: draw.standard_normal((1, 2, 5, 8)).astype(np.float16) for n in "qkv"}
    results = []
    for lowering in ("body", "plain"):
        with HostSession(model, lowering) as session:
            results.append(session.run(feeds)["z"].astype(np.float32))
    assert results[0].shape == (1, 5, 2, 8)
    np.testing.assert_allclose(results[0], results[1], atol=2e-3)


def run_zoo_model(path, length=32, **options):
    feeds = make_inputs(length)
    with open_session(path, "sim", **options) as session:
        return session.run(feeds)["y"], dict(session.kernels)


def test_the_simulated_chip_runs_the_ascend_c_kernel(tmp_path, device, monkeypatch):
    path = compiled(rewritten(32, Bug("right")), tmp_path / "m.om")
    with HostSession(original(32), optimize=False) as session:
        golden = session.run(make_inputs(32))["y"]
    made, kernels = run_zoo_model(path)
    assert set(kernels) == {"attention.0", "attention.1"}
    assert all("ascendc-310p (emulated)" in used for used in kernels.values())
    np.testing.assert_allclose(made, golden, atol=0.05)
    device.kernel = "cpu"
    other, kernels = run_zoo_model(path)
    assert not any("ascendc" in used for used in kernels.values())
    assert np.abs(other - made).max() > 0  # it was another implementation
    apart, kernels = run_zoo_model(path, isolated=True)
    assert all("ascendc-310p (emulated)" in used for used in kernels.values())
    np.testing.assert_array_equal(apart, made)


def test_without_its_kernel_the_simulation_says_what_ran(tmp_path, device, monkeypatch):
    from omfuse.errors import ToolchainError
    from omfuse.ops import ascendc_op

    def broken(kernel):
        raise ToolchainError("emulator-build-failed", "the operator does not compile: why")

    path = compiled(rewritten(32, Bug("right")), tmp_path / "m.om")
    monkeypatch.setattr(ascendc_op, "library", broken)
    _, kernels = run_zoo_model(path)
    assert all("no emulated Ascend C kernel: the operator" in used for used in kernels.values())


SHORTER_THAN_A_BLOCK = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,1,1,8] q, float[1,1,8,4] k, float[1,1,4,8] v) => (float[1,1,1,8] o)
<float half = {0.5}> {
  s = MatMul(q, k)
  t = Mul(s, half)
  p = Softmax<axis = -1>(t)
  o = MatMul(p, v)
}
"""


def test_sizes_that_the_kernel_refuses_are_said_to_be_refused(tmp_path, device):
    short = omfuse.rewrite(onnx.parser.parse_model(SHORTER_THAN_A_BLOCK))
    assert short.fused == 1
    path = compiled(short.model, tmp_path / "m.om")
    draw = np.random.default_rng(0)
    shapes = {"q": (1, 1, 1, 8), "k": (1, 1, 8, 4), "v": (1, 1, 4, 8)}
    feeds = {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    with open_session(path, "sim") as session:
        first = session.run(feeds)
        kernels = dict(session.kernels)
        again = session.run(feeds)
    assert all("refuses, as it would on the chip" in used for used in kernels.values())
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    device.kernel = "ascendc-310p"  # asked for by name: nothing stands in for it
    with open_session(path, "sim") as session:
        with pytest.raises(Exception, match="the Ascend C kernel refuses") as caught:
            session.run(feeds)
        assert caught.value.exit_code == 3


CHOICES = [("prompt-flash", "PromptFlashAttention"), ("score", "FlashAttentionScore")]


@pytest.mark.parametrize(("choice", "operator"), CHOICES)
@pytest.mark.parametrize("causal", [True, False])
def test_the_built_in_attention_of_cann_is_stood_in_for(choice, operator, causal, tmp_path, device):
    model = omfuse.rewrite(original(64, causal)).model
    path = tmp_path / "m.om"
    with atc_in_process():
        omfuse.compile(model, path, "Ascend910B3", device="sim", use_cache=False, attention=choice)
    report = diff(original(64, causal), path, inputs=make_inputs(64), device="sim", cache=False)
    assert report.verdict == "pass", report.as_dict()
    _, kernels = run_zoo_model(path, length=64)
    assert len(kernels) == 2
    assert all(f"stands in for CANN's {operator}" in used for used in kernels.values())


def test_the_sample_with_the_attention_of_cann(fused, tmp_path, device):
    """Its operands get their sizes from shape arithmetic and through other attentions."""
    path = tmp_path / "m.om"
    with atc_in_process():
        omfuse.compile(
            fused, path, "Ascend910B3", device="sim", use_cache=False, attention="prompt-flash",
            shape=SHAPES["static"][0],
        )  # fmt: skip
    feeds = sample_feeds(2, 16, 12)
    report = diff(SAMPLE, path, inputs=feeds, device="sim", precision="fp16", cache=False)
    assert report.verdict == "pass", report.as_dict()
    with open_session(path, "sim") as session:
        session.run(feeds)
        assert len(session.kernels) == 6
        assert all("CANN's PromptFlashAttention" in used for used in session.kernels.values())
