"""Run the emulated kernel over the grid and judge it.

The yardstick is float64. A kernel passes a case when its error is at most twice that of the plain
unfused computation in the same dtype: products accumulated in fp32, every intermediate rounded to
the dtype, softmax in fp32. Among thousands of random cases some have so few numbers that the plain
one was luckier than one rounding of weights and result lets expect: there that rounding is the
limit. Rows that must be NaN or zero have to be exactly that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omfuse.custom_ops.flash_attention.reference import (
    flash_attention,
    from_bnsd,
    keep_positions,
    to_bnsd,
)
from omfuse.errors import OmfuseError
from omfuse.fuse.contract import FlashAttentionAttrs
from omfuse.ops import emulator, grid, random_cases
from omfuse.ops.grid import GridCase

Array = NDArray[Any]
FACTOR = 2.0


@dataclass(frozen=True)
class CaseResult:
    """One case: its errors, those of the unfused computation, and the worst ratio to the budget.

    ``ratio`` above one fails; ``problem`` names what is wrong beyond errors.
    """

    arch: str
    aspect: str
    name: str
    rel_l2: float
    max_abs: float
    plain_rel_l2: float
    plain_max_abs: float
    ratio: float
    seconds: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the kernel passes."""
        return not self.problem and self.ratio <= 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "ok": self.ok}


def run_grid(
    arches: Sequence[str],
    quick: bool = False,
    seed: int = 0,
    checks: bool = False,
    random_schedules: int = 0,
    random_count: int = 0,
    progress: Callable[[int, int, CaseResult], None] | None = None,
) -> list[CaseResult]:
    """Run every case of some architectures.

    Args:
        arches: ``910b``, ``310p``.
        quick: the short grid.
        seed: of the values.
        checks: also look for races, bounds, uninitialised reads (slow).
        random_schedules: run each case so many times with pipes overtaking each other at random.
        random_count: how many random cases follow those of the grid.
        progress: called after each case with its number, how many there are, and the result.

    Raises:
        NotAvailableError: ``no-compiler``.
        ToolchainError: ``emulator-build-failed``.
    """
    jobs = [
        (arch, case)
        for arch in arches
        for case in [*grid.cases(arch, quick), *random_cases.draw(arch, random_count, seed)]
    ]
    for arch in dict.fromkeys(arches):
        emulator.build(arch)
    results = []
    for number, (arch, case) in enumerate(jobs, 1):
        result = run_case(arch, case, seed, checks, random_schedules)
        results.append(result)
        if progress is not None:
            progress(number, len(jobs), result)
    return results


def run_case(
    arch: str, case: GridCase, seed: int = 0, checks: bool = False, random_schedules: int = 0
) -> CaseResult:
    """Run and judge one case; never raises for what the kernel does wrong."""
    started = time.perf_counter()
    operands = grid.operands(case, seed)
    attrs = case.attrs
    exact, exact_lse = flash_attention(attrs, **operands)
    plain = plain_attention(attrs, operands)
    dtype = operands["query"].dtype
    lse_dtype = dtype if attrs.inner_precision == "fp16" else np.dtype(np.float32)
    may_be_few = case.aspect == random_cases.ASPECT
    spread, lse_spread = (plain.spread, plain.lse_spread) if may_be_few else (None, None)
    schedules: list[int | None] = [None, *range(1, random_schedules + 1)]
    worst: CaseResult | None = None
    for schedule in schedules:
        problem, errors, plain_errors = "", (np.inf, np.inf), (0.0, 0.0)
        ratio = np.inf
        try:
            options = {"arch": arch, "lse": case.lse, "random_seed": schedule, "checks": checks}
            arguments: dict[str, Any] = {**operands, **options}
            done = emulator.run(attrs, **arguments)
            assert done.output is not None
            problem, errors, plain_errors, ratio = judge(
                done.output, plain.output, exact, dtype, spread
            )
            if case.lse and not problem:
                assert done.lse is not None
                problem, _, _, of_lse = judge(done.lse, plain.lse, exact_lse, lse_dtype, lse_spread)
                problem = problem and f"lse: {problem}"
                ratio = max(ratio, of_lse)
        except OmfuseError as error:
            problem = f"{error.code}: {error.message}"
        seconds = time.perf_counter() - started
        result = CaseResult(
            arch, case.aspect, case.name, *errors, *plain_errors, float(ratio), seconds, problem
        )
        if worst is None or (result.ok, -result.ratio) < (worst.ok, -worst.ratio):
            worst = result
    assert worst is not None
    return worst


def judge(
    output: Array,
    plain: Array,
    exact: Array,
    dtype: np.dtype[Any] | None = None,
    spread: Array | None = None,
) -> tuple[str, tuple[float, float], tuple[float, float], float]:
    """Compare with the yardstick.

    Args:
        output: of the kernel.
        plain: of the unfused computation.
        exact: float64.
        dtype: whose roundings are allowed; that of ``output`` if absent.
        spread: how far rounding the weights of a row moves each number, in units of the rounding;
            None: only the result may be rounded.

    Returns:
        What is wrong beyond errors, (rel_l2, max_abs) of ``output`` and of ``plain``, and the worst
        ratio of an error to its budget: twice that of ``plain``, or one rounding of the result and
        of the weights where that is more, since a result cannot be better than its own dtype.
    """
    if output.shape != exact.shape:
        return f"shape {output.shape}, not {exact.shape}", (np.inf, np.inf), (0.0, 0.0), np.inf
    got, base = output.astype(np.float64), plain.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(np.isnan(got), np.isnan(exact)):
        count = int(np.sum(np.isnan(got) != np.isnan(exact)))
        return f"{count} NaN where none belong, or none where they do", _BAD, (0.0, 0.0), np.inf
    if not np.array_equal(got[~finite & ~np.isnan(exact)], exact[~finite & ~np.isnan(exact)]):
        return "infinities differ", _BAD, (0.0, 0.0), np.inf
    if not np.all(got[finite & (exact == 0)] == 0):
        return "a row without keys is not zero", _BAD, (0.0, 0.0), np.inf
    errors, allowed = _errors(got, exact, finite), _errors(base, exact, finite)
    step = _rounding(dtype or output.dtype)
    size = np.abs(exact[finite])
    floors = (step / 2, step * float(size.max(initial=0.0)))
    if spread is not None:
        moved = np.hypot(size, spread[finite].astype(np.float64))
        norm = float(np.linalg.norm(size)) or 1.0
        floors = (step * float(np.linalg.norm(moved)) / norm, step * float(moved.max(initial=0.0)))
    ratio = max(
        error / max(FACTOR * limit, floor, 1e-30)
        for error, limit, floor in zip(errors, allowed, floors, strict=True)
    )
    return "", errors, allowed, ratio


_BAD = (np.inf, np.inf)


def _errors(got: Array, exact: Array, where: Array) -> tuple[float, float]:
    difference = np.abs(got[where] - exact[where])
    if not difference.size:
        return 0.0, 0.0
    norm = float(np.sqrt(np.sum(np.square(exact[where])))) or 1.0
    return float(np.sqrt(np.sum(np.square(difference)))) / norm, float(difference.max())


def _rounding(dtype: np.dtype[Any]) -> float:
    """Return the largest relative error of one rounding to a dtype."""
    return {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype.name, 2.0**-23)


@dataclass(frozen=True)
class Plain:
    """What the unfused computation gives, and how far rounding its weights moves that.

    Rounding each weight of a row by up to r moves a number of the output by about ``r * spread``,
    the root of the sum of squares over the keys.
    """

    output: Array
    lse: Array
    spread: Array
    lse_spread: Array


def plain_attention(attrs: FlashAttentionAttrs, operands: dict[str, Array]) -> Plain:
    """Compute attention as a chain of operators in the dtype of query does.

    Args:
        attrs: node attributes.
        operands: as :func:`omfuse.ops.grid.operands` makes them.
    """
    dtype = operands["query"].dtype

    def rounded(array: Array) -> Array:
        result: Array = array.astype(dtype).astype(np.float32)
        return result

    query = to_bnsd(operands["query"], attrs.layout, attrs.num_heads).astype(np.float32)
    key, value = (
        np.repeat(
            to_bnsd(operands[name], attrs.layout, attrs.num_kv_heads).astype(np.float32),
            attrs.num_heads // attrs.num_kv_heads,
            axis=1,
        )
        for name in ("key", "value")
    )
    scores = rounded(query @ key.swapaxes(-1, -2))
    scores = rounded(scores * np.float32(attrs.scale))
    if attrs.softcap > 0:
        capped = rounded(np.tanh(rounded(scores / np.float32(attrs.softcap))))
        scores = rounded(capped * np.float32(attrs.softcap))
    if "attn_bias" in operands:
        scores = rounded(scores + operands["attn_bias"].astype(np.float32))
    keep = keep_positions(attrs, query.shape[2], key.shape[2], operands.get("kv_lengths"))
    if "attn_mask" in operands:
        keep = keep & operands["attn_mask"]
    scores = np.where(keep, scores, -np.inf)
    if "sink" in operands:
        column = operands["sink"].astype(np.float32).reshape(1, -1, 1, 1)
        column = np.broadcast_to(column, (*scores.shape[:3], 1))
        scores = np.concatenate([scores, column], axis=-1)
    peak = np.max(scores, axis=-1, keepdims=True)
    empty = np.isneginf(peak)
    with np.errstate(invalid="ignore", divide="ignore"):
        powers = np.exp(scores - np.where(empty, 0, peak))
        total = powers.sum(axis=-1, keepdims=True)
        parts = powers / total
        weights = rounded(parts)[..., : key.shape[2]]
        lse = (np.log(total) + np.where(empty, -np.inf, peak))[..., 0]
    if attrs.masked_rows == "zero":
        weights = np.where(empty, 0, weights)
    elif attrs.masked_rows == "uniform":
        weights = np.where(empty, rounded(np.full_like(weights, 1 / key.shape[2])), weights)
    by_scores = np.zeros_like(parts)
    if attrs.inner_precision == "fp16":  # a weight is off by the rounding times its score, too
        by_scores = np.square(parts * np.where(np.isneginf(scores), 0, scores))
    moved = np.square(parts) + by_scores
    spread = np.sqrt(moved[..., : key.shape[2]] @ np.square(value))
    return Plain(
        from_bnsd((weights @ value).astype(dtype), attrs.out_layout),
        lse,
        from_bnsd(np.nan_to_num(spread), attrs.out_layout),
        np.sqrt(np.sum(np.nan_to_num(by_scores), axis=-1)),
    )


def worst_by_aspect(results: Sequence[CaseResult]) -> list[CaseResult]:
    """Return the worst case of each architecture and aspect, in the order of the grid."""
    worst: dict[tuple[str, str], CaseResult] = {}
    for result in results:
        key = (result.arch, result.aspect)
        if key not in worst or (result.ok, -result.ratio) < (worst[key].ok, -worst[key].ratio):
            worst[key] = result
    return list(worst.values())
