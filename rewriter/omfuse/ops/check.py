"""Look at an installed operator package the way ATC will: each part, and how to mend it.

Libraries are really loaded, in a child process with ATC's search path, because ATC only logs a
warning when a plug-in does not load and then reports the operator as unknown.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omfuse.atc.config import SocConfig, load_soc
from omfuse.atc.environment import Toolchain, child_environment, find_toolchain, read_fields
from omfuse.atc.op_package import find_packages, version_in_range
from omfuse.atc.reports import read_json
from omfuse.errors import ModelError, NotAvailableError
from omfuse.fuse.contract import DOMAIN, DOMAIN_VERSION, INPUTS, OP_TYPE
from omfuse.ops.package import SOURCES

OPSETS = range(8, 27)
"""Versions of the default domain that the plugin lists."""
TILING = "op_impl/ai_core/tbe/op_tiling"
_REBUILD = "rebuild it with this CANN: omfuse op build, then omfuse op install"
_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"


@dataclass(frozen=True)
class Finding:
    """One part of the package; ``fix`` is empty when it is right."""

    part: str
    ok: bool
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def check_package(soc: str, path: Path | None = None, cann: Path | None = None) -> list[Finding]:
    """Check the package that ATC would use for a chip.

    Args:
        soc: the chip.
        path: folder given to ``op install --path``, or a vendor folder; None to look as ATC does.
        cann: the toolkit, None to search for it.

    Raises:
        UsageError: ``unknown-soc``, ``bad-cann``.
        NotAvailableError: ``no-cann`` without ``path``.
        ModelError: ``package-not-found``.
    """
    config = load_soc(soc)
    toolchain: Toolchain | None
    try:
        toolchain = find_toolchain("ascend", cann)
    except NotAvailableError:
        if path is None:
            raise
        toolchain = None
    if path is not None:
        root = _root(path.expanduser().absolute())
    else:
        assert toolchain is not None
        env = {"ASCEND_CUSTOM_OPP_PATH": os.environ.get("ASCEND_CUSTOM_OPP_PATH", "")}
        packages = find_packages(toolchain, env)
        found = [p.root for p in packages if any(_keys(plugin) for plugin in p.plugins)]
        if not found:
            looked = ", ".join(str(p.root) for p in packages) or "no package is installed"
            what = f"no package provides {OP_TYPE} (looked at: {looked})"
            return [Finding("package", False, what, "omfuse op build, then omfuse op install")]
        root = found[0]
    return list(_look(root, config, toolchain))


def _root(path: Path) -> Path:
    for candidate in (path, path / "vendors" / "omfuse", path / "omfuse"):
        if (candidate / "framework").is_dir():
            return candidate
    raise ModelError(
        "package-not-found",
        "there is no vendor folder with an operator package",
        where=str(path),
        hint="name the folder that was given to `omfuse op install --path`",
    )


def _look(root: Path, soc: SocConfig, toolchain: Toolchain | None) -> Iterator[Finding]:
    env = dict(os.environ)
    if toolchain is not None:
        env = child_environment(toolchain, os.environ, root)
    yield Finding("package", True, str(root))
    yield _version(root, toolchain)
    yield from _plugin(root, env)
    yield _library("definition", root / "op_proto/lib/linux", env, "ATC E10501")
    yield _op_info(root, soc)
    yield _library("tiling", root / TILING / "lib/linux", env, "no tiling function")
    yield _tiling_link(root)
    yield _kernel_source(root)
    yield _kernel_binary(root, soc)


def _version(root: Path, toolchain: Toolchain | None) -> Finding:
    fields = read_fields(root / "version.info")
    built = fields.get("custom_opp_compiler_version") or fields.get("compiler_version", "")
    if not built:
        return Finding("version", False, "version.info names no compiler version", _REBUILD)
    if toolchain is None or toolchain.home is None:
        return Finding("version", True, f"built with {built}; no CANN here to compare with")
    allowed = read_fields(toolchain.home / "compiler/version.info").get(
        "required_opp_abi_version", ""
    )
    if allowed and not version_in_range(built, allowed):
        return Finding(
            "version",
            False,
            f"built with {built}, this CANN takes {allowed} and skips it",
            _REBUILD,
        )
    return Finding("version", True, f"built with {built}")


def _keys(library: Path) -> set[str]:
    """Return our parser keys in a library, as ATC would register them."""
    try:
        data = library.read_bytes()
    except OSError:
        return set()
    keys = [f"ai.onnx::{n}::{OP_TYPE}" for n in OPSETS] + [f"{DOMAIN}::{DOMAIN_VERSION}::{OP_TYPE}"]
    # Whole strings only: "ai.onnx::1" would else be found in "ai.onnx::11".
    return {key for key in keys if b"\0" + key.encode() + b"\0" in data}


def _plugin(root: Path, env: Mapping[str, str]) -> Iterator[Finding]:
    libraries = sorted((root / "framework").rglob("*.so"))
    holders = [(path, keys) for path in libraries if (keys := _keys(path))]
    if not holders:
        yield Finding(
            "plugin", False, f"no library lists a key of {OP_TYPE} (ATC E13010)", _REBUILD
        )
        return
    path, keys = holders[0]
    missing = [n for n in OPSETS if f"ai.onnx::{n}::{OP_TYPE}" not in keys]
    if f"{DOMAIN}::{DOMAIN_VERSION}::{OP_TYPE}" not in keys or missing:
        what = f"opsets {', '.join(map(str, missing))}" if missing else f"domain {DOMAIN}"
        yield Finding("keys", False, f"{path.name} does not list {what}", _REBUILD)
    else:
        span = f"ai.onnx::{OPSETS[0]} to {OPSETS[-1]} and {DOMAIN}::{DOMAIN_VERSION}"
        yield Finding("keys", True, f"{path.name} lists {span}")
    yield _loads("plugin", path, env, "ATC only warns, then reports E13010")


def _library(part: str, folder: Path, env: Mapping[str, str], symptom: str) -> Finding:
    here = folder / platform.machine()
    libraries = sorted(here.glob("*.so"))
    if not libraries:
        others = sorted(p.name for p in folder.glob("*") if p.is_dir())
        have = f"only for {', '.join(others)}" if others else "none"
        text = f"no library for {platform.machine()}, {have} ({symptom})"
        return Finding(part, False, text, _REBUILD)
    return _loads(part, libraries[0], env, symptom)


def _loads(part: str, path: Path, env: Mapping[str, str], symptom: str) -> Finding:
    argv = [sys.executable, "-c", _LOAD, str(path)]
    try:
        done = subprocess.run(
            argv, env=dict(env), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(part, False, f"{path.name} could not be tried: {error}", "try again")
    if done.returncode == 0:
        return Finding(part, True, f"{path.name} loads")
    lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
    said = lines[-1].removeprefix("OSError: ")[:200]
    fix = "source CANN's set_env.sh, or " + _REBUILD
    return Finding(part, False, f"{path.name} does not load: {said} ({symptom})", fix)


def _op_info(root: Path, soc: SocConfig) -> Finding:
    folder = root / "op_impl/ai_core/tbe/config" / soc.short
    described: dict[str, Any] = {}
    for path in sorted(folder.glob("aic-*-ops-info.json")):
        document = read_json(path)
        described.update(document if isinstance(document, dict) else {})
    entry = described.get(OP_TYPE)
    if not isinstance(entry, dict):
        have = sorted(p.name for p in folder.parent.glob("*") if p.is_dir())
        text = f"{OP_TYPE} is not described for {soc.short} (ATC EZ3003); described: " + (
            ", ".join(have) or "nothing"
        )
        return Finding("op-info", False, text, f"omfuse op build --soc {soc.name}")
    names = [
        value.get("name")
        for key, value in sorted(entry.items())
        if key.startswith("input") and key[5:].isdigit() and isinstance(value, dict)
    ]
    if names and names != list(INPUTS)[: len(names)]:
        text = f"its inputs are {', '.join(map(str, names))}, the node has {', '.join(INPUTS)}"
        return Finding("op-info", False, text, _REBUILD)
    dtypes = str(entry.get("input0", {}).get("dtype", "")) if names else ""
    kinds = ", ".join(dict.fromkeys(dtypes.split(","))) if dtypes else "unknown dtypes"
    return Finding("op-info", True, f"{soc.short}: {kinds}")


def _tiling_link(root: Path) -> Finding:
    link = root / TILING / "liboptiling.so"
    if not link.exists():
        what = "points nowhere" if link.is_symlink() else "is missing"
        return Finding("tiling-link", False, f"liboptiling.so {what}", _REBUILD)
    return Finding("tiling-link", True, f"liboptiling.so is {link.resolve().name}")


def _kernel_source(root: Path) -> Finding:
    base = root / "op_impl/ai_core/tbe"
    entry = next(iter(sorted(base.glob("*_impl/dynamic/flash_attention.cpp"))), None)
    if entry is None:
        return Finding("kernel", False, "the package holds no kernel source", _REBUILD)
    ours = {p.name: p.read_bytes() for p in (SOURCES / "op_kernel").glob("*.[hc]*")}
    stale = [
        name
        for name, text in sorted(ours.items())
        if name.endswith((".h", ".cpp"))
        and (not (entry.parent / name).is_file() or (entry.parent / name).read_bytes() != text)
    ]
    if stale:
        text = f"{', '.join(stale[:3])} differ from the ones of this omfuse"
        return Finding("kernel", False, text, _REBUILD)
    return Finding("kernel", True, "the source is the one of this omfuse")


def _kernel_binary(root: Path, soc: SocConfig) -> Finding:
    folder = root / "op_impl/ai_core/tbe/kernel" / soc.short
    count = len(list(folder.rglob("*.o")))
    if count:
        return Finding("binary", True, f"{count} kernel binaries for {soc.short}")
    # The operator's jitCompile.flag sends fixed shapes to the binary, too.
    text = f"no kernel binary for {soc.short}"
    return Finding("binary", False, text, f"omfuse op build --soc {soc.name}")
