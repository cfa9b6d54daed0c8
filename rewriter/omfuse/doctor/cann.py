"""CANN, ATC's Python modules, the operator package: what compiling needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from omfuse.atc.config import load_soc, soc_names
from omfuse.atc.environment import Toolchain, child_environment, find_toolchain
from omfuse.atc.op_package import check_flash_attention, find_packages
from omfuse.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from omfuse.errors import NotAvailableError

# What ATC's operator compiler imports; numpy is looked at apart.
_MODULES = ("decorator", "sympy", "cffi", "attr", "psutil", "scipy", "google.protobuf")
_PROBE = """
import importlib, sys
try:
    import numpy
    print("numpy", numpy.__version__)
except Exception as error:
    print("missing", "numpy")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        print("missing", name)
"""
_OPSET = 17


def compiling(cann: Path | None, soc: str | None) -> Iterator[Finding]:
    """Look for ATC and all that it needs.

    Raises:
        UsageError: ``bad-cann`` or ``unknown-soc``.
    """
    config = load_soc(soc) if soc is not None else None
    try:
        toolchain = find_toolchain("ascend", cann)
    except NotAvailableError as error:
        yield Finding("cann", SKIP, f"{error.message}: no real compile here", error.hint or "")
        return
    release = toolchain.version or "of unknown version"
    yield Finding("cann", OK, f"CANN {release} at {toolchain.home}")
    if toolchain.major is not None and toolchain.major < 8:
        fix = "install CANN 8.0 or newer"
        yield Finding("cann-version", WARN, f"CANN {release} is older than what was read", fix)
    with_home = child_environment(toolchain, dict(os.environ), Path.cwd())
    yield from _modules(toolchain, with_home)
    yield from _op_paths()
    names = [config.name] if config else _packaged(toolchain, with_home)
    for name in names:
        check = check_flash_attention(toolchain, with_home, load_soc(name), _OPSET)
        if check.ok:
            assert check.package is not None
            text = f"FlashAttention is ready for {name} ({check.package.root})"
            yield Finding("op-package", OK, text)
        for what, fix in check.problems:
            yield Finding("op-package", FAIL, f"{name}: {what}", fix)
    if not names:
        text = "no operator package is installed: ATC does not know FlashAttention"
        yield Finding("op-package", WARN, text, "omfuse op build, then omfuse op install")


def _packaged(toolchain: Toolchain, env: dict[str, str]) -> list[str]:
    """Name one SoC of each family that some package has a description for."""
    found: dict[str, str] = {}
    for package in find_packages(toolchain, env):
        folder = package.root / "op_impl" / "ai_core" / "tbe" / "config"
        for unit in folder.iterdir() if folder.is_dir() else ():
            for name in soc_names():
                if load_soc(name).short.lower() == unit.name.lower():
                    found.setdefault(unit.name, name)
    return sorted(found.values())


def _modules(toolchain: Toolchain, env: dict[str, str]) -> Iterator[Finding]:
    program = shutil.which("python3", path=env.get("PATH")) or shutil.which("python3")
    if program is None:
        yield Finding("atc-python", FAIL, "ATC needs python3 on PATH", "install Python 3")
        return
    try:
        done = subprocess.run(
            [program, "-c", _PROBE, *_MODULES],
            capture_output=True, text=True, timeout=120, env=env, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("atc-python", FAIL, f"{program} does not run: {error}", "mend that Python")
        return
    words = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    missing = [name for kind, name in words if kind == "missing"]
    numpy = next((text for kind, text in words if kind == "numpy"), "")
    if numpy.split(".")[0] not in ("", "0", "1") and (toolchain.major or 0) <= 8:
        text = f"{program} has numpy {numpy}, and ATC of CANN 8 stops with it (EC0010)"
        yield Finding("atc-numpy", FAIL, text, f"{program} -m pip install 'numpy<2'")
    if missing:
        pips = {"google.protobuf": "protobuf", "attr": "attrs"}
        names = " ".join(pips.get(name, name) for name in missing)
        text = f"{program} lacks {', '.join(missing)}, and ATC imports them (EC0010)"
        yield Finding("atc-python", FAIL, text, f"{program} -m pip install {names}")
    else:
        yield Finding("atc-python", OK, f"{program} has the modules that ATC imports")


def _op_paths() -> Iterator[Finding]:
    for entry in os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(":"):
        if entry and not Path(entry).is_dir():
            text = (
                f"ASCEND_CUSTOM_OPP_PATH names {entry}, which is not there; ATC skips it silently"
            )
            yield Finding("op-path", WARN, text, "take it out, or install the package there")
