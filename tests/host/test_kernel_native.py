"""The kernels outside onnxruntime: under sanitizers, and for AArch64 under an emulator."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from omfuse.host import kernel

CHECK = Path(__file__).parent / "native" / "kernel_check.cc"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CROSS = "aarch64-linux-gnu-g++"


def build(tool: str, units: dict[str, tuple[str, ...]], folder: Path, *flags: str) -> Path:
    """Build the check with the kernels that a machine gets from ``host.kernel``."""
    sources = {kernel.SOURCES / f"{unit}.cc": extra for unit, extra in units.items()}
    sources[CHECK] = (f"-I{kernel.SOURCES}",)
    objects = []
    for source, extra in sources.items():
        objects.append(str(folder / f"{source.stem}.o"))
        command = [tool, "-std=c++17", "-O1", "-w", *flags, *extra, "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    program = folder / "kernel_check"
    subprocess.run([tool, *flags, *objects, "-o", program], check=True)
    return program


def units() -> dict[str, tuple[str, ...]]:
    return {unit: flags for unit, flags in kernel._units().items() if unit != "op"}


def run(name: str, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMFUSE_CPU_KERNEL": name}
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool = kernel.compiler()
    if tool is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("sanitized")
    try:
        return build(tool, units(), folder, *SANITIZE)
    except subprocess.CalledProcessError:
        pytest.skip("this compiler has no sanitizers")


@pytest.mark.parametrize("name", ["avx512", "avx2", "neon", "scalar"])
def test_no_kernel_reads_or_writes_beyond_a_tensor(name: str, sanitized: Path) -> None:
    """A name that this machine lacks falls to scalar."""
    done = run(name, sanitized, 400)
    assert done.returncode == 0, done.stdout + done.stderr[:2000]


def test_the_neon_kernel_computes_the_contract(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64")
    if emulator is None or shutil.which(CROSS) is None:
        pytest.skip(f"needs {CROSS} and qemu-aarch64")
    parts = {"kernel_neon": (), "kernel_scalar": (), "dispatch": ()}
    program = build(CROSS, parts, tmp_path, "-static")
    done = run("", emulator, program, 200)
    assert done.returncode == 0, done.stdout + done.stderr[:2000]
    assert done.stdout.startswith("neon ")


def test_the_check_fails_on_a_wrong_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = kernel.compiler()
    if tool is None:
        pytest.skip("no C++ compiler")
    sources = tmp_path / "sources"
    shutil.copytree(kernel.SOURCES, sources)
    text = (sources / "rows.h").read_text()
    assert text.count("position + 1)") == 1
    (sources / "rows.h").write_text(text.replace("position + 1)", "position)"))
    monkeypatch.setattr(kernel, "SOURCES", sources)
    program = build(tool, units(), tmp_path)
    assert run("", program, 60).returncode == 1
