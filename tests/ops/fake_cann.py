"""A CANN folder of little scripts, and operator packages made by hand."""

from __future__ import annotations

import json
import platform
import stat
from pathlib import Path

import pytest
from tests.ops.native_code import shared_library

from omfuse.fuse.contract import INPUTS, OP_TYPE
from omfuse.ops.check import OPSETS
from omfuse.ops.package import SOURCES, TEMPLATES

# Does what cmake would: remembers its arguments and, asked for the package, writes a .run file
# that unpacks a vendor tree and calls the install script of the project, as makeself's does.
CMAKE = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >> "$FAKE_LOG"
pwd >> "$FAKE_LOG.folder"
case "$*" in
  *"$FAKE_FAIL"*)
    [ -n "$FAKE_FAIL" ] && { echo "op_kernel/x.cpp:3:1: error: no such thing"; exit 1; } ;;
esac
case "$*" in
  *--target\ package*)
    mkdir -p build_out
    cp "$FAKE_PACKAGE" build_out/custom_opp_fake_x86_64.run ;;
esac
exit 0
"""
RUN = r"""#!/usr/bin/env bash
set -e
folder=$(mktemp -d)
mkdir -p "$folder/packages/vendors"
cp -R "{tree}" "$folder/packages/vendors/omfuse"
cp "{scripts}/install.sh" "$folder/"
echo vendor_name=omfuse > "$folder/vendor.info"
bash "$folder/install.sh" --/where/it/unpacked --who "$@"
rm -rf "$folder"
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make_cann(folder: Path) -> Path:
    """Make a toolkit folder as far as our tools look at one."""
    home = folder / "cann"
    program(home / "bin/atc", "#!/bin/sh\nexit 0\n")
    (home / "version.cfg").write_text("runtime_running_version=[7.7.0.1.238:8.1.RC1]\n", "utf-8")
    (home / "compiler").mkdir()
    (home / "compiler/version.info").write_text(
        'Version=7.7.0.1.238\nrequired_opp_abi_version=">=6.3, <=7.7"\n', "utf-8"
    )
    (home / "opp/vendors").mkdir(parents=True)
    for name in ("config", "func", "intf", "makeself"):
        path = home / TEMPLATES / "cmake" / f"{name}.cmake"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n", "utf-8")
    return home


def make_package(folder: Path, socs: tuple[str, ...] = ("ascend910b",)) -> Path:
    """Make a vendor folder with real little libraries and return it."""
    root = folder / "tree"
    keys = [f"ai.onnx::{n}::{OP_TYPE}" for n in OPSETS] + [f"omfuse::1::{OP_TYPE}"]
    text = "extern const char* const keys[];\nconst char* const keys[] = {%s};\n"
    listed = text % ", ".join(f'"{key}"' for key in keys)
    arch = platform.machine()
    tiling = root / "op_impl/ai_core/tbe/op_tiling"
    libraries = {
        root / "framework/onnx/libcust_onnx_parsers.so": listed,
        root / f"op_proto/lib/linux/{arch}/libcust_opsproto_rt2.0.so": "int proto;\n",
        tiling / f"lib/linux/{arch}/libcust_opmaster_rt2.0.so": "int tiling;\n",
    }
    for number, (path, source) in enumerate(libraries.items()):
        path.parent.mkdir(parents=True)
        shared_library(folder, f"part{number}", source, []).replace(path)
    (tiling / "liboptiling.so").symlink_to(f"lib/linux/{arch}/libcust_opmaster_rt2.0.so")
    for soc in socs:
        info = root / f"op_impl/ai_core/tbe/config/{soc}/aic-{soc}-ops-info.json"
        info.parent.mkdir(parents=True)
        inputs = {
            f"input{i}": {"name": name, "dtype": "float16,bfloat16"}
            for i, name in enumerate(INPUTS)
        }
        info.write_text(json.dumps({OP_TYPE: inputs}), "utf-8")
        binary = root / f"op_impl/ai_core/tbe/kernel/{soc}/flash_attention/FlashAttention_1.o"
        binary.parent.mkdir(parents=True)
        binary.write_bytes(b"binary")
    dynamic = root / "op_impl/ai_core/tbe/omfuse_impl/dynamic"
    dynamic.mkdir(parents=True)
    for path in (SOURCES / "op_kernel").iterdir():
        if path.suffix in (".h", ".cpp"):
            (dynamic / path.name).write_bytes(path.read_bytes())
    (root / "version.info").write_text("custom_opp_compiler_version=7.7.0.1.238\n", "utf-8")
    return root


def make_run_file(folder: Path, tree: Path) -> Path:
    """Make a .run file that installs a vendor tree with the project's own script."""
    text = RUN.replace("{tree}", str(tree)).replace("{scripts}", str(SOURCES / "scripts"))
    return program(folder / "custom_opp_fake_x86_64.run", text)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"))
