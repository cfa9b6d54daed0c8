from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omfuse.diff import metrics
from omfuse.diff.verdict import Override, judge


def arrays(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 7), st.floats(1e-6, 1.0))
def test_distance_follows_its_definition(seed: int, rows: int, width: int, size: float) -> None:
    r = arrays(seed, rows, width)
    d = (r + size * arrays(seed + 1000, rows, width)).astype(np.float32)
    found = metrics.distance(r, d)
    wide_r, wide_d = r.astype(np.float64), d.astype(np.float64)
    error = wide_d - wide_r
    rms = math.sqrt((wide_r**2).mean())
    per_row = [
        np.linalg.norm(error[i]) / max(np.linalg.norm(wide_r[i]), 0.01 * rms * math.sqrt(width))
        for i in range(rows)
    ]
    assert found.max_abs == pytest.approx(np.abs(error).max())
    assert found.rel_l2 == pytest.approx(np.linalg.norm(error) / np.linalg.norm(wide_r))
    assert found.worst_row == pytest.approx(max(per_row))
    assert np.abs(error)[found.where] == np.abs(error).max()
    assert found.row_where == (int(np.argmax(per_row)),)


@given(st.integers(0, 99), st.integers(-3, 3))
def test_ulp_counts_representable_numbers(seed: int, steps: int) -> None:
    r = arrays(seed, 20).astype(np.float16)
    d = r
    for _ in range(abs(steps)):
        d = np.nextafter(d, np.float16(math.copysign(np.inf, steps)))
    key = {0: "0", 1: "1", 2: "2-3", 3: "2-3"}[abs(steps)]
    assert metrics.ulp_histogram(r, d, "fp16")[key] == 20


def test_a_bias_shows_in_the_signed_mean() -> None:
    r = np.abs(arrays(0, 100))
    assert metrics.distance(r, r * np.float32(1.02)).mean_signed > 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_only_one_side_has_fails(value: float) -> None:
    r = arrays(0, 4, 4)
    d = r.copy()
    d[1, 2] = value
    for golden, other in ((r, d), (d, r)):
        verdict = judge("y", golden, other, golden, "fp16")
        assert verdict.verdict == "fail"
        assert verdict.nonfinite["mismatched"] == 1
    assert judge("y", d, d.copy(), d, "fp16").verdict == "pass"
    assert judge("y", d, -d, d, "fp16").verdict == "fail"


def test_an_original_that_overflows_is_unsupported() -> None:
    r = arrays(0, 4, 4)
    emulated = r.copy()
    emulated[0, 0] = np.inf
    assert judge("y", r, r, emulated, "fp16").verdict == "unsupported"


def test_shape_dtype_and_integers_come_first() -> None:
    r = arrays(0, 4, 4)
    assert "shape" in judge("y", r, r[:2], r, "fp32").reasons[0]
    assert "dtype" in judge("y", r, r.astype(np.int64), r, "fp32").reasons[0]
    assert "dtype" in judge("y", r, r.astype(np.float16), r, "fp32", exact_dtype=True).reasons[0]
    ids = np.arange(6).reshape(2, 3)
    assert judge("ids", ids, ids.copy(), None, "fp32").verdict == "pass"
    wrong = judge("ids", ids, ids + (ids == 4), None, "fp32")
    assert wrong.verdict == "fail"
    assert "1 of 6" in wrong.reasons[0]
    assert "[1, 1]" in wrong.reasons[0]


def test_a_wrong_row_cannot_hide_in_the_average() -> None:
    r = arrays(0, 4096, 64)
    emulated = r.astype(np.float16).astype(np.float32)
    d = emulated.copy()
    d[17] *= np.float32(0.9)
    verdict = judge("y", r, d, emulated, "fp16")
    assert verdict.verdict == "fail"
    assert verdict.distance.row_where == (17,)
    assert verdict.distance.cosine > 0.9999


def test_overrides_and_the_smallest_that_would_pass() -> None:
    r = arrays(0, 8, 8)
    emulated = r.astype(np.float16).astype(np.float32)
    d = r + np.float32(0.01)
    verdict = judge("y", r, d, emulated, "fp16")
    assert verdict.verdict == "fail"
    for ask in (
        Override(atol=verdict.tolerance["atol"] * 1.001),
        Override(rtol=verdict.tolerance["rtol"] * 1.001, atol=verdict.tolerance["rtol_atol"]),
        Override(budget=verdict.tolerance["budget"] * 1.001),
    ):
        assert judge("y", r, d, emulated, "fp16", override=ask).verdict == "pass"
    for ask in (
        Override(atol=verdict.tolerance["atol"] * 0.99),
        Override(budget=verdict.tolerance["budget"] * 0.99),
    ):
        assert judge("y", r, d, emulated, "fp16", override=ask).verdict == "fail"


def test_a_flipped_top_entry_fails_unless_nearly_tied() -> None:
    r = np.zeros((2, 5), np.float32)
    r[0, 1], r[1, 2] = 4.0, 4.0
    d = r.copy()
    d[1, 3] = 4.5
    loose = Override(atol=10.0)
    verdict = judge("logits", r, d, r, "fp16", override=loose, logits=True)
    assert verdict.top1 == 0.5
    assert verdict.verdict == "fail"
    tie = r.copy()
    tie[1, 3] = 4.0 - 1e-4
    d = tie.copy()
    d[1, 3] = 4.0 + 1e-4
    near = judge("logits", tie, d, tie.astype(np.float16), "fp16", override=loose, logits=True)
    assert near.verdict == "pass"
