"""The C++ kernel: every instruction set of this machine against the reference, and its build."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.host.attention_cases import (
    TOLERANCE,
    Case,
    cases,
    error_of,
    expected,
    inputs_of,
    model_of,
)

from omfuse.fuse.contract import FlashAttentionAttrs
from omfuse.host import kernel
from omfuse.host.session import HostSession

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(kernel.compiler() is None, reason="no C++ compiler")


def check(case: Case) -> None:
    feeds = inputs_of(case)
    want, want_lse = expected(case, feeds)
    with HostSession(model_of(case, feeds), "kernel", threads=2) as session:
        assert session.kernels["attn"] == "kernel: asked for"
        results = session.run(feeds)
    assert error_of(case, results["output"], want, feeds["value"]) <= TOLERANCE[case.dtype], case
    if case.lse:
        finite = np.isfinite(want_lse)
        assert (np.isneginf(results["lse"]) == np.isneginf(want_lse)).all(), case
        assert np.abs(results["lse"][finite] - want_lse[finite]).max(initial=0) <= 1e-4, case


def sweep(examples: int) -> None:
    """Check random cases; also run in child processes that use another instruction set."""
    quiet = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(cases(max_length=150))(check))()


@needs_compiler
def test_the_kernel_follows_the_contract() -> None:
    assert kernel.find().reason == ""
    sweep(150)


@needs_compiler
@pytest.mark.parametrize("name", ["avx2", "neon", "scalar"])
def test_other_instruction_sets_follow_it_too(name: str) -> None:
    """A name that this machine lacks falls to scalar, which is right as well."""
    code = "from tests.host.test_kernel import sweep; sweep(60)"
    environment = {**os.environ, "OMFUSE_CPU_KERNEL": name, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


PLAIN = Case(FlashAttentionAttrs(num_heads=2, num_kv_heads=2, scale=0.3), q_len=100, kv_len=130)


@needs_compiler
@pytest.mark.parametrize("fill", [-1e4, float(np.finfo(np.float32).min)])
def test_finite_fills_in_a_whole_row_weigh_all_keys(fill: float) -> None:
    """Exporters mask with finite numbers: such a row is softmax of its scores, never NaN."""
    case = dataclasses.replace(PLAIN, optional=("attn_bias",), bias_shape=(100, 130))
    feeds = inputs_of(case)
    feeds["attn_bias"] = np.where(np.arange(130) < 90, np.float32(fill), np.float32(0)).repeat(1)
    feeds["attn_bias"] = np.tile(feeds["attn_bias"], (100, 1))
    feeds["attn_bias"][::3] = fill
    with HostSession(model_of(case, feeds), "kernel") as fast:
        got = fast.run(feeds)["output"]
    with HostSession(model_of(case, feeds), "plain", optimize=False) as slow:
        want = slow.run(feeds)["output"].astype(np.float64)
    # At -1e4 an fp32 score has a unit in the last place of 1e-3.
    assert error_of(case, got, want, feeds["value"]) <= 2e-3


@needs_compiler
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_are_not_hidden(bad: float) -> None:
    feeds = inputs_of(PLAIN)
    feeds["query"][0, 0, 7, 0] = bad
    want, _ = expected(PLAIN, feeds)
    with HostSession(model_of(PLAIN, feeds), "kernel") as session:
        got = session.run(feeds)["output"]
    assert np.isnan(got[0, 0, 7]).all()
    assert np.isnan(got).sum() == got.shape[-1]
    assert np.isnan(want[0, 0, 7]).all()


@needs_compiler
def test_large_scores_do_not_overflow() -> None:
    feeds = inputs_of(PLAIN)
    feeds["query"] *= 1000
    want, _ = expected(PLAIN, feeds)
    with HostSession(model_of(PLAIN, feeds), "kernel") as session:
        got = session.run(feeds)["output"]
    assert error_of(PLAIN, got, want, feeds["value"]) < 1e-3


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMFUSE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel, "find", kernel.find.__wrapped__)
    return tmp_path


def lowered_by(case: Case = PLAIN) -> str:
    feeds = inputs_of(case)
    with HostSession(model_of(case, feeds)) as session:
        got = session.run(feeds)["output"]
        name = session.kernels["attn"]
    assert error_of(case, got, expected(case, feeds)[0], feeds["value"]) <= 4e-6
    return name


def test_without_a_compiler_models_still_run(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert lowered_by().startswith("plain: ")
    assert "no C++ compiler found" in lowered_by()


def test_a_failing_compiler_is_said(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = fresh / "cxx"
    tool.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "fatal error: boom" >&2\nexit 1\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("CXX", str(tool))
    assert "build failed: fatal error: boom" in lowered_by()
    assert not list((fresh / "cache").rglob("*.so"))


@needs_compiler
@pytest.mark.parametrize("part", ["pack.h", "narrow.h"])
def test_a_wrong_kernel_is_caught_by_the_proof(
    part: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale that is a thousandth off, in the kernel for many rows or in the one for few."""
    sources = fresh / "sources"
    shutil.copytree(kernel.SOURCES, sources)
    right = {"pack.h": "Vec::Set(p.scale)", "narrow.h": "p.type) * p.scale"}[part]
    text = (sources / part).read_text()
    assert text.count(right) == 1
    (sources / part).write_text(text.replace(right, right.replace("p.scale", "(p.scale * 1.001f)")))
    monkeypatch.setattr(kernel, "SOURCES", sources)
    assert "proof failed with code 1" in lowered_by()


@needs_compiler
def test_a_crashing_kernel_ends_only_the_proof(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = fresh / "sources"
    shutil.copytree(kernel.SOURCES, sources)
    text = (sources / "ort_abi.h").read_text()
    assert "kGetInput = 90" in text
    (sources / "ort_abi.h").write_text(text.replace("kGetInput = 90", "kGetInput = 3"))
    monkeypatch.setattr(kernel, "SOURCES", sources)
    assert "proof failed" in lowered_by()


def test_it_can_be_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMFUSE_CPU_KERNEL", "off")
    assert "switched off" in lowered_by()
