"""The rule: a result may be as far from the golden as the same arithmetic makes any run.

``e`` is the emulated same-precision run of the original (:mod:`omfuse.diff.emulate`), ``d`` the
result, ``r`` the golden.  Three gates, each the factor times the error of ``e`` plus rounding of
the output itself; the factor 2 on the largest error is the criterion of the flash-attention test
suite, and the benchmark mode of msprobe uses the same ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from omfuse.diff import metrics
from omfuse.diff.metrics import UNIT_ROUNDOFF, Distance
from omfuse.session_protocol import Array

WARN_RATIO = 0.8
# fp32 has no wider run to compare with here, so its budget is the fp16 (or bf16) one scaled by
# the ratio of unit roundoffs; times 8, because sums of n products in another order differ by
# more than the rounding of their result, which is all the emulation models.
FP32_HEADROOM = 8.0


@dataclass(frozen=True)
class Factors:
    """Factors on the emulated error, and limits beyond which no budget is believed."""

    max_abs: float = 3.0
    rel_l2: float = 2.0
    worst_row: float = 3.0
    sane_rel_l2: float = 5e-2
    sane_cosine: float = 0.99


MODEL = Factors()
BLOCK = Factors(2.0, 1.5, 2.0, 5e-2, 0.999)


@dataclass(frozen=True)
class Override:
    """What the user asks of one output; None leaves the rule as it is."""

    atol: float | None = None
    rtol: float | None = None
    budget: float | None = None


@dataclass(frozen=True)
class Budget:
    """Limits of the three gates.

    ``source`` says where they come from: ``emulated fp16``, ``fixed`` (no model to emulate) or
    ``user``.
    """

    max_abs: float
    rel_l2: float
    worst_row: float
    source: str
    factor: float = 1.0

    def ratios(self, found: Distance) -> dict[str, float]:
        """Return each measure over its limit."""
        return {
            name: _ratio(getattr(found, name), getattr(self, name))
            for name in ("max_abs", "rel_l2", "worst_row")
        }


def _ratio(value: float, limit: float) -> float:
    if math.isinf(limit):
        return 0.0 if math.isfinite(value) else math.inf
    if limit > 0:
        return value / limit
    return 0.0 if value == 0 else math.inf


def budget(
    golden: Array,
    emulated: Array | None,
    precision: str,
    factors: Factors = MODEL,
    live_rows: Array | None = None,
    emulated_in: str | None = None,
    factor: float = 1.0,
) -> Budget:
    """Derive the limits of one tensor.

    Args:
        golden: fp32 reference.
        emulated: the same tensor from the emulated run; None when there is no model to emulate.
        precision: what the judged side computes in: fp32, fp16 or bf16.
        factors: model-wide or single-block factors.
        live_rows: rows that count, see :func:`omfuse.diff.metrics.distance`.
        emulated_in: precision of the emulated run when it is not ``precision``.
        factor: user's factor on all limits.
    """
    eps = UNIT_ROUNDOFF[precision]
    if emulated is None:
        base = metrics.distance(golden, golden, live_rows)
        return Budget(
            64 * eps * base.rms * factor, 8 * eps * factor, 32 * eps * factor, "fixed", factor
        )
    ran_in = emulated_in or precision
    scale = 1.0
    if ran_in != precision:
        scale = FP32_HEADROOM * eps / UNIT_ROUNDOFF[ran_in]
    found = metrics.distance(golden, emulated, live_rows)
    note = "" if ran_in == precision else f", scaled to {precision}"
    return Budget(
        (factors.max_abs * scale * found.max_abs + eps * found.rms) * factor,
        (factors.rel_l2 * scale * found.rel_l2 + 0.5 * eps) * factor,
        (factors.worst_row * scale * found.worst_row + 0.5 * eps) * factor,
        f"emulated {ran_in}{note}",
        factor,
    )


@dataclass(frozen=True)
class TensorVerdict:
    """The answer on one tensor.

    Attributes:
        name: tensor name.
        verdict: ``pass``, ``fail`` or ``unsupported`` (the precision cannot hold the model).
        reasons: why it failed.
        warnings: what deserves a look though it passed.
        distance: None when shapes, dtypes or non-finite values already decided.
        limits: the budget used.
        ratio: largest measure over its limit; up to 1 passes.
        ratios: the same a gate.
        ulp: histogram in the judged side's dtype.
        nonfinite: counts of NaN and inf.
        dead_rows: rows that no key feeds, left out of the gates by policy.
        top1: agreement of the largest entry of each row, for logits.
        tolerance: smallest atol, rtol and budget factor that would pass.
    """

    name: str
    verdict: str
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    distance: Distance | None = None
    limits: Budget | None = None
    ratio: float = 0.0
    ratios: Mapping[str, float] = field(default_factory=dict)
    ulp: Mapping[str, int] = field(default_factory=dict)
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    dead_rows: Mapping[str, Any] = field(default_factory=dict)
    top1: float | None = None
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of design section 5."""
        d, b = self.distance, self.limits
        return {
            "name": self.name,
            "verdict": self.verdict,
            "max_abs": d.max_abs if d else None,
            "rel_l2": d.rel_l2 if d else None,
            "worst_row": d.worst_row if d else None,
            "budget": {
                "max_abs": b.max_abs,
                "rel_l2": b.rel_l2,
                "worst_row": b.worst_row,
                "source": b.source,
            }
            if b
            else None,
            "ratio": self.ratio,
            "cosine": d.cosine if d else None,
            "snr_db": d.snr_db if d else None,
            "mean_signed": d.mean_signed if d else None,
            "worst_index": list(d.where) if d else None,
            "ulp": dict(self.ulp),
            "nonfinite": dict(self.nonfinite),
            "dead_rows": dict(self.dead_rows),
            "top1": self.top1,
            "smallest_tolerance": dict(self.tolerance),
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }


def first_checks(name: str, golden: Array, other: Array, exact_dtype: bool) -> TensorVerdict | None:
    """Decide what needs no measure: shapes, dtypes, integers.

    Returns:
        A failing verdict when they differ, a passing one for equal integers, None for floats.
    """
    if golden.shape != other.shape:
        shapes = f"shape {list(other.shape)}, golden {list(golden.shape)}"
        return TensorVerdict(name, "fail", (shapes,), ratio=math.inf)
    if exact_dtype and golden.dtype != other.dtype:
        dtypes = f"dtype {other.dtype}, golden {golden.dtype}"
        return TensorVerdict(name, "fail", (dtypes,), ratio=math.inf)
    if _discrete(golden) != _discrete(other):
        dtypes = f"dtype {other.dtype}, golden {golden.dtype}"
        return TensorVerdict(name, "fail", (dtypes,), ratio=math.inf)
    if _discrete(golden):
        wrong = int((golden != other).sum())
        if not wrong:
            return TensorVerdict(name, "pass")
        where = tuple(int(i) for i in np.argwhere(golden != other)[0]) if golden.ndim else ()
        text = f"{wrong} of {golden.size} integer values differ, first at {list(where)}"
        return TensorVerdict(name, "fail", (text,), ratio=math.inf)
    return None


def _discrete(array: Array) -> bool:
    return array.dtype.kind in "iub?O" and array.dtype.name != "bfloat16"


def judge(
    name: str,
    golden: Array,
    other: Array,
    emulated: Array | None,
    precision: str,
    *,
    factors: Factors = MODEL,
    override: Override | None = None,
    live_rows: Array | None = None,
    dead_policy: str = "report",
    emulated_in: str | None = None,
    logits: bool = False,
    exact_dtype: bool = False,
) -> TensorVerdict:
    """Judge one tensor.

    Args:
        name: tensor name.
        golden: fp32 reference.
        other: the result.
        emulated: the emulated run's tensor, see :func:`budget`.
        precision: dtype of the result's arithmetic.
        factors: see :func:`budget`.
        override: the user's tolerances for this tensor.
        live_rows: rows with at least one key, over all axes but the last.
        dead_policy: ``report`` leaves the other rows out, ``strict`` judges them as well,
            ``zero`` wants them to be zero.
        emulated_in: see :func:`budget`.
        logits: also judge by the largest entry of each row.
        exact_dtype: the dtypes must be equal too.
    """
    early = first_checks(name, golden, other, exact_dtype)
    if early is not None:
        return early
    ask = override or Override()
    counts = metrics.nonfinite(golden, other)
    dead, problems = _dead_rows(golden, other, live_rows, dead_policy)
    live = None if dead_policy == "strict" else live_rows
    if emulated is not None and _overflowed(golden, emulated, live):
        text = f"the original itself overflows in {emulated_in or precision} at {name}"
        return TensorVerdict(name, "unsupported", (text,), nonfinite=counts, ratio=math.inf)
    wrong = _mismatched(golden, other, live)
    if wrong:
        problems.append(f"{wrong} NaN or inf values that the golden does not have, or the reverse")
    limits = budget(golden, emulated, precision, factors, live, emulated_in, ask.budget or 1.0)
    found = metrics.distance(golden, other, live)
    ratios = limits.ratios(found)
    if ask.atol is not None or ask.rtol is not None:
        ratios = {"tolerance": _tolerance_ratio(golden, other, live, ask)}
        limits = replace(limits, source="user")
    problems += [
        f"{gate} is {value:.3g} x its limit" for gate, value in ratios.items() if value > 1
    ]
    warnings = [
        f"{gate} is at {value:.0%} of its limit"
        for gate, value in ratios.items()
        if WARN_RATIO < value <= 1
    ]
    unbelievable = found.rel_l2 > factors.sane_rel_l2 or found.cosine < factors.sane_cosine
    if unbelievable and not problems and found.rms > 0:
        warnings.append(
            f"the budget itself is loose (rel-L2 {found.rel_l2:.2g}, cosine {found.cosine:.5f}): "
            f"this model is unstable in {precision}"
        )
    agreement = None
    if logits and golden.ndim:
        agreement, loss = metrics.top1(golden, other)
        lost = int((loss > 2 * max(limits.max_abs, found.rms * UNIT_ROUNDOFF[precision])).sum())
        if lost:
            problems.append(f"the largest entry of {lost} rows is another, and not by a near tie")
    worst = max(ratios.values(), default=0.0)
    tolerance = dict(metrics.smallest_tolerance(golden, other))
    tolerance["budget"] = max(limits.ratios(found).values()) * limits.factor
    return TensorVerdict(
        name,
        "fail" if problems else "pass",
        tuple(problems),
        tuple(warnings),
        found,
        limits,
        worst,
        ratios,
        metrics.ulp_histogram(golden, other, precision),
        counts,
        dead,
        agreement,
        tolerance,
    )


def _where_live(array: Array, live: Array | None) -> Array:
    return array if live is None else array[live]


def _mismatched(golden: Array, other: Array, live: Array | None) -> int:
    return metrics.nonfinite(_where_live(golden, live), _where_live(other, live))["mismatched"]


def _overflowed(golden: Array, emulated: Array, live: Array | None) -> bool:
    return _mismatched(golden, emulated, live) > 0


def _tolerance_ratio(golden: Array, other: Array, live: Array | None, ask: Override) -> float:
    r = _where_live(golden, live).astype(np.float64)
    d = _where_live(other, live).astype(np.float64)
    size = np.where(np.isfinite(r), np.abs(r), 0.0)
    allowed = (ask.atol or 0.0) + (ask.rtol or 0.0) * size
    error = np.abs(metrics.difference(r, d))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / allowed)
    return float(ratio.max(initial=0.0))


def _dead_rows(
    golden: Array, other: Array, live: Array | None, policy: str
) -> tuple[dict[str, Any], list[str]]:
    """Describe rows without a key; judge only what the policy asks."""
    if live is None or live.all():
        return {}, []
    r = golden[~live].astype(np.float64)
    d = other[~live].astype(np.float64)
    counts = metrics.nonfinite(r, d)
    gap = np.abs(metrics.difference(r, d))
    finite = gap[np.isfinite(gap)]
    found = {
        "rows": int((~live).sum()),
        "policy": policy,
        "max_abs": float(finite.max(initial=0.0)),
        "nonfinite_mismatched": counts["mismatched"],
        "zero": bool((d == 0).all()),
    }
    problems = []
    if policy == "zero" and not found["zero"]:
        problems.append(f"{found['rows']} rows without a key are not zero")
    if policy == "report" and counts["mismatched"] and not np.isnan(r).any():
        problems.append(f"{found['rows']} rows without a key became NaN or inf")
    return found, problems
