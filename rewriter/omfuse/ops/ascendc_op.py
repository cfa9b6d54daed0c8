"""The emulated Ascend C kernel as a custom operator of onnxruntime.

So a whole rewritten model runs through the kernel's own source: ``omfuse run --kernel ascendc``.
The operator of ``custom_ops/cpu`` is built once more, with the emulated kernel in place of the CPU
kernels. It declares the few entries of onnxruntime's C interface itself, so nothing is needed but
a C++ compiler; onnxruntime-extensions would add a dependency and a Python call a node.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from omfuse.errors import NotAvailableError, ToolchainError, UsageError
from omfuse.host import native
from omfuse.ops import emulator

KERNELS = {"ascendc": "910b", "ascendc-310p": "310p"}
"""Name of the option -> architecture; 910b stands for 910_93 too."""
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-w")


def library(kernel: str) -> Path:
    """Return the custom operator library of a kernel, building it when needed.

    Args:
        kernel: a key of :data:`KERNELS`.

    Raises:
        UsageError: ``unknown-kernel``.
        NotAvailableError: ``no-compiler``, ``not-linux``.
        ToolchainError: ``emulator-build-failed``.
    """
    if kernel not in KERNELS:
        raise UsageError(
            "unknown-kernel", f"no kernel {kernel!r}", hint=f"use cpu, {', '.join(KERNELS)}"
        )
    arch = KERNELS[kernel]
    emulated = emulator.build(arch)
    tool = native.compiler()
    if tool is None:
        raise NotAvailableError("no-compiler", "no C++ compiler", hint="install g++ or clang++")
    bridge = emulator.SOURCES / "emulation" / "onnxruntime" / "kernel_ascendc.cc"
    operator = emulator.SOURCES / "cpu" / "op.cc"
    platform = emulator.PLATFORMS[arch]
    numbers = ",".join(str(getattr(platform, name)) for name, *_ in platform._fields_)
    flags = (*_FLAGS, f"-DOMFUSE_PLATFORM={{{numbers}}}")
    headers = [
        *(emulator.SOURCES / "cpu").glob("*.h"),
        emulator.SOURCES / "emulation/omfuse_emulation.h",
    ]
    digest = native.digest(tool, [bridge, operator, *headers], flags, str(emulated))
    made = native.cache_dir() / "ascendc" / digest / f"libomfuse_{kernel}.so"
    link = [str(emulated), f"-Wl,-rpath,{emulated.parent}"]
    try:
        return native.build(made, tool, dict.fromkeys([bridge, operator], flags), link, kernel)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(
            "emulator-build-failed",
            f"the operator does not compile: {native.brief(error)}",
            where=tool,
            hint="a C++17 compiler is needed: g++ 9 or clang++ 10 and later",
        ) from error
