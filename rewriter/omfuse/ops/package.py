"""Build the operator package with an installed CANN: its sources go to a private folder.

``custom_ops/flash_attention/build.sh`` does the work; here CANN is found as for ATC, the chips
become presets, and what went wrong becomes one error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omfuse.atc.config import load_soc
from omfuse.atc.environment import Toolchain, child_environment, find_toolchain
from omfuse.atc.process import Tick, run_program
from omfuse.atc.runfolder import make_run_folder
from omfuse.errors import NotAvailableError, OutputError, ToolchainError, UsageError

SOURCES = Path(__file__).resolve().parent.parent / "custom_ops" / "flash_attention"
TEMPLATES = "tools/op_project_templates/ascendc/customize"  # below the toolkit
PRESETS = ("ascend310p", "ascend910b", "ascend910_93")
TIMEOUT = 3600.0  # seconds; the kernel compiler takes minutes a dtype
_TELLING = ("error:", "Error", "ERROR", "FAILED")


@dataclass(frozen=True)
class Built:
    """A package that was built: the ``.run`` file, for which chips, with what, in how long."""

    package: Path
    preset: str
    toolchain: Toolchain
    seconds: float
    log: Path


def preset_of(socs: Sequence[str]) -> str:
    """Return the preset for some chips, ``default`` (all of them) for none or for several kinds.

    Raises:
        UsageError: ``unknown-soc``, ``unsupported-soc``.
    """
    presets = {load_soc(name).short for name in socs}
    for name in socs:
        if load_soc(name).short not in PRESETS:
            raise UsageError(
                "unsupported-soc",
                f"the kernel is not written for {load_soc(name).short}",
                where=name,
                hint=f"it is for {', '.join(PRESETS)}; on other chips compile without fusing, or "
                "with --attention prompt-flash where CANN has it",
            )
    return presets.pop() if len(presets) == 1 else "default"


def build_package(
    socs: Sequence[str],
    output: Path,
    cann: Path | None = None,
    timeout: float | None = TIMEOUT,
    on_tick: Callable[[Tick], None] | None = None,
) -> Built:
    """Build the package.

    Args:
        socs: chips, such as ``Ascend910B3``; empty for all.
        output: folder for the ``.run`` file.
        cann: the toolkit, None to search for it.
        timeout: seconds.
        on_tick: called while it builds.

    Raises:
        UsageError: ``unknown-soc``, ``unsupported-soc``, ``bad-cann``.
        NotAvailableError: ``no-cann``, ``no-templates``, ``no-cmake``.
        ToolchainError: ``op-build-failed``.
        OutputError: ``cannot-write``.
    """
    preset = preset_of(socs)
    toolchain = find_toolchain("ascend", cann)
    home = toolchain.home
    assert home is not None
    if not (home / TEMPLATES / "cmake/func.cmake").is_file():
        raise NotAvailableError(
            "no-templates",
            f"this CANN has no {TEMPLATES}",
            where=str(home),
            hint="install the full toolkit (not the runtime or nnrt) of CANN 8.x; for a 9.x one "
            "without it see custom_ops/flash_attention/README.md",
        )
    if shutil.which("cmake") is None:
        raise NotAvailableError(
            "no-cmake", "cmake is not on PATH", hint="pip install cmake, or your system's package"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("cannot-write", f"{error.strerror}", where=str(output)) from None
    folder = make_run_folder("op-build")
    log = folder / "build.log"
    made = folder / "package"
    argv = ["bash", str(SOURCES / "build.sh"), preset, "--cann", str(home)]
    argv += ["--work", str(folder / "project"), "--out", str(made)]
    env = child_environment(toolchain, os.environ, folder)
    outcome = run_program(argv, folder, env, log, timeout, on_tick)
    packages = sorted(made.glob("*.run")) if made.is_dir() else []
    if outcome.code != 0 or not packages:
        raise _failed(outcome.output, outcome.timed_out, log)
    target = output / packages[0].name
    partial = output / f".{target.name}.part"
    try:
        shutil.copy2(packages[0], partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError("cannot-write", f"{error.strerror}", where=str(target)) from None
    return Built(target, preset, toolchain, outcome.seconds, log)


def _failed(output: str, timed_out: bool, log: Path) -> ToolchainError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if any(mark in line for mark in _TELLING)]
    # build.sh closes with a line of its own, which says only where.
    said = next((line for line in telling if not line.startswith("error: the build")), "")
    text = said or (lines[-1] if lines else "no output")
    return ToolchainError(
        "op-build-failed",
        "the build took too long" if timed_out else f"the build failed: {text[:240]}",
        where=str(log),
        hint="read the log; the private project beside it can be built again by hand",
    )
