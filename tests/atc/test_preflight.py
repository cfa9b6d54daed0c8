"""What is looked at before ATC starts, and said again when it failed."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from tests.atc.compiling import SHAPES, Maker, cli, compile_fused, package
from tests.atc.conftest import GOOD

import omfuse
from omfuse.atc.config import load_soc, soc_names
from omfuse.atc.driver import AtcError
from omfuse.atc.preflight import python_warnings
from omfuse.errors import NotAvailableError, OmfuseError, UsageError
from omfuse.ops.package import PRESETS
from omfuse.sim.package import CHIPS

REFUSED = """
import sys
print("ATC start working now, please wait for a moment.")
print("E19010: No parser is registered for Op [fa, optype [ai.onnx::17::FlashAttention]].")
sys.exit(255)
"""


def test_chips_with_a_kernel_are_the_same_everywhere() -> None:
    socs = [load_soc(name) for name in soc_names()]
    assert {soc.short for soc in socs if soc.attention["custom"]} == {*PRESETS} == {*CHIPS}


@pytest.mark.parametrize("device", ["sim", "ascend"])
@pytest.mark.parametrize("soc", ["Ascend310B1", "Ascend910B", "Ascend910A"])
def test_a_chip_without_kernel_is_refused_at_once(
    fake_cann: Maker, fused: Path, tmp_path: Path, device: str, soc: str
) -> None:
    more: dict[str, Any] = {"cann": fake_cann()} if device == "ascend" else {}
    with pytest.raises(UsageError) as caught:
        omfuse.compile(fused, tmp_path / "m.om", soc, shape=SHAPES, device=device, **more)
    assert caught.value.code == "no-kernel"
    assert "without fusing" in (caught.value.hint or "")


def test_a_package_of_ones_own_for_such_a_chip_is_taken(
    fake_cann: Maker, fused: Path, tmp_path: Path
) -> None:
    home = fake_cann()
    package(home, short="ascend310b")
    result = omfuse.compile(fused, tmp_path / "m.om", "Ascend310B1", shape=SHAPES, cann=home)
    assert len(result.attention) == 1


def test_the_package_is_looked_at_again_after_a_failure(
    fake_cann: Maker, fused: Path, tmp_path: Path
) -> None:
    home = fake_cann(REFUSED)
    root = package(home)
    with pytest.raises(AtcError) as caught:
        compile_fused(fused, tmp_path, home)
    assert f"nothing is wrong with {root}" in (caught.value.hint or "")
    (root / "op_proto/lib/libcust.so").unlink()
    with pytest.raises(AtcError) as caught:
        compile_fused(fused, tmp_path, home, checked=False)
    assert "package: the package has no op_proto library" in (caught.value.hint or "")


def test_warnings_are_shown_with_a_failure(
    fake_cann: Maker, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--shape", "batch=1", "--shape", "seq=16", "--set", "presicion_mode=force_fp16")
    home = fake_cann("import sys; print(\"ERROR: unknown command line flag 'x'\"); sys.exit(255)")
    code, _, err = cli(capsys, plain, "-o", tmp_path / "m.om", "--soc", "310P3", "--cann", home,
                       *words)  # fmt: skip
    assert code == 3
    assert "did you mean precision_mode" in err


def test_a_failure_of_several_says_which_it_was(
    fake_cann: Maker, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = fake_cann("import sys; sys.exit(9)")
    code, out, err = cli(
        capsys, plain, "-o", tmp_path / "m.om", "--soc", "310P3", "--soc", "910B3", "--cann", home,
        "--shape", "batch=1", "--shape", "seq=16", "--json",
    )  # fmt: skip
    assert code == 3
    assert [word in err for word in ("m.ascend310p3.om", "m.ascend910b3.om")] == [True, True]
    assert '"target"' in out


def test_a_home_without_atc_is_named(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "gone"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    with pytest.raises(NotAvailableError, match=r"gone holds no bin/atc"):
        omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES)


def python_with_numpy(folder: Path, version: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "python3"
    program.write_text(f"#!/bin/sh\necho {version}\n", "utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("numpy", "cann", "warned"),
    [("2.4.6", "8.1.RC1", True), ("1.26.4", "8.1.RC1", False), ("2.4.6", "9.1.0", False)],
)
def test_a_python_that_atc_cannot_use_is_named(
    fake_cann: Maker, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    numpy: str, cann: str, warned: bool,
) -> None:  # fmt: skip
    python_with_numpy(tmp_path / "py", numpy)
    monkeypatch.setenv("PATH", f"{tmp_path / 'py'}:/usr/bin:/bin")
    home = fake_cann(GOOD, cann)
    result = omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=home)
    assert any("EC0010" in text for text in result.warnings) == warned


def test_the_simulated_atc_needs_no_python_of_its_own(tmp_path: Path) -> None:
    from omfuse.atc.environment import find_toolchain

    assert python_warnings(find_toolchain("sim", None, tmp_path), {"PATH": "/nowhere"}) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ascend310", "no configuration"),
        ("Ascend950PR_9599", "no configuration"),
        ("310", "no configuration"),
        ("Ascend610", "no configuration"),
        ("Ascend910C", "Ascend910_9391"),
        ("Ascend310P", "Ascend310P3"),
    ],
)
def test_names_that_mislead(name: str, words: str) -> None:
    with pytest.raises(OmfuseError) as caught:
        load_soc(name)
    assert caught.value.code == "unknown-soc"
    assert words in f"{caught.value.message} {caught.value.hint}"
