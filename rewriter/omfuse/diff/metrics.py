"""Distances between a golden tensor and another one, in float64.

``rows`` are the vectors along the last axis: a row that is wrong as a whole hides in an average
over thousands of rows, and shows in the worst row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omfuse.session_protocol import Array

UNIT_ROUNDOFF = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": 2.0**-24}
ROW_FLOOR = 0.01  # rows far below the tensor's own scale are judged on that scale
_ULP_EDGES = (0, 1, 2, 4, 8)


@dataclass(frozen=True)
class Distance:
    """How far ``d`` is from ``r``.

    Attributes:
        max_abs: largest absolute difference.
        rel_l2: 2-norm of the difference over the 2-norm of the golden.
        worst_row: largest relative 2-norm of a row, against the row or 1 % of the tensor's scale.
        rms: root mean square of the golden.
        cosine: cosine similarity; reported, never gated.
        snr_db: signal to noise; reported, never gated.
        mean_signed: mean of ``d - r``: a scale error is biased, rounding is not.
        where: index of the largest difference.
        row_where: index of the worst row.
    """

    max_abs: float
    rel_l2: float
    worst_row: float
    rms: float
    cosine: float
    snr_db: float
    mean_signed: float
    where: tuple[int, ...]
    row_where: tuple[int, ...]


def distance(golden: Array, other: Array, live_rows: Array | None = None) -> Distance:
    """Measure ``other`` against ``golden``.

    Positions at which both hold the same non-finite value count as equal; a position at which
    only one is finite makes every measure infinite.

    Args:
        golden: the reference, any float dtype.
        other: same shape.
        live_rows: bool over all axes but the last; false rows are left out.
    """
    r, d = _wide(golden), _wide(other)
    error, r_live = difference(r, d), np.where(np.isfinite(r), r, 0.0)
    if live_rows is not None:
        error = np.where(live_rows[..., None], error, 0.0)
        r_live = np.where(live_rows[..., None], r_live, 0.0)
    if error.size == 0:
        return Distance(0.0, 0.0, 0.0, 0.0, 1.0, math.inf, 0.0, (), ())
    d_live = r_live + error
    width = error.shape[-1] if error.ndim else 1
    error_rows = np.linalg.norm(error.reshape(-1, width), axis=1)
    golden_rows = np.linalg.norm(r_live.reshape(-1, width), axis=1)
    live = 1.0 if live_rows is None else max(float(np.mean(live_rows)), 1e-12)
    rms = math.sqrt(float(np.mean(r_live**2)) / live)
    floor = max(ROW_FLOOR * rms * math.sqrt(width), np.finfo(np.float64).tiny)
    ratios = error_rows / np.maximum(golden_rows, floor)
    norm_r, norm_e = float(np.linalg.norm(r_live)), float(np.linalg.norm(error))
    norm_d = float(np.linalg.norm(d_live))
    with np.errstate(invalid="ignore"):
        dot = float(np.vdot(r_live, d_live)) if math.isfinite(norm_d) else 0.0
    return Distance(
        max_abs=float(np.abs(error).max()),
        rel_l2=norm_e / norm_r if norm_r else (0.0 if norm_e == 0 else math.inf),
        worst_row=float(ratios.max()),
        rms=rms,
        cosine=dot / (norm_r * norm_d) if norm_r and norm_d else float(norm_r == norm_d),
        snr_db=_decibel(norm_r, norm_e),
        mean_signed=float(error.mean()),
        where=_index(np.abs(error)),
        row_where=_index(ratios.reshape(error.shape[:-1])),
    )


def _wide(array: Array) -> Array:
    return np.asarray(array).astype(np.float64)


def _index(values: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(values.argmax()), values.shape))


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 20 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def difference(golden: Array, other: Array) -> Array:
    """Return ``other - golden``; zero where both are the same non-finite, else inf."""
    with np.errstate(invalid="ignore"):
        error = other - golden
    same = (golden == other) | (np.isnan(golden) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))


def nonfinite(golden: Array, other: Array) -> dict[str, int]:
    """Count NaN and inf that only one side has, or that differ in sign."""
    r, d = _wide(golden), _wide(other)
    r_nan, d_nan = np.isnan(r), np.isnan(d)
    r_inf, d_inf = np.isinf(r), np.isinf(d)
    return {
        "nan": int(d_nan.sum()),
        "inf": int(d_inf.sum()),
        "nan_golden": int(r_nan.sum()),
        "inf_golden": int(r_inf.sum()),
        "mismatched": int(((r_nan != d_nan) | ((r_inf | d_inf) & ~r_nan & (r != d))).sum()),
    }


def ulp_histogram(golden: Array, other: Array, precision: str) -> dict[str, int]:
    """Count elements by distance in units in the last place of the device's dtype."""
    r, d = _order(golden, precision), _order(other, precision)
    gap = np.abs(r - d)
    counts: dict[str, int] = {}
    for low, high in zip(_ULP_EDGES, (*_ULP_EDGES[1:], None)):  # noqa: B905  (Python 3.8 on boards)
        inside = gap >= low if high is None else (gap >= low) & (gap < high)
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        counts[name] = int(inside.sum())
    return counts


def _order(array: Array, precision: str) -> Array:
    """Map floats to integers that count representable numbers."""
    with np.errstate(over="ignore"):
        if precision == "bf16":
            bits = (np.asarray(array).astype(np.float32).view(np.uint32) + np.uint32(0x8000)) >> 16
            half = 1 << 15
        elif precision == "fp16":
            bits, half = np.asarray(array).astype(np.float16).view(np.uint16), 1 << 15
        else:
            bits, half = np.asarray(array).astype(np.float32).view(np.uint32), 1 << 31
    wide = np.atleast_1d(bits).astype(np.int64)
    return np.where(wide >= half, half - wide, wide)


def smallest_tolerance(golden: Array, other: Array) -> Mapping[str, float]:
    """Return the smallest tolerances that would pass, each alone.

    ``atol`` with ``rtol`` 0; ``rtol`` with ``atol`` at 1 % of the golden's rms, because relative
    error against values near zero says nothing.
    """
    r, d = _wide(golden), _wide(other)
    error = np.abs(difference(r, d))
    finite = np.isfinite(r)
    rms = math.sqrt(float(np.mean(r[finite] ** 2))) if finite.any() else 0.0
    atol = ROW_FLOOR * rms
    over = np.maximum(error - atol, 0.0)
    size = np.where(finite & (r != 0), np.abs(r), np.inf)
    rtol = (
        float((over / size)[finite].max(initial=0.0))
        if math.isfinite(error.max(initial=0))
        else math.inf
    )
    return {"atol": float(error.max(initial=0.0)), "rtol": rtol, "rtol_atol": atol}


def top1(golden: Array, other: Array) -> tuple[float, Array]:
    """Return the agreement of the largest entry of each row, and the golden's loss per row.

    The loss is what the golden gives to its own choice above the other's choice: zero when both
    agree, small when the two were nearly tied.
    """
    r = _wide(golden).reshape(-1, golden.shape[-1])
    d = _wide(other).reshape(-1, golden.shape[-1])
    mine, theirs = r.argmax(axis=1), np.nan_to_num(d, nan=-np.inf).argmax(axis=1)
    rows = np.arange(r.shape[0])
    loss = r[rows, mine] - r[rows, theirs]
    return float((mine == theirs).mean()) if rows.size else 1.0, loss
