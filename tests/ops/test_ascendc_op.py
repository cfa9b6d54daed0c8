"""Whole models through the emulated Ascend C kernel as an operator of onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.ops.commands import omfuse as command
from tests.ops.commands import omfuse_json
from tests.ops.native_code import compiler

import omfuse
from omfuse.custom_ops.flash_attention.reference import flash_attention
from omfuse.diff import diff
from omfuse.errors import NotAvailableError, ToolchainError, UsageError
from omfuse.fuse.contract import DOMAIN, INPUTS, OP_TYPE, FlashAttentionAttrs
from omfuse.host import native
from omfuse.host.session import HostSession
from omfuse.host.tensors import named_dtype

SAMPLE = Path(__file__).parents[2] / "examples/sample.onnx"
ELEM = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "bool": TensorProto.BOOL,
    "int32": TensorProto.INT32,
}
# Of values in N(0, 1): rounding of operands, weights and result, added up.
TOLERANCE = {"float32": 4e-3, "float16": 4e-3, "bfloat16": 3e-2}
LAYOUTS = ("BNSD", "BSND", "BSH")


def one_node(attrs: FlashAttentionAttrs, feeds: dict[str, Any], lse: bool) -> onnx.ModelProto:
    """Return a model of one FlashAttention node."""
    infos = [
        helper.make_tensor_value_info(n, ELEM[a.dtype.name], a.shape) for n, a in feeds.items()
    ]
    names = [name if name in feeds else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    elem, rank = ELEM[feeds["query"].dtype.name], 3 if attrs.out_layout == "BSH" else 4
    outputs = [helper.make_tensor_value_info("output", elem, [None] * rank)]
    if lse:
        outputs.append(helper.make_tensor_value_info("lse", TensorProto.FLOAT, [None] * 3))
    made = [output.name for output in outputs]
    node = helper.make_node(OP_TYPE, names, made, domain=DOMAIN, name="n", **attrs.as_dict())
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph([node], "g", infos, outputs)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def draw_feeds(
    attrs: FlashAttentionAttrs, q_len: int, kv_len: int, depth: int, dtype: str, given_: set[str],
    bias_dims: tuple[int, ...], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Draw operands; ``bias_dims`` are those of bias and mask."""
    rng = np.random.default_rng(seed)

    def tensor(heads: int, length: int) -> Any:
        shape = {
            "BNSD": (2, heads, length, depth),
            "BSND": (2, length, heads, depth),
            "BSH": (2, length, heads * depth),
        }[attrs.layout]
        return rng.standard_normal(shape).astype(named_dtype(dtype))

    feeds = {
        "query": tensor(attrs.num_heads, q_len),
        "key": tensor(attrs.num_kv_heads, kv_len),
        "value": tensor(attrs.num_kv_heads, kv_len),
    }
    if "attn_bias" in given_:
        feeds["attn_bias"] = rng.standard_normal(bias_dims).astype(named_dtype(dtype))
    if "attn_mask" in given_:
        feeds["attn_mask"] = rng.random(bias_dims) < 0.7
        feeds["attn_mask"][..., 0] = True
    if "sink" in given_:
        feeds["sink"] = rng.standard_normal(attrs.num_heads).astype(named_dtype(dtype))
    if "kv_lengths" in given_:
        feeds["kv_lengths"] = rng.integers(1, kv_len + 1, 2).astype(np.int32)
    return feeds


@st.composite
def nodes(draw: st.DrawFn) -> tuple[FlashAttentionAttrs, dict[str, Any], str, bool]:
    """Draw a node and its operands."""
    heads, kv_heads = draw(st.sampled_from([(4, 4), (4, 2), (4, 1), (1, 1)]))
    q_len, kv_len = draw(st.sampled_from([(1, 1), (1, 6), (5, 6), (16, 33), (40, 1)]))
    attrs = FlashAttentionAttrs(
        heads, kv_heads, draw(st.sampled_from([0.25, 0.3, 1.0])),
        layout=draw(st.sampled_from(LAYOUTS)), out_layout=draw(st.sampled_from(LAYOUTS)),
        softcap=draw(st.sampled_from([0.0, 4.0])),
        causal=draw(st.sampled_from(["none", "top_left"])),
    )  # fmt: skip
    kernel = draw(st.sampled_from(["ascendc", "ascendc-310p"]))
    lse = kernel == "ascendc" and draw(st.booleans())
    kinds = ["float32", "float16"] + ["bfloat16"] * (kernel == "ascendc")
    dtype = draw(st.sampled_from(kinds))
    extras = draw(st.sets(st.sampled_from(INPUTS[3:])))
    if attrs.causal == "top_left" and "attn_mask" in extras:
        extras -= {"kv_lengths"}
    full = (2, heads, q_len, kv_len)
    dims = tuple(n if draw(st.booleans()) else 1 for n in full)[draw(st.integers(0, 2)) :]
    depth = draw(st.sampled_from([16, 24, 40]))
    feeds = draw_feeds(attrs, q_len, kv_len, depth, dtype, extras, dims, draw(st.integers(0, 99)))
    return attrs, feeds, kernel, lse


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(nodes())
def test_random_nodes_equal_the_reference(
    drawn: tuple[FlashAttentionAttrs, dict[str, Any], str, bool],
) -> None:
    compiler()
    attrs, feeds, kernel, lse = drawn
    dtype = feeds["query"].dtype.name
    with HostSession(one_node(attrs, feeds, lse), kernel=kernel) as session:
        assert session.kernels == {"n": f"{kernel} (emulated): asked for"}
        results = session.run(feeds)
    exact, exact_lse = flash_attention(attrs, **feeds)
    limit = TOLERANCE[dtype] * max(1.0, float(np.nanmax(np.abs(exact))))
    got = results["output"].astype(np.float64)
    assert got.shape == exact.shape
    np.testing.assert_allclose(got, exact, rtol=0, atol=limit, equal_nan=True)
    if lse:
        np.testing.assert_allclose(results["lse"], exact_lse, rtol=2e-3, atol=8e-3)


def test_a_whole_model_passes_diff(tmp_path: Path) -> None:
    compiler()
    fused = omfuse.rewrite(SAMPLE)
    assert fused.fused == 6
    with HostSession(fused.model, kernel="ascendc") as session:
        assert set(session.kernels.values()) == {"ascendc (emulated): asked for"}
        report = diff(SAMPLE, session, precision="fp16", seeds=[0, 1], cache=False)
    assert report.verdict == "pass", [output.reasons for output in report.outputs]


def test_a_wrong_scale_fails_diff() -> None:
    compiler()
    fused = omfuse.rewrite(SAMPLE)
    node = [n for n in fused.model.graph.node if n.op_type == OP_TYPE][-1]
    for attribute in node.attribute:
        if attribute.name == "scale":
            attribute.f *= 1.5
    with HostSession(fused.model, kernel="ascendc") as session:
        report = diff(SAMPLE, session, precision="fp16", seeds=[0], cache=False)
    assert report.verdict == "fail"


def test_run_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler()
    fused = tmp_path / "fused.onnx"
    assert command(capsys, "rewrite", SAMPLE, "-o", fused)[0] == 0
    arguments = ("run", fused, "--random", 1, "--dim", "source=7", "--dim", "target=5")
    code, found = omfuse_json(capsys, *arguments, "--kernel", "ascendc")
    assert (code, set(found["kernels"].values())) == (0, {"ascendc (emulated): asked for"})
    code, plain = omfuse_json(capsys, *arguments)
    assert code == 0
    for ours, theirs in zip(found["outputs"], plain["outputs"], strict=True):
        assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-3)
        assert ours["max"] != theirs["max"]  # fp16 inside: not the CPU's kernel by another name


def test_what_the_kernel_refuses_is_said(tmp_path: Path) -> None:
    """A depth of 257 is refused, never computed elsewhere."""
    compiler()
    attrs = FlashAttentionAttrs(1, 1, 0.3)
    feeds = draw_feeds(attrs, 5, 6, 257, "float32", set(), (), 0)
    with HostSession(one_node(attrs, feeds, False), kernel="ascendc-310p") as session:
        with pytest.raises(ToolchainError) as caught:
            session.run(feeds)
        assert "257 is above 256" in caught.value.message
    with HostSession(
        one_node(attrs, feeds, False), kernel="ascendc-310p", isolated=True
    ) as session:
        with pytest.raises(ToolchainError) as caught:
            session.run(feeds)
        assert "257 is above 256" in caught.value.message


def test_a_mask_value_beyond_fp16_hides_and_does_not_poison() -> None:
    compiler()
    attrs = FlashAttentionAttrs(4, 2, 0.3)
    feeds = draw_feeds(attrs, 1, 6, 16, "float32", set(), (), 0)
    hidden = np.zeros((2, 1, 1, 6), np.float32)
    hidden[..., 3:] = np.finfo(np.float32).min
    feeds["attn_bias"] = hidden
    for kernel in ("ascendc", "ascendc-310p"):
        with HostSession(one_node(attrs, feeds, False), kernel=kernel) as session:
            got = session.run(feeds)["output"]
        np.testing.assert_allclose(got, flash_attention(attrs, **feeds)[0], rtol=0, atol=4e-3)


def test_an_unknown_kernel_and_a_missing_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        HostSession(SAMPLE, kernel="npu")
    assert caught.value.code == "unknown-kernel"
    monkeypatch.setattr(native, "compiler", lambda: None)
    with pytest.raises(NotAvailableError):
        HostSession(SAMPLE, kernel="ascendc")
    code, _, err = command(capsys, "run", SAMPLE, "--random", 1, "--kernel", "ascendc")
    assert code == 4
    assert "install g++" in err
