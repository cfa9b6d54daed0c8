"""Random cases for ``omfuse op test --random``: features meet that the grid keeps apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from omfuse.ops.grid import ARCH_TYPES, BIASES, LAYOUTS, MASKS, GridCase

QUERIES = (1, 2, 5, 16, 33, 64, 65, 100, 129, 197, 260)
KEYS = (1, 2, 7, 16, 77, 128, 129, 200, 256, 257, 300, 513, 700)
ASPECT = "random"
_COUPLED_BLOCK = 32  # bytes that 310P writes at least


def draw(arch: str, count: int, seed: int) -> list[GridCase]:
    """Return ``count`` cases that the operator of an architecture takes, the same for one seed."""
    rng = np.random.default_rng([seed, *arch.encode()])
    found: list[GridCase] = []
    while len(found) < count:
        case = _case(rng, arch)
        if arch == "310p" and _refused_by_coupled_chips(case):
            continue
        found.append(case)
    return found


def _refused_by_coupled_chips(case: GridCase) -> bool:
    """Tell what ``docs/limits.md`` says 310P cannot take."""
    numbers = case.batch * case.heads * case.q_len * (case.value_depth or case.depth)
    return 2 * numbers < _COUPLED_BLOCK or (case.lse and case.q_len % 8 != 0)


def _case(rng: np.random.Generator, arch: str) -> GridCase:
    def one(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    def sometimes(chance: float) -> bool:
        return bool(rng.random() < chance)

    kv_heads = one(1, 1, 2, 3)
    extra: dict[str, Any] = {
        "layout": one(*LAYOUTS),
        "out_layout": one(*LAYOUTS),
        "causal": one("none", "none", "top_left", "bottom_right"),
        "masked_rows": one("nan", "zero", "uniform"),
    }
    if sometimes(0.2):
        extra["window_left"] = one(0, 5, 40, 300)
    if sometimes(0.15):
        extra["window_right"] = one(0, 5, 40)
    if sometimes(0.2):
        extra["softcap"] = 5.0
    if sometimes(0.2):
        extra["inner_precision"] = "fp16"
    inputs = []
    if sometimes(0.3):
        inputs.append(one(*(name for name in BIASES if arch != "310p" or name != "bias32")))
    if sometimes(0.4):
        inputs.append(one(*MASKS, "empty-rows"))
    inputs += [name for name, chance in (("sink", 0.15), ("kv_lengths", 0.2)) if sometimes(chance)]
    return GridCase(
        ASPECT,
        batch=one(1, 1, 2, 3),
        heads=kv_heads * one(1, 1, 2, 4),
        kv_heads=kv_heads,
        q_len=one(*QUERIES),
        kv_len=one(*KEYS),
        depth=int(one(1, 3, 8, 15, 16, 24, 40, 59, 64, 80, 111, 128, 160, 200, 256)),
        value_depth=one(None, None, None, 1, 8, 17, 64, 130, 256),
        dtype=one(*ARCH_TYPES[arch]),
        lse=sometimes(0.2),
        inputs=tuple(inputs),
        extra=extra,
    )
