"""Each lowering computes what the contract says, over every feature of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.host.attention_cases import (
    TOLERANCE,
    Case,
    cases,
    error_of,
    expected,
    inputs_of,
    model_of,
)

from omfuse.fuse.contract import FlashAttentionAttrs
from omfuse.host.session import HostSession

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def run(case: Case, lowering: str) -> tuple[float, float, str]:
    """Return the errors of output and lse, and what computed them."""
    feeds = inputs_of(case)
    want, want_lse = expected(case, feeds)
    with HostSession(model_of(case, feeds), lowering, threads=1) as session:
        results = session.run(feeds)
        kernel = session.kernels["attn"]
    out = error_of(case, results["output"], want, feeds["value"])
    lse = 0.0
    if case.lse:
        finite = np.isfinite(want_lse)
        assert (np.isneginf(results["lse"]) == np.isneginf(want_lse)).all()
        lse = float(np.abs(results["lse"][finite] - want_lse[finite]).max(initial=0))
    return out, lse, kernel


@QUICK
@given(cases())
def test_plain_follows_the_contract(case: Case) -> None:
    out, lse, kernel = run(case, "plain")
    assert kernel.startswith("plain: asked for")
    assert out <= TOLERANCE[case.dtype]
    assert lse <= 1e-4


@QUICK
@given(cases())
def test_any_lowering_asked_for_follows_the_contract(case: Case) -> None:
    for lowering in ("mha", "gqa", "attention", "auto"):
        out, lse, kernel = run(case, lowering)
        assert out <= TOLERANCE[case.dtype], kernel
        assert lse <= 1e-4, kernel


SIMPLE = Case(
    FlashAttentionAttrs(num_heads=4, num_kv_heads=4, scale=0.3), q_len=9, kv_len=9, opset=23
)


@pytest.mark.parametrize("layout", ["BNSD", "BSND", "BSH"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mha_applies_to_unmasked_nodes(layout: str, dtype: str) -> None:
    case = dataclasses.replace(SIMPLE, v_depth=5, kv_len=11, dtype=dtype)
    case = case.with_attrs(layout=layout, out_layout=layout)
    out, _, kernel = run(case, "mha")
    assert kernel == "mha: asked for"
    assert out <= TOLERANCE[dtype]


@pytest.mark.parametrize("layout", ["BNSD", "BSND", "BSH"])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_gqa_applies_to_prompts(layout: str, softcap: float) -> None:
    case = SIMPLE.with_attrs(
        layout=layout,
        out_layout=layout,
        num_kv_heads=2,
        causal="top_left",
        softcap=softcap,
    )
    out, _, kernel = run(case, "gqa")
    assert kernel == "gqa: asked for"
    assert out <= TOLERANCE["float32"]


@pytest.mark.parametrize("causal", ["none", "bottom_right"])
@pytest.mark.parametrize("bias", [(), (1, 4, 9, 9), (9, 9)])
def test_attention_applies_from_opset_23(causal: str, bias: tuple[int, ...]) -> None:
    case = SIMPLE.with_attrs(causal=causal, num_kv_heads=2)
    if bias:
        case = dataclasses.replace(case, optional=("attn_bias",), bias_shape=bias)
    out, _, kernel = run(case, "attention")
    wanted = "plain: attention has attn_bias" if bias and causal != "none" else "attention: asked"
    assert kernel.startswith(wanted)
    assert out <= TOLERANCE["float32"]


REFUSED = {
    "mha": {
        "bias": {"optional": ("attn_bias",), "bias_shape": (9, 9)},
        "mask": {"optional": ("attn_mask",), "mask_shape": (9, 9)},
        "sink": {"optional": ("sink",)},
        "lengths": {"optional": ("kv_lengths",)},
        "lse": {"lse": True},
        "bf16": {"dtype": "bfloat16"},
        "softcap": {"attrs": {"softcap": 1.0}},
        "causal": {"attrs": {"causal": "top_left"}},
        "window": {"attrs": {"window_left": 2}},
        "groups": {"attrs": {"num_kv_heads": 2}},
        "scale 0": {"attrs": {"scale": 0.0}},
    },
    "gqa": {
        "bias": {"optional": ("attn_bias",), "bias_shape": (9, 9)},
        "mask": {"optional": ("attn_mask",), "mask_shape": (9, 9)},
        "sink": {"optional": ("sink",)},
        "lengths": {"optional": ("kv_lengths",)},
        "lse": {"lse": True},
        "not causal": {"attrs": {"causal": "none"}},
        "window": {"attrs": {"window_left": 2}},
        "lengths differ": {"kv_len": 11},
        "dynamic": {"dynamic": True},
        "Dv": {"v_depth": 16},
        "D": {"depth": 12, "v_depth": 12},
    },
    "attention": {
        "mask": {"optional": ("attn_mask",), "mask_shape": (9, 9)},
        "sink": {"optional": ("sink",)},
        "lengths": {"optional": ("kv_lengths",)},
        "lse": {"lse": True},
        "softcap": {"attrs": {"softcap": 1.0}},
        "window": {"attrs": {"window_right": 2}},
        "opset": {"opset": 22},
        "fp16": {"dtype": "float16"},
    },
}


@pytest.mark.parametrize(
    ("lowering", "feature"), [(rule, name) for rule, known in REFUSED.items() for name in known]
)
def test_a_rule_never_applies_to_what_it_cannot_express(lowering: str, feature: str) -> None:
    changes = dict(REFUSED[lowering][feature])
    base = SIMPLE.with_attrs(causal="top_left") if lowering == "gqa" else SIMPLE
    case = dataclasses.replace(base.with_attrs(**changes.pop("attrs", {})), **changes)
    out, _, kernel = run(case, lowering)
    assert kernel.startswith(f"plain: {lowering} ")
    assert out <= TOLERANCE[case.dtype]


SEMANTICS = {
    "scale": ({}, {"scale": 0.31}),
    "softcap": ({"attrs": {"softcap": 1.5}}, {"softcap": 0.0}),
    "causal": ({"attrs": {"causal": "top_left"}}, {"causal": "none"}),
    "alignment": ({"attrs": {"causal": "top_left"}, "kv_len": 12}, {"causal": "bottom_right"}),
    "window left": ({"attrs": {"window_left": 3}}, {"window_left": 4}),
    "window right": ({"attrs": {"window_right": 0}}, {"window_right": 1}),
    "groups": ({"attrs": {"num_kv_heads": 2}}, {"num_heads": 2}),
    "masked rows": (
        {"attrs": {"masked_rows": "uniform"}, "optional": ("kv_lengths",), "batch": 8},
        {"masked_rows": "zero"},
    ),
    "bias": ({"optional": ("attn_bias",), "bias_shape": (9, 9)}, "attn_bias"),
    "mask": ({"optional": ("attn_mask",), "mask_shape": (9, 9)}, "attn_mask"),
    "sink": ({"optional": ("sink",)}, "sink"),
    "lengths": ({"optional": ("kv_lengths",), "attrs": {"masked_rows": "zero"}}, "kv_lengths"),
}


@pytest.mark.parametrize("name", SEMANTICS)
@pytest.mark.parametrize("lowering", ["plain", "auto"])
def test_dropping_a_semantic_shows(name: str, lowering: str) -> None:
    """The tolerance of these tests is tight enough to see each semantic lost."""
    changes, mutation = SEMANTICS[name]
    changes = dict(changes)
    case = dataclasses.replace(SIMPLE.with_attrs(**changes.pop("attrs", {})), **changes)
    feeds = inputs_of(case)
    want, _ = expected(case, feeds)
    broken = case
    if name == "groups":
        feeds["key"], feeds["value"] = feeds["key"][:, ::-1], feeds["value"][:, ::-1]
    elif isinstance(mutation, str):
        del feeds[mutation]
    else:
        broken = case.with_attrs(**mutation)
    with HostSession(model_of(broken, feeds), lowering, threads=1) as session:
        got = session.run(feeds)["output"]
    assert error_of(case, got, want, feeds["value"]) > 50 * TOLERANCE["float32"]
