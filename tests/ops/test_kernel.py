"""The kernel's source on the emulated device, all checks on, against float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.ops.kernel_cases import BF16, Case, judge, operands

from omfuse.errors import ModelError
from omfuse.ops import emulator

BOTH = [
    *(Case(f"depth-{d}", heads=1, kv_heads=1, kv_len=65, depth=d)
      for d in (1, 7, 8, 15, 16, 40, 59, 64, 72, 80, 96, 111, 128, 160, 256)),
    Case("short-rows-bsh", batch=2, heads=4, kv_heads=2, q_len=150, depth=8, layout="BSH"),
    Case("short-rows-decode", batch=2, heads=8, kv_heads=2, q_len=1, kv_len=300, depth=8,
         layout="BSND"),
    Case("short-rows-steps", heads=3, kv_heads=3, q_len=40, kv_len=700, depth=5,
         attrs={"causal": "bottom_right"}),
    Case("short-rows-empty", batch=3, lengths=(77, 40, 0), depth=8),
    Case("short-value", depth=72, value_depth=3, attrs={"out_layout": "BSND"}),
    Case("short-key", depth=3, value_depth=72),
    Case("one-query", heads=8, kv_heads=8, q_len=1, kv_len=300),
    Case("one-key", q_len=17, kv_len=1),
    Case("prime-lengths", q_len=113, kv_len=203, depth=40),
    Case("several-steps", heads=1, kv_heads=1, q_len=130, kv_len=1100),
    Case("exact-blocks", heads=1, kv_heads=1, q_len=128, kv_len=512, depth=128),
    Case("narrow-value", value_depth=40),
    Case("wide-value", depth=40, value_depth=256),
    Case("gqa", heads=6, kv_heads=2, q_len=40),
    Case("gqa-packed", batch=2, heads=8, kv_heads=2, q_len=3, kv_len=65),
    Case("mqa-decode", batch=2, heads=8, kv_heads=1, q_len=1, kv_len=600),
    Case("bsnd", batch=2, kv_heads=1, depth=40, layout="BSND"),
    Case("bsh", batch=2, kv_heads=1, depth=40, layout="BSH"),
    Case("bsh-aligned", batch=2, depth=64, layout="BSH"),
    Case("bsh-to-bnsd", batch=2, layout="BSH", attrs={"out_layout": "BNSD"}),
    Case("bnsd-to-bsh", batch=2, depth=72, attrs={"out_layout": "BSH"}),
    Case("causal", q_len=150, kv_len=150, attrs={"causal": "top_left"}),
    Case("causal-long-keys", q_len=50, kv_len=700, attrs={"causal": "bottom_right"}),
    Case("causal-packed", heads=8, q_len=3, kv_heads=2, attrs={"causal": "bottom_right"}),
    Case("causal-empty-rows", q_len=77, kv_len=50, attrs={"causal": "bottom_right"}),
    Case("causal-empty-zero", q_len=77, kv_len=50,
         attrs={"causal": "bottom_right", "masked_rows": "zero"}),
    Case("causal-empty-uniform", q_len=77, kv_len=50, lse=False,
         attrs={"causal": "bottom_right", "masked_rows": "uniform"}),
    Case("window", q_len=150, kv_len=300, depth=32, attrs={"window_left": 20, "window_right": 5}),
    Case("window-causal", q_len=150, kv_len=150, depth=32,
         attrs={"window_left": 20, "causal": "top_left"}),
    Case("window-none-left", q_len=150, kv_len=90, depth=32,
         attrs={"window_left": 9, "causal": "top_left", "masked_rows": "zero"}),
    Case("bias", batch=2, bias=(2, 2, 33, 77)),
    Case("bias-shared", batch=2, kv_heads=1, bias=(33, 77)),
    Case("bias-per-key", batch=2, bias=(2, 1, 1, 77)),
    Case("bias-per-row", batch=2, bias=(2, 2, 33, 1), sink=True),
    Case("bias-per-row-packed", batch=2, heads=8, kv_heads=2, q_len=3, bias=(1, 8, 3, 1),
         sink=True, lse=False),
    Case("bias-scalar", batch=2, bias=(1, 1, 1, 1), sink=True),
    Case("mask-per-row", batch=2, mask=(2, 1, 33, 1), attrs={"masked_rows": "zero"}),
    Case("mask-per-head", batch=2, heads=4, mask=(2, 4, 1, 1), sink=True),
    Case("mask-per-row-and-bias", mask=(1, 2, 33, 1), bias=(33, 77), kv_len=77,
         attrs={"causal": "top_left", "masked_rows": "uniform"}),
    Case("mask", batch=2, mask=(2, 2, 33, 77)),
    Case("mask-per-key", batch=2, mask=(2, 1, 1, 77)),
    Case("mask-steps", mask=(1, 1, 33, 600), kv_len=600),
    Case("mask-and-bias", batch=2, heads=4, q_len=8, mask=(2, 4, 8, 77), bias=(1, 4, 8, 77)),
    Case("mask-uniform", batch=2, mask=(2, 2, 33, 77), attrs={"masked_rows": "uniform"}),
    *(Case(f"lengths-{rows}", batch=3, lengths=(77, 40, 0), attrs={"masked_rows": rows})
      for rows in ("nan", "zero", "uniform")),
    Case("lengths-causal", batch=3, lengths=(77, 40, 5), attrs={"causal": "bottom_right"}),
    Case("softcap", scale=1.0, attrs={"softcap": 5.0}),
    Case("negative-scale", scale=-0.2),
    Case("large-scores", scale=1.0, spread=3.0),
    Case("sink", sink=True),
    Case("sink-packed", heads=4, kv_heads=1, q_len=5, sink=True,
         attrs={"causal": "bottom_right"}),
    Case("sink-empty", batch=3, sink=True, lengths=(77, 40, 0)),
    Case("lse", q_len=40, lse=True),
    Case("lse-empty", batch=2, q_len=40, lse=True, lengths=(7, 0),
         attrs={"masked_rows": "uniform"}),
    Case("lse-steps", q_len=40, kv_len=1500, lse=True, mask=(1, 1, 1, 1500)),
    Case("lse-bias", batch=2, q_len=40, lse=True, bias=(2, 1, 40, 1)),
    Case("lse-packed", batch=2, heads=4, kv_heads=2, q_len=8, lse=True, sink=True),
]  # fmt: skip
SPLIT_ONLY = [
    Case("bf16", dtype=BF16, depth=59),
    Case("bf16-all", batch=2, dtype=BF16, bias=(2, 2, 33, 77), mask=(2, 1, 1, 77), sink=True),
    Case("bias-fp32-per-row", batch=2, bias=(2, 1, 33, 1), bias_dtype=np.float32, sink=True),
    Case("bias-bf16-per-row", batch=2, dtype=BF16, bias=(2, 1, 33, 1), sink=True),
    Case("bias-fp32", batch=2, bias=(2, 2, 33, 77), bias_dtype=np.float32),
    Case("lse-odd", lse=True, q_len=33),
    Case("split", heads=8, kv_heads=2, q_len=1, kv_len=2500),
    Case("split-sink", heads=4, kv_heads=1, q_len=1, kv_len=4096, depth=128, sink=True, lse=True),
    Case(
        "split-mask",
        q_len=5,
        kv_len=3000,
        depth=256,
        mask=(1, 1, 5, 3000),
        attrs={"causal": "bottom_right"},
    ),
    Case("split-lengths", q_len=1, kv_len=3000, depth=40, lengths=(1200,), lse=True),
    Case("split-empty", q_len=1, kv_len=3000, lengths=(0,), attrs={"masked_rows": "zero"}),
    *(
        Case(f"half-scores-{name}", attrs={"inner_precision": "fp16", **attrs}, **more)
        for name, attrs, more in (
            ("steps", {}, {"q_len": 130, "kv_len": 1100, "depth": 128}),
            ("deep", {"causal": "bottom_right"}, {"kv_len": 600, "depth": 256}),
            ("mask", {}, {"depth": 59, "mask": (1, 1, 33, 77)}),
            ("split", {}, {"heads": 8, "kv_heads": 2, "q_len": 1, "kv_len": 2500}),
            ("cap", {"softcap": 5.0}, {"scale": 1.0}),
            ("no-room", {}, {"depth": 256, "mask": (1, 1, 33, 77)}),
        )
    ),
    Case("split-uniform", q_len=1, kv_len=3000, lengths=(9,), attrs={"masked_rows": "uniform"}),
]


@pytest.mark.parametrize(
    ("arch", "case"),
    [
        *(pytest.param(a, c, id=f"{a}-{c.name}") for a in ("910b", "310p") for c in BOTH),
        *(pytest.param("910b", c, id=f"910b-{c.name}") for c in SPLIT_ONLY),
    ],
)
def test_kernel_keeps_the_error_budget(arch: str, case: Case) -> None:
    verdict = judge(case, arch=arch, checks=True)
    assert verdict.ok, verdict


def test_fast_and_checked_runs_agree_bit_for_bit() -> None:
    attrs, arrays = operands(Case("any", q_len=150, kv_len=700, mask=(1, 1, 150, 700)))
    for arch in emulator.ARCHES:
        fast = emulator.run(attrs, **arrays, arch=arch)
        checked = emulator.run(attrs, **arrays, arch=arch, checks=True)
        assert fast.output is not None
        assert checked.output is not None
        assert fast.output.tobytes() == checked.output.tobytes()


def test_half_scores_are_rounded_where_they_leave_the_cube() -> None:
    case = Case("inner", heads=1, kv_heads=1, q_len=16, kv_len=256, depth=64, scale=1.0)
    attrs, arrays = operands(case)
    half = dataclasses.replace(attrs, inner_precision="fp16")
    # Scores that are integers below 2048 are exact in fp16: the same bits both ways.
    rng = np.random.default_rng(3)
    small = {**arrays, "query": rng.integers(-3, 4, arrays["query"].shape).astype(np.float16),
             "key": rng.integers(-3, 4, arrays["key"].shape).astype(np.float16)}  # fmt: skip
    for values, same in ((small, True), (arrays, False)):
        wide = emulator.run(attrs, **values)
        narrow = emulator.run(half, **values)
        assert wide.output is not None
        assert narrow.output is not None
        assert (wide.output.tobytes() == narrow.output.tobytes()) == same
        assert narrow.counters.workspace_read < wide.counters.workspace_read


@pytest.mark.parametrize(("arch", "dtype"), [("310p", np.float16), ("910b", BF16)])
def test_scores_stay_fp32_where_fp16_is_no_gain(arch: str, dtype: type) -> None:
    attrs, arrays = operands(Case("inner", dtype=dtype))
    half = dataclasses.replace(attrs, inner_precision="fp16")
    wide = emulator.run(attrs, **arrays, arch=arch).output
    narrow = emulator.run(half, **arrays, arch=arch).output
    assert wide is not None
    assert narrow is not None
    assert wide.tobytes() == narrow.tobytes()


def test_fp32_goes_through_fp16_as_atc_casts_it() -> None:
    case = Case("wide", dtype=np.float32)
    attrs, arrays = operands(case)
    wide = emulator.run(attrs, **arrays, arch="310p").output
    narrow = {k: v.astype(np.float16) for k, v in arrays.items()}
    half = emulator.run(attrs, **narrow, arch="310p").output
    assert wide is not None
    assert half is not None
    assert wide.dtype == np.float32
    assert (wide == half.astype(np.float32)).all()


@pytest.mark.parametrize("depth", [8, 11, 59])
@pytest.mark.parametrize("arch", list(emulator.ARCHES))
def test_what_lies_behind_the_last_key_does_not_matter(arch: str, depth: int) -> None:
    attrs, arrays = operands(Case("nan", depth=depth, lengths=(41,)))
    wanted = emulator.run(attrs, **arrays, arch=arch).output
    arrays["key"][:, :, 41:] = np.nan
    arrays["value"][:, :, 41:] = np.inf
    got = emulator.run(attrs, **arrays, arch=arch).output
    assert wanted is not None
    assert got is not None
    assert got.tobytes() == wanted.tobytes()


def test_long_rows_on_every_core() -> None:
    case = Case("long", heads=3, kv_heads=3, q_len=1023, kv_len=1024, depth=40,
                attrs={"causal": "top_left"})  # fmt: skip
    for arch in emulator.ARCHES:
        assert judge(case, arch=arch).ok


REJECTED = [
    ("910b", {"depth": 257}, "depth"),
    ("310p", {"heads": 1, "kv_heads": 1, "q_len": 1, "depth": 8}, "32-byte"),
    ("310p", {"dtype": BF16}, "bfloat16"),
    ("310p", {"lse": True, "q_len": 33}, "lse"),
    ("310p", {"bias": (2, 33, 77), "bias_dtype": np.float32}, "attn_bias"),
    ("910b", {"mask": (1, 1, 33, 7)}, "not 1 or 77"),
    (
        "910b",
        {
            "heads": 300,
            "kv_heads": 300,
            "q_len": 1,
            "kv_len": 1,
            "value_depth": 256,
            "layout": "BSH",
        },
        "BNSD",
    ),
    ("910b", {"heads": 1100, "kv_heads": 1100, "q_len": 1, "kv_len": 1, "layout": "BSH"}, "BNSD"),
]


@pytest.mark.parametrize(("arch", "changes", "word"), REJECTED)
def test_what_the_kernel_cannot_do_is_refused_with_a_reason(
    arch: str, changes: dict[str, object], word: str
) -> None:
    attrs, arrays = operands(dataclasses.replace(Case("no"), **changes))  # type: ignore[arg-type]
    with pytest.raises(ModelError) as refused:
        emulator.run(attrs, **arrays, arch=arch, lse=bool(changes.get("lse")))
    assert refused.value.code == "kernel-rejects"
    assert word in refused.value.message
