"""What other tools would say: their published thresholds, computed here, for comparison only.

Sources: msit's ``debug compare`` and its successor in msprobe (cosine, relative Euclidean
distance, KL divergence, RMSE and mean relative error; a row whose cosine is NaN counts as fine),
and Polygraphy's ``run`` default (element passes when the absolute or the relative error is within
1e-5; every element must pass).
"""

from __future__ import annotations

import numpy as np

from omfuse.session_protocol import Array

_TINY = float(np.finfo(np.float32).eps)


def msit(golden: Array, other: Array) -> dict[str, float | bool]:
    """Apply msit's five thresholds.

    Returns:
        The five measures and ``pass``.
    """
    r = golden.astype(np.float64).reshape(-1)
    d = other.astype(np.float64).reshape(-1)
    with np.errstate(all="ignore"):
        cosine = float(r @ d / (np.linalg.norm(r) * np.linalg.norm(d)))
        euclid = float(np.linalg.norm(d - r) / np.linalg.norm(r))
        rmse = float(np.sqrt(np.mean((d - r) ** 2)))
        big = np.abs(r) > _TINY  # positions with a small golden value are skipped
        relative = float(np.mean(np.abs((d - r)[big] / r[big]))) if big.any() else 0.0
        p, q = _softmax(r), _softmax(d)
        divergence = float(np.sum(p * np.log(p / q)))
    within = (
        cosine > 0.99 and euclid < 0.05 and divergence < 0.005 and rmse < 1.0 and relative < 1.0
    )
    return {
        "cosine": cosine,
        "relative_euclidean": euclid,
        "kl": divergence,
        "rmse": rmse,
        "mean_relative": relative,
        "pass": bool(np.isnan(cosine)) or within,
    }


def _softmax(values: Array) -> Array:
    shifted = np.exp(values - values.max())
    result: Array = shifted / shifted.sum()
    return result


def polygraphy(
    golden: Array, other: Array, rtol: float = 1e-5, atol: float = 1e-5
) -> dict[str, float | bool]:
    """Apply Polygraphy's element-wise default.

    Returns:
        Share of elements within and ``pass``.
    """
    r, d = golden.astype(np.float64), other.astype(np.float64)
    with np.errstate(all="ignore"):
        absolute = np.abs(d - r)
        relative = absolute / (np.abs(r) + np.finfo(np.float64).eps)
        good = (absolute <= atol) | (relative <= rtol)
    return {"within": float(good.mean()), "pass": bool(good.all())}
