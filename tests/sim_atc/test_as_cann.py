"""The stand-in in the place of a real ATC: `--device ascend` with a CANN folder around it.

What the real way adds to the simulated one is tried here: finding CANN, its version, its platform
files, its environment, installed vendors, and the check of the operator package before ATC starts.
"""

from __future__ import annotations

import platform
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sim_atc.conftest import FUSED, save

import omfuse
from omfuse.atc.driver import AtcError
from omfuse.errors import NotAvailableError, UsageError
from omfuse.sim.package import LIBRARY_MARK, write_package

SHAPE = ["batch=1", "seq=16"]


@pytest.fixture
def cann(tmp_path: Path) -> Path:
    home = tmp_path / "cann"
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "atc"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m omfuse.sim.atc "$@"\n', "utf-8"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (home / "version.cfg").write_text("runtime_running_version=[7.7.0.1.238:8.1.RC1]\n", "utf-8")
    platforms = home / f"{platform.machine()}-linux" / "data" / "platform_config"
    platforms.mkdir(parents=True)
    for name in ("Ascend310P3", "Ascend910B4"):
        (platforms / f"{name}.ini").write_text("[version]\n", "utf-8")
    write_package(home / "opp" / "vendors")
    (home / "opp/vendors/config.ini").write_text("load_priority=omfuse_simulated\n", "utf-8")
    (home / "compiler").mkdir()
    (home / "compiler/version.info").write_text(
        'required_opp_abi_version=">=6.3, <=7.7"\n', "utf-8"
    )
    return home


def build(tmp_path: Path, home: Path, **more: Any) -> omfuse.atc.job.CompileResult:
    given: dict[str, Any] = {"soc": "310P3", "shape": SHAPE, "use_cache": False, **more}
    return omfuse.compile(save(tmp_path, FUSED), tmp_path / "m.om", cann=home, **given)


def test_a_compile_finds_everything_in_the_cann_folder(tmp_path: Path, cann: Path) -> None:
    result = build(tmp_path, cann)
    assert (result.device, result.cann) == ("ascend", "8.1.RC1")
    assert result.info["attention"][0]["complete"] is True
    assert "ASCEND_CUSTOM_OPP_PATH" not in result.command
    assert any("simulated ATC" in warning for warning in result.warnings), "never silently"


def test_a_chip_without_a_platform_file_is_refused_before_atc(tmp_path: Path, cann: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build(tmp_path, cann, soc="Ascend310P1")
    assert caught.value.code == "soc-not-installed"
    assert "Ascend310P3" in (caught.value.hint or "")


def _nothing(vendor: Path) -> None:
    vendor.rename(vendor.with_name("not-listed"))


def _keys(vendor: Path) -> None:
    library = vendor / "framework/onnx/libcust_onnx_parsers.so"
    library.write_bytes(LIBRARY_MARK + b"FlashAttention\nai.onnx::13::FlashAttention\n")


def _proto(vendor: Path) -> None:
    for path in (vendor / "op_proto").rglob("*.so"):
        path.unlink()


def _chip(vendor: Path) -> None:
    (vendor / "op_impl/ai_core/tbe/config/ascend310p").rename(vendor / "moved")


def _version(vendor: Path) -> None:
    (vendor / "version.info").write_text("compiler_version=7.9.0\n", "utf-8")


DAMAGES = [
    (_nothing, "E19010"),
    (_keys, "E19010"),
    (_proto, "E10501"),
    (_chip, "EZ3003"),
    (_version, "E19010"),
]


@pytest.mark.parametrize(("damage", "code"), DAMAGES)
def test_the_check_before_atc_and_atc_itself_agree(
    tmp_path: Path, cann: Path, damage: Callable[[Path], None], code: str
) -> None:
    damage(cann / "opp/vendors/omfuse_simulated")
    with pytest.raises(NotAvailableError) as before:
        build(tmp_path, cann)
    assert before.value.code == "op-not-installed"
    assert "omfuse op" in (before.value.hint or "") or "rebuild" in (before.value.hint or "")
    with pytest.raises(AtcError) as inside:
        build(tmp_path, cann, checked=False)
    assert inside.value.code == f"atc-{code.lower()}"


def test_a_good_package_passes_both(tmp_path: Path, cann: Path) -> None:
    assert build(tmp_path, cann, checked=False).output == tmp_path / "m.om"
