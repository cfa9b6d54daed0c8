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
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

SOURCES = Path(__file__).resolve().parent.parent / "custom_ops" / "cpu"
COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-w")
UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "kernel_avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
        "kernel_avx2": ("-mavx2", "-mfma", "-mf16c"),
    },
    "aarch64": {"kernel_neon": ()},
}
_TIMEOUT = 300  # seconds for one compiler run or the proof


@dataclass(frozen=True)
class KernelLibrary:
    """The custom operator library, or why there is none."""

    path: Path | None
    reason: str = ""


def cache_dir() -> Path:
    """Return the folder of things built on this machine for this user."""
    named = os.environ.get("OMFUSE_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "omfuse"


def compiler() -> str | None:
    """Return the C++ compiler, or None."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


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
        return KernelLibrary(None, f"build failed: {_brief(error)}")


def _units() -> dict[str, tuple[str, ...]]:
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return {"op": (), "dispatch": (), "kernel_scalar": (), **UNITS.get(machine, {})}


def _digest(tool: str) -> str:
    version = subprocess.run(
        [tool, "--version"], capture_output=True, timeout=_TIMEOUT, check=True
    ).stdout
    digest = hashlib.sha256(repr((version, COMMON_FLAGS, sorted(_units().items()))).encode())
    for path in sorted((*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def _build(tool: str) -> Path:
    folder = cache_dir() / "cpu" / _digest(tool)
    library = folder / "libomfuse_cpu.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if sys.stderr.isatty():
        sys.stderr.write("omfuse: building the CPU kernel, once on this machine\n")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        running = []
        for unit, flags in _units().items():
            source, target = SOURCES / f"{unit}.cc", Path(scratch, f"{unit}.o")
            command = [tool, *COMMON_FLAGS, *flags, "-c", str(source), "-o", str(target)]
            running.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        results = [(process, process.communicate(timeout=_TIMEOUT)[1]) for process in running]
        for process, said in results:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)
        objects = [str(Path(scratch, f"{unit}.o")) for unit in _units()]
        made = Path(scratch, "library.so")
        subprocess.run(
            [tool, "-shared", "-o", str(made), *objects],
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
        )
        made.replace(library)  # whole or not at all, also with two builders at once
    return library


def _prove(library: Path) -> KernelLibrary:
    proof = library.with_name(f"proven-onnxruntime-{onnxruntime.__version__}")
    if not proof.exists():
        command = [sys.executable, "-m", "omfuse.host.kernel_proof", str(library)]
        result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
        if result.returncode:
            said = result.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            reason = f"proof failed with code {result.returncode}: {said[-1][:200]}"
            return KernelLibrary(None, reason)
        proof.touch()
    return KernelLibrary(library)


def _brief(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    if isinstance(said, bytes) and said.strip():
        lines = said.decode(errors="replace").splitlines()
        return next((line for line in lines if "error" in line), lines[0])[:200]
    return str(error)[:200]
