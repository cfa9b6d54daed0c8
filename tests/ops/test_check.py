"""`omfuse op check` finds each way in which an installed package can be wrong."""

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.ops.fake_cann import make_cann
from tests.ops.native_code import shared_library

from omfuse.atc.config import load_soc
from omfuse.atc.environment import find_toolchain
from omfuse.atc.op_package import check_flash_attention
from omfuse.errors import ModelError, NotAvailableError
from omfuse.ops.check import Finding, check_package
from omfuse.ops.install import install_package

TBE = "op_impl/ai_core/tbe"


@pytest.fixture
def cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ASCEND_OPP_PATH", raising=False)
    monkeypatch.delenv("ASCEND_CUSTOM_OPP_PATH", raising=False)
    return make_cann(tmp_path)


@pytest.fixture
def root(tmp_path: Path, tree: Path) -> Path:
    source = tmp_path / "source/omfuse"
    shutil.copytree(tree, source, symlinks=True)
    return install_package(source, tmp_path / "ops").root


def bad(findings: list[Finding]) -> dict[str, str]:
    return {f.part: f.text for f in findings if not f.ok}


def test_a_whole_package_is_right(root: Path, cann: Path) -> None:
    findings = check_package("Ascend910B3", root.parent.parent, cann)
    assert bad(findings) == {}
    assert [f.part for f in findings] == [
        "package", "version", "keys", "plugin", "definition", "op-info", "tiling", "tiling-link",
        "kernel", "binary",
    ]  # fmt: skip
    assert check_package("Ascend910B3", root, cann) == findings


def _no_plugin(root: Path) -> None:
    shutil.rmtree(root / "framework/onnx")


def _other_plugin(root: Path) -> None:
    path = root / "framework/onnx/libcust_onnx_parsers.so"
    path.write_bytes(path.read_bytes().replace(b"ai.onnx::17::", b"ai.onnx::77::"))


def _broken_plugin(root: Path) -> None:
    path = root / "framework/onnx/libcust_onnx_parsers.so"
    path.write_bytes(path.read_bytes().replace(b"\x7fELF", b"ELF\x7f"))


def _no_definition(root: Path) -> None:
    shutil.rmtree(root / "op_proto/lib")


def _other_machine(root: Path) -> None:
    folder = root / TBE / "op_tiling/lib/linux"
    (folder / platform.machine()).rename(folder / "riscv64")


def _dangling_link(root: Path) -> None:
    link = root / TBE / "op_tiling/liboptiling.so"
    link.unlink()
    link.symlink_to("nowhere.so")


def _newer_version(root: Path) -> None:
    (root / "version.info").write_text("custom_opp_compiler_version=9.1.0\n", "utf-8")


def _no_version(root: Path) -> None:
    (root / "version.info").unlink()


def _old_kernel(root: Path) -> None:
    path = root / TBE / "omfuse_impl/dynamic/flash_attention.cpp"
    path.write_text(path.read_text("utf-8") + "// older\n", "utf-8")


def _no_kernel(root: Path) -> None:
    (root / TBE / "omfuse_impl/dynamic/flash_attention.cpp").unlink()


def _no_binary(root: Path) -> None:
    shutil.rmtree(root / TBE / "kernel/ascend910b")


def _swapped_inputs(root: Path) -> None:
    path = root / TBE / "config/ascend910b/aic-ascend910b-ops-info.json"
    text = json.loads(path.read_text("utf-8"))
    entry = text["FlashAttention"]
    entry["input3"], entry["input4"] = entry["input4"], entry["input3"]
    path.write_text(json.dumps(text), "utf-8")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (_no_plugin, "plugin"),
        (_other_plugin, "keys"),
        (_broken_plugin, "plugin"),
        (_no_definition, "definition"),
        (_other_machine, "tiling"),
        (_dangling_link, "tiling-link"),
        (_newer_version, "version"),
        (_no_version, "version"),
        (_old_kernel, "kernel"),
        (_no_kernel, "kernel"),
        (_no_binary, "binary"),
        (_swapped_inputs, "op-info"),
    ],
)
def test_each_damage_is_found_with_a_fix(
    root: Path, cann: Path, damage: Callable[[Path], None], part: str
) -> None:
    damage(root)
    findings = check_package("Ascend910B3", root, cann)
    assert part in bad(findings)
    assert all(f.fix for f in findings if not f.ok)


def test_a_chip_that_was_not_built_is_named(root: Path, cann: Path) -> None:
    found = bad(check_package("Ascend310P3", root, cann))
    assert list(found) == ["op-info", "binary"]
    assert "ascend310p" in found["op-info"]
    assert "ascend910b" in found["op-info"]


def test_a_library_with_missing_symbols_does_not_load(
    root: Path, cann: Path, tmp_path: Path
) -> None:
    text = """
    void missing_in_cann();
    extern "C" void (*const use)();
    void (*const use)() = missing_in_cann;
    """
    made = shared_library(tmp_path, "broken", text, [])
    made.replace(next((root / "op_proto").rglob("*.so")))
    found = bad(check_package("Ascend910B3", root, cann))
    assert "missing_in_cann" in found["definition"]


def test_without_a_path_the_places_of_atc_are_searched(
    root: Path, cann: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bad(check_package("Ascend910B3", cann=cann))
    assert list(found) == ["package"]
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(root))
    assert bad(check_package("Ascend910B3", cann=cann)) == {}


def test_the_compile_check_agrees(root: Path, cann: Path) -> None:
    toolchain = find_toolchain("ascend", cann)
    env = {"ASCEND_CUSTOM_OPP_PATH": str(root)}
    check = check_flash_attention(toolchain, env, load_soc("Ascend910B3"), 17)
    assert check.ok, check.problems
    _newer_version(root)
    check = check_flash_attention(toolchain, env, load_soc("Ascend910B3"), 17)
    assert not check.ok


def test_no_package_or_no_cann(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotAvailableError):
        check_package("Ascend910B3")
    with pytest.raises(ModelError):
        check_package("Ascend910B3", tmp_path / "nothing")
    findings = check_package("Ascend910B3", root)
    assert bad(findings) == {}
    assert "no CANN here" in findings[1].text
