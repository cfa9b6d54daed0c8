"""Lookup of operators in both generations of the parser, and where plug-ins come from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tests.sim_atc.conftest import FORM, STATIC, atc, failure, parse, save

import omfuse
from omfuse.sim.atc.plugins import load_registry
from omfuse.sim.package import CHIPS, GE_TYPE, LIBRARY_MARK, OPSETS, write_package

KEY = "ai.onnx::17::FlashAttention"


def form(imports: dict[str, int], attention: str = "", rest: str = "") -> onnx.ModelProto:
    model = parse(FORM)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in imports.items())
    for node in model.graph.node:
        node.domain = attention if node.op_type == "FlashAttention" else rest
    return model


# imports, domain of our node, domain of the others -> code by the old and by the new parser
CASES = [
    ({"": 17}, "", "", "", ""),
    ({"ai.onnx": 17}, "", "", "", ""),
    ({"": 17, "own": 1}, "", "", "E16005", ""),
    ({"": 17, "own": 1}, "own", "", "E16005", ""),
    ({"ai.onnx": 17, "own": 1}, "own", "ai.onnx", "", ""),
    ({"ai.onnx": 17}, "own", "ai.onnx", "E19999", "E19999"),
    ({"": 17}, "", "ai.onnx", "E19999", ""),
    ({"": 24}, "", "", "E19010", "E19010"),
    ({"": 19}, "", "", "E19010", ""),
    ({"": 7}, "", "", "E19010", "E19010"),
    ({"own": 1}, "own", "", "E19010", "E19999"),
]


@pytest.fixture
def opp(tmp_path: Path) -> Path:
    root = write_package(tmp_path / "opp")
    library = root / "framework/onnx/libcust_onnx_parsers.so"
    library.write_bytes(library.read_bytes() + b"own::1::FlashAttention\n")
    return root


def run(tmp_path: Path, model: onnx.ModelProto | str, opp: Path | str, **env: str) -> str:
    """Return the code of the run, empty when it is good."""
    said = atc(
        f"--model={save(tmp_path, model)}", "--framework=5", f"--output={tmp_path / 'm'}",
        "--soc_version=Ascend310P3", f"--input_shape={STATIC}", cwd=tmp_path,
        **{"ASCEND_CUSTOM_OPP_PATH": str(opp), **env},
    )  # fmt: skip
    assert (said.status == 0) == (said.code == ""), said.out
    return said.code


@pytest.mark.parametrize(("imports", "attention", "rest", "old", "new"), CASES)
def test_domains_in_both_generations(
    tmp_path: Path, opp: Path, imports: dict[str, int], attention: str, rest: str, old: str,
    new: str,
) -> None:  # fmt: skip
    model = form(imports, attention, rest)
    assert run(tmp_path, model, opp) == old
    assert run(tmp_path, model, opp, OMFUSE_SIM_ATC_PARSER="new") == new


def test_the_report_lists_every_operator(tmp_path: Path) -> None:
    assert run(tmp_path, FORM, "") == "E19010"
    report = json.loads((tmp_path / "check_result.json").read_text("utf-8"))
    assert (report["total"], report["pass"], report["fail"]) == (2, 1, 1)
    assert report["op"][0] == {"name": "scaled", "type": "ai.onnx::17::Mul", "result": "success"}
    assert report["op"][1]["type"] == "ai.onnx::17::FlashAttention"
    assert report["op"][1]["cause"] == [{"code": 1, "message": "The type is not supported."}]


def test_functions_are_never_read(tmp_path: Path, opp: Path) -> None:
    model = form({"": 17})
    model.functions.append(
        onnx.helper.make_function(
            "", "Mine", ["x"], ["y"], [onnx.helper.make_node("Relu", ["x"], ["y"])],
            [onnx.helper.make_opsetid("", 17)],
        )
    )  # fmt: skip
    model.graph.node[0].op_type = "Mine"
    assert run(tmp_path, model, opp) == "E19010"


def test_nodes_without_names_get_some(tmp_path: Path, opp: Path) -> None:
    model = form({"": 17})
    for node in model.graph.node:
        node.name = ""
    assert run(tmp_path, model, opp) == ""


# Where plug-ins come from


def vendors(tmp_path: Path, *names: str, order: str | None = None) -> Path:
    opp = tmp_path / "cann" / "opp"
    for name in names:
        write_package(opp / "vendors").rename(opp / "vendors" / name)
    if order is not None:
        (opp / "vendors/config.ini").write_text(f"load_priority={order}\n", "utf-8")
    return opp


def test_vendors_are_found_in_the_order_of_their_config(tmp_path: Path) -> None:
    opp = vendors(tmp_path, "a", "b", order="b,a")
    assert run(tmp_path, FORM, "", ASCEND_OPP_PATH=str(opp)) == ""
    (opp / "vendors/config.ini").write_text("load_priority=\n", "utf-8")
    assert run(tmp_path, FORM, "", ASCEND_OPP_PATH=str(opp)) == "E19010"


def test_the_first_package_keeps_a_key(tmp_path: Path) -> None:
    opp = vendors(tmp_path, "a", "b", order="a,b")
    for name in ("a", "b"):
        root = opp / "vendors" / name
        for path in [*root.rglob("*.so"), *root.rglob("*.json")]:
            own = f"{name.upper()}FlashAttention".encode()
            data = re.sub(rb"(?<!::)\bFlashAttention", own, path.read_bytes())
            path.write_bytes(data)
    env = {"ASCEND_OPP_PATH": str(opp)}
    for order, first in (("a,b", "AFlashAttention"), ("b,a", "BFlashAttention")):
        (opp / "vendors/config.ini").write_text(f"load_priority={order}\n", "utf-8")
        assert load_registry(env, False).keys[KEY].ge_type == first
    env["ASCEND_CUSTOM_OPP_PATH"] = str(write_package(tmp_path / "mine"))
    assert load_registry(env, False).keys[KEY].ge_type == GE_TYPE


def test_without_a_config_the_old_folder_counts(tmp_path: Path) -> None:
    opp = tmp_path / "opp"
    root = write_package(tmp_path / "made")
    (opp / "framework").mkdir(parents=True)
    (root / "framework").rename(opp / "framework/custom")
    for name in ("op_proto", "op_impl"):
        (root / name).rename(opp / name)
    assert run(tmp_path, FORM, "", ASCEND_OPP_PATH=str(opp)) == ""


@pytest.mark.parametrize(("version", "code"), [("7.7", ""), ("6.3", ""), ("7.8", "E19010"),
                                               ("6.2", "E19010")])  # fmt: skip
def test_a_package_of_another_version_is_skipped(tmp_path: Path, version: str, code: str) -> None:
    opp = write_package(tmp_path / "opp")
    (opp / "version.info").write_text(f"compiler_version={version}.0\n", "utf-8")
    assert run(tmp_path, FORM, opp) == code


def _no_proto(root: Path) -> None:
    for path in (root / "op_proto").rglob("*.so"):
        path.unlink()


def _broken(root: Path) -> None:
    path = root / "framework/onnx/libcust_onnx_parsers.so"
    path.write_bytes(path.read_bytes().removeprefix(LIBRARY_MARK))


def _other_chip(root: Path) -> None:
    (root / "op_impl/ai_core/tbe/config/ascend310p").rename(root / "gone")


def _no_info(root: Path) -> None:
    (root / "op_impl/ai_core/tbe/config/ascend310p/aic-ascend310p-ops-info.json").unlink()


@pytest.mark.parametrize(
    ("damage", "code"),
    [(_no_proto, "E10501"), (_broken, "E19010"), (_other_chip, "EZ3003"), (_no_info, "EZ3003")],
)
def test_a_damaged_package(tmp_path: Path, damage: Callable[[Path], None], code: str) -> None:
    opp = write_package(tmp_path / "opp")
    damage(opp)
    assert run(tmp_path, FORM, opp) == code


def test_a_library_that_does_not_load_is_only_a_line_in_the_log(tmp_path: Path) -> None:
    opp = write_package(tmp_path / "opp")
    _broken(opp)
    flags = [f"--model={save(tmp_path, FORM)}", "--framework=5", f"--output={tmp_path / 'm'}",
             "--soc_version=Ascend310P3"]  # fmt: skip
    env = {"ASCEND_CUSTOM_OPP_PATH": str(opp), "ASCEND_SLOG_PRINT_TO_STDOUT": "1"}
    assert "dlopen" not in atc(*flags, cwd=tmp_path, **env).out
    assert "dlopen" in atc(*flags, "--log=info", cwd=tmp_path, **env).out


def test_a_library_without_its_libraries_does_not_load(tmp_path: Path) -> None:
    opp = write_package(tmp_path / "opp")
    plugin = next((opp / "framework").rglob("*.so"))
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no compiler")
    needs = f'int gone(void); const char *k = "{KEY}"; int f(void) {{ return gone(); }}'
    for name, text, more in (
        ("libgone.so", "int gone(void) { return 1; }", []),
        (str(plugin), needs, ["-Wl,--no-as-needed", "-L.", "-lgone"]),
    ):
        (tmp_path / "a.c").write_text(text, "utf-8")
        words = [compiler, "-shared", "-fPIC", "a.c", "-o", name, *more]
        subprocess.run(words, cwd=tmp_path, check=True)
    env = {"LD_LIBRARY_PATH": str(tmp_path), "PATH": os.environ["PATH"]}
    assert KEY in load_registry({"ASCEND_CUSTOM_OPP_PATH": str(opp), **env}, False).keys
    (tmp_path / "libgone.so").unlink()
    registry = load_registry({"ASCEND_CUSTOM_OPP_PATH": str(opp), **env}, False)
    assert KEY not in registry.keys
    assert any("libgone.so" in line for line in registry.log)


def test_the_user_is_told_to_install_the_package(
    tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omfuse.sim.package.write_package", lambda folder: folder)
    error = failure(tmp_path)
    assert error.code == "atc-e19010"
    assert "omfuse op install" in (error.hint or "")


@pytest.mark.parametrize(
    ("dtype", "mode", "soc", "code"),
    [
        ("float", "force_fp16", "Ascend310P3", ""),
        ("float", "must_keep_origin_dtype", "Ascend310P3", "EZ3003"),
        ("float16", "must_keep_origin_dtype", "Ascend310P3", ""),
        ("bfloat16", "must_keep_origin_dtype", "Ascend310P3", "EZ3003"),
        ("bfloat16", "must_keep_origin_dtype", "Ascend910B3", ""),
        ("float16", "force_fp16", "Ascend310B1", "EZ3003"),
    ],
)
def test_a_kernel_of_another_dtype_or_chip_is_missed(
    tmp_path: Path, dtype: str, mode: str, soc: str, code: str
) -> None:
    model = FORM.replace("float[", f"{dtype}[")
    said = atc(
        f"--model={save(tmp_path, model)}", "--framework=5", f"--output={tmp_path / 'm'}",
        f"--soc_version={soc}", f"--input_shape={STATIC}", f"--precision_mode={mode}",
        cwd=tmp_path, ASCEND_CUSTOM_OPP_PATH=str(write_package(tmp_path / "opp")),
    )  # fmt: skip
    assert said.code == code
    assert ("EZ3002" in said.out) == bool(code)


def test_the_fabricated_package_says_what_the_real_one_says() -> None:
    sources = Path(omfuse.__file__).parent / "custom_ops" / "flash_attention"
    plugin = (sources / "framework/onnx_plugin/flash_attention_plugin.cc").read_text("utf-8")
    assert [int(n) for n in re.findall(r"OMFUSE_KEY\((\d+)\)\)", plugin)] == list(OPSETS)
    assert f'REGISTER_CUSTOM_OP("{GE_TYPE}")' in plugin
    host = (sources / "op_host/flash_attention.cc").read_text("utf-8")
    assert set(re.findall(r'AddConfig\("(\w+)"', host)) == set(CHIPS)
