"""Random attentions through the emulated kernel: features meet that the grid keeps apart."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from tests.ops.commands import omfuse_json
from tests.ops.native_code import compiler

from omfuse.custom_ops.flash_attention.reference import flash_attention
from omfuse.ops import grid, random_cases, verify

ARCHES = ["910b", "310p"]


def failures(arch: str, count: int, seed: int, **how: int) -> list[str]:
    compiler()
    results = [
        verify.run_case(arch, case, seed, **how) for case in random_cases.draw(arch, count, seed)
    ]
    return [f"{r.name}: {r.problem} {r.ratio:.2f}" for r in results if not r.ok]


@pytest.mark.parametrize("arch", ARCHES)
def test_random_cases_pass(arch: str) -> None:
    assert failures(arch, 150, seed=11) == []


@pytest.mark.parametrize("arch", ARCHES)
def test_random_cases_pass_with_checks_in_any_order_of_pipes(arch: str) -> None:
    assert failures(arch, 12, seed=12, checks=True, random_schedules=2) == []


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES)
def test_thousands_of_random_cases_pass(arch: str) -> None:
    assert failures(arch, 4000, seed=13) == []
    assert failures(arch, 300, seed=14, checks=True, random_schedules=3) == []


@pytest.mark.parametrize("arch", ARCHES)
def test_every_feature_is_drawn_and_none_the_operator_refuses(arch: str) -> None:
    cases = random_cases.draw(arch, 400, seed=0)
    seen = Counter(name for case in cases for name in case.inputs)
    wanted = {*grid.MASKS, "bias", "empty-rows", "sink", "kv_lengths"}
    assert wanted <= set(seen)
    assert {case.depth for case in cases} >= {1, 3, 8, 59, 128, 256}
    assert {case.dtype for case in cases} == set(grid.ARCH_TYPES[arch])
    assert {case.attrs.causal for case in cases} == {"none", "top_left", "bottom_right"}
    assert arch == "910b" or not seen["bias32"]
    assert cases == random_cases.draw(arch, 400, seed=0) != random_cases.draw(arch, 400, seed=1)


@pytest.mark.parametrize("seed", range(40))
def test_the_allowance_for_few_numbers_hides_no_wrong_scale(seed: int) -> None:
    case = random_cases.draw("910b", 1, seed)[0]
    case = dataclasses.replace(case, kv_len=64, q_len=64, inputs=(), extra={"causal": "none"})
    operands = grid.operands(case, seed)
    plain = verify.plain_attention(case.attrs, operands)
    exact, _ = flash_attention(case.attrs, **operands)
    wrong, _ = flash_attention(
        dataclasses.replace(case.attrs, scale=1.05 * case.attrs.scale), **operands
    )
    dtype = operands["query"].dtype
    for output, passes in ((exact, True), (wrong, False)):
        rounded = output.astype(dtype)
        problem, _, _, ratio = verify.judge(rounded, plain.output, exact, dtype, plain.spread)
        assert (not problem and ratio <= 1) is passes
    assert np.all(plain.spread >= 0)


def test_the_command_runs_them_after_the_grid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler()
    monkeypatch.setattr(grid, "cases", lambda arch, quick=False: [])
    code, found = omfuse_json(
        capsys, "op", "test", "--arch", "910b", "--random", "5", "--seed", "3"
    )
    assert (code, found["cases"], found["failed"]) == (0, 5, 0)
    assert {r["aspect"] for r in found["results"]} == {"random"}
