"""The judge of the kernel: what it must fail, what it must pass, and the grid it is used on."""

import dataclasses

import numpy as np
import pytest
from tests.ops.commands import omfuse, omfuse_json
from tests.ops.native_code import compiler

from omfuse.custom_ops.flash_attention.reference import flash_attention
from omfuse.ops import emulator, grid, verify
from omfuse.ops.grid import GridCase

CASE = GridCase("length", q_len=33, kv_len=65, inputs=("mask-full",))
EMPTY = GridCase("empty rows", q_len=33, kv_len=65, inputs=("empty-rows",))


def sides(case: GridCase = CASE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a good output (float64 rounded once), the plain one and the yardstick."""
    operands = grid.operands(case, 0)
    exact, _ = flash_attention(case.attrs, **operands)
    plain = verify.plain_attention(case.attrs, operands).output
    return exact.astype(grid.TYPES[case.dtype]), plain, exact


def passes(output: np.ndarray, case: GridCase = CASE) -> bool:
    _, plain, exact = sides(case)
    problem, _, _, ratio = verify.judge(output, plain, exact)
    return not problem and ratio <= 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("case", [CASE, EMPTY], ids=["masked", "empty rows"])
def test_the_right_result_passes(case: GridCase, dtype: str) -> None:
    case = dataclasses.replace(case, dtype=dtype)
    good, plain, _ = sides(case)
    assert passes(good, case)
    assert passes(plain, case)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.98 * 64**-0.5},
        {"causal": "top_left"},
        {"window_left": 20},
        {"softcap": 30.0},
    ],
)
def test_a_feature_that_is_off_fails(change: dict[str, object]) -> None:
    operands = grid.operands(CASE, 0)
    wrong, _ = flash_attention(dataclasses.replace(CASE.attrs, **change), **operands)
    assert not passes(wrong.astype(np.float16))


def test_an_ignored_mask_and_a_zeroed_tile_fail() -> None:
    operands = grid.operands(CASE, 0)
    operands.pop("attn_mask")
    ignored, _ = flash_attention(CASE.attrs, **operands)
    assert not passes(ignored.astype(np.float16))
    good, _, _ = sides()
    tile = good.copy()
    tile[0, 0, :16, :16] = 0
    assert not passes(tile)
    assert not passes(good[:, :, :-1])


def test_one_dropped_key_fails() -> None:
    operands = grid.operands(CASE, 0)
    operands["attn_mask"] = operands["attn_mask"].copy()
    operands["attn_mask"][..., -1] = False
    wrong, _ = flash_attention(CASE.attrs, **operands)
    assert not passes(wrong.astype(np.float16))


@pytest.mark.parametrize("rows", ["nan", "zero", "uniform"])
def test_rows_without_keys_must_be_exactly_what_they_should(rows: str) -> None:
    case = dataclasses.replace(EMPTY, extra={"masked_rows": rows})
    good, _, exact = sides(case)
    assert passes(good, case)
    for other in ("nan", "zero", "uniform"):
        if other != rows:
            wrong = sides(dataclasses.replace(EMPTY, extra={"masked_rows": other}))[0]
            # The same operands: only the rows differ.
            wrong = np.where(np.isfinite(exact) & (exact != 0), good, wrong).astype(np.float16)
            if rows != "uniform":
                assert not passes(wrong, case)


def test_the_grid_covers_what_it_promises() -> None:
    for arch in ("910b", "310p"):
        cases = grid.cases(arch)
        assert {c.depth for c in cases} >= set(grid.DEPTHS)
        assert {(c.q_len, c.kv_len) for c in cases} >= {*grid.LENGTHS, grid.LONG}
        assert {(c.heads, c.kv_heads) for c in cases} >= set(grid.HEADS)
        assert {c.attrs.layout for c in cases} == set(grid.LAYOUTS)
        assert {c.attrs.out_layout for c in cases} == set(grid.LAYOUTS)
        assert {c.attrs.causal for c in cases} == {"none", "top_left", "bottom_right"}
        assert {c.attrs.masked_rows for c in cases} == {"nan", "zero", "uniform"}
        assert {c.dtype for c in cases} == set(grid.ARCH_TYPES[arch])
        given = {name for c in cases for name in c.inputs}
        assert given >= {*grid.MASKS, "bias", "sink", "kv_lengths", "empty-rows"}
        names = [c.name for c in cases]
        assert len(set(names)) > 0.9 * len(names)
        assert len(grid.cases(arch, quick=True)) < 0.6 * len(cases)


def test_operands_depend_on_the_seed_alone() -> None:
    for case in (CASE, EMPTY):
        one, same, other = (grid.operands(case, seed) for seed in (1, 1, 2))
        assert all(np.array_equal(one[name], same[name]) for name in one)
        assert not np.array_equal(one["query"], other["query"])


@pytest.mark.parametrize("arch", ["910b", "310p"])
def test_the_short_grid_passes(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    compiler()
    code, found = omfuse_json(capsys, "op", "test", "--quick", "--arch", arch)
    wrong = [r["name"] + " " + r["problem"] for r in found["results"] if not r["ok"]]
    assert wrong == []
    assert (code, found["failed"], found["emulated"]) == (0, 0, True)
    assert found["cases"] == len(grid.cases(arch, quick=True))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["910b", "310p"])
def test_the_whole_grid_passes(arch: str) -> None:
    compiler()
    failed = [r for r in verify.run_grid([arch]) if not r.ok]
    assert failed == []


def test_a_wrong_kernel_fails_and_the_table_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler()
    run = emulator.run

    def off(attrs: object, *args: object, **options: object) -> emulator.Emulated:
        done = run(attrs, *args, **options)  # type: ignore[arg-type]
        assert done.output is not None
        return dataclasses.replace(done, output=(done.output * 1.02).astype(done.output.dtype))

    monkeypatch.setattr(emulator, "run", off)
    cases = [dataclasses.replace(CASE, aspect="length")]
    monkeypatch.setattr(grid, "cases", lambda arch, quick=False: cases)
    code, out, err = omfuse(capsys, "op", "test", "--arch", "910b")
    assert code == 1
    assert "1 of 1 failed" in out
    assert "FAIL" in err


def test_what_the_kernel_refuses_is_a_failure_with_its_reason() -> None:
    compiler()
    result = verify.run_case("910b", GridCase("depth", depth=512, q_len=16, kv_len=16))
    assert not result.ok
    assert "depth" in result.problem


def test_no_compiler_exits_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulator.native, "compiler", lambda: None)
    code, _, err = omfuse(capsys, "op", "test", "--quick")
    assert code == 4
    assert "install g++" in err


def test_unknown_architectures_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = omfuse(capsys, "op", "test", "--arch", "910c")
    assert code == 2
    assert "910b" in err
