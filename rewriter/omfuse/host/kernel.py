"""Build the C++ kernel of FlashAttention once a machine, and prove it before its first use.

The sources lie in the package (``custom_ops/cpu``).  The library goes to the user's cache under a
hash of sources, flags and compiler; a child process then registers it with the installed
onnxruntime and compares a few nodes with the reference, so that a wrong library or an onnxruntime
with another interface costs speed and never a crash.  Without a compiler, or when the proof
fails, models run with the other lowerings and ``kernels`` says why.

``OMFUSE_CPU_KERNEL=off`` switches the kernel off; ``OMFUSE_CACHE_DIR`` moves the cache; ``CXX``
names the compiler.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from omfuse.host import native
from omfuse.host.native import brief, cache_dir, compiler

SOURCES = Path(__file__).resolve().parent.parent / "custom_ops" / "cpu"
COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-w")
UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "kernel_avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
        "kernel_avx2": ("-mavx2", "-mfma", "-mf16c"),
    },
    "aarch64": {"kernel_neon": ()},
}


@dataclass(frozen=True)
class KernelLibrary:
    """The custom operator library, or why there is none."""

    path: Path | None
    reason: str = ""


@functools.lru_cache(maxsize=1)
def find() -> KernelLibrary:
    """Return the proven library for this machine, building it when needed; never raises."""
    if os.environ.get("OMFUSE_CPU_KERNEL") == "off":
        return KernelLibrary(None, "switched off by OMFUSE_CPU_KERNEL")
    if sys.platform != "linux":
        return KernelLibrary(None, f"not built on {sys.platform}")
    tool = compiler()
    if tool is None:
        return KernelLibrary(None, "no C++ compiler found (install g++ or clang++)")
    try:
        return _prove(_build(tool))
    except (OSError, subprocess.SubprocessError) as error:
        return KernelLibrary(None, f"build failed: {brief(error)}")


def _units() -> dict[str, tuple[str, ...]]:
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return {"op": (), "dispatch": (), "kernel_scalar": (), **UNITS.get(machine, {})}


def _build(tool: str) -> Path:
    sources = (*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"))
    digest = native.digest(tool, sources, COMMON_FLAGS, sorted(_units().items()))
    units = {SOURCES / f"{unit}.cc": (*COMMON_FLAGS, *flags) for unit, flags in _units().items()}
    library = cache_dir() / "cpu" / digest / "libomfuse_cpu.so"
    return native.build(library, tool, units, what="the CPU kernel")


def _prove(library: Path) -> KernelLibrary:
    proof = library.with_name(f"proven-onnxruntime-{onnxruntime.__version__}")
    if not proof.exists():
        command = [sys.executable, "-m", "omfuse.host.kernel_proof", str(library)]
        result = subprocess.run(command, capture_output=True, timeout=native.TIMEOUT, check=False)
        if result.returncode:
            said = result.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            reason = f"proof failed with code {result.returncode}: {said[-1][:200]}"
            return KernelLibrary(None, reason)
        proof.touch()
    return KernelLibrary(library)
