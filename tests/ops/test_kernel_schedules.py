"""Pipes that overtake each other at random must not change a bit of the result."""

from __future__ import annotations

import pytest
from tests.ops.kernel_cases import Case, operands

from omfuse.ops import emulator

CASES = [
    Case("tails", kv_heads=1, q_len=40, kv_len=150, depth=40),
    Case("masked", batch=2, q_len=20, kv_len=300, mask=(2, 1, 20, 300),
         attrs={"causal": "bottom_right"}),
    Case("many-steps", heads=1, kv_heads=1, q_len=16, kv_len=2600, depth=32),
    Case("many-tasks", batch=3, heads=4, kv_heads=4, q_len=3, kv_len=77, depth=160,
         bias=(1, 4, 3, 77)),
    Case("short-rows", batch=2, heads=3, kv_heads=3, q_len=33, kv_len=300, depth=5, layout="BSH"),
    Case("half-scores", heads=1, kv_heads=1, q_len=70, kv_len=1300, depth=32,
         attrs={"inner_precision": "fp16"}),
    Case("split", heads=1, kv_heads=1, q_len=1, kv_len=2100, depth=32),
]  # fmt: skip


def few_cores(arch: str) -> emulator.Platform:
    """Return a platform of two cube cores, so that each has several tasks."""
    chip = emulator.Platform.from_buffer_copy(emulator.PLATFORMS[arch])
    chip.cube_cores, chip.vector_cores = 2, 4
    return chip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("arch", list(emulator.ARCHES))
def test_random_schedules_give_the_same_bits(arch: str, case: Case) -> None:
    attrs, arrays = operands(case)
    chip = few_cores(arch)
    ordered = emulator.run(attrs, **arrays, arch=arch, platform=chip).output
    assert ordered is not None
    for seed in range(12):
        shuffled = emulator.run(
            attrs, **arrays, arch=arch, platform=chip, random_seed=seed, checks=True
        ).output
        assert shuffled is not None
        assert shuffled.tobytes() == ordered.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("arch", list(emulator.ARCHES))
def test_many_random_schedules(arch: str, case: Case) -> None:
    attrs, arrays = operands(case)
    chip = few_cores(arch)
    ordered = emulator.run(attrs, **arrays, arch=arch, platform=chip).output
    assert ordered is not None
    for seed in range(1000, 1300):
        shuffled = emulator.run(attrs, **arrays, arch=arch, platform=chip, random_seed=seed).output
        assert shuffled is not None
        assert shuffled.tobytes() == ordered.tobytes()
