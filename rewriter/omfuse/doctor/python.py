"""Python, packages, compiler: what the host side needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from omfuse._version import __version__
from omfuse.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from omfuse.fuse.bodies import OVERLOADS_SINCE

_EXTRAS = {
    "matplotlib": ("report", "HTML reports and plots"),
    "ray": ("ray", "omfuse run --ray"),
    "ml_dtypes": ("", "bf16 inputs and outputs"),
}
_LOW_SPACE = 2 * 1024**3


def python() -> Iterator[Finding]:
    """Look at the interpreter and the packages it needs."""
    text = f"omfuse {__version__} on Python {platform.python_version()}, {platform.machine()}"
    yield Finding("python", OK, text)
    yield from _packages()
    yield from _old_onnxruntime()
    for name, (extra, what) in _EXTRAS.items():
        found = _version(name)
        if found is None:
            fix = f"pip install 'omfuse[{extra}]'" if extra else f"pip install {name}"
            yield Finding(name, SKIP, f"{name} is not installed: no {what}", fix)
        else:
            yield Finding(name, OK, f"{name} {found}: {what}")


def _old_onnxruntime() -> Iterator[Finding]:
    found = _version("onnxruntime")
    if found is not None and _numbers(found) < OVERLOADS_SINCE:
        text = (
            f"onnxruntime {found} refuses rewritten files with several kinds of attention; "
            "omfuse itself runs them"
        )
        yield Finding("onnxruntime", WARN, text, "pip install 'onnxruntime>=1.27'")


def _packages() -> Iterator[Finding]:
    """Compare installed versions with what the package asks for."""
    try:
        wanted = requires("omfuse") or []
    except PackageNotFoundError:
        yield Finding("package", WARN, "omfuse runs from a folder, not installed", "pip install .")
        wanted = ["numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "rich", "typer"]
    good = []
    for requirement in wanted:
        if ";" in requirement:
            continue
        name = re.split(r"[<>=!~ \[]", requirement, maxsplit=1)[0]
        found = _version(name)
        least = re.search(r">=\s*([0-9.]+)", requirement)
        if found is None:
            yield Finding(
                "package", FAIL, f"{name} is not installed", f"pip install '{requirement}'"
            )
        elif least and _numbers(found) < _numbers(least[1]):
            text = f"{name} {found} is older than {least[1]}"
            yield Finding("package", FAIL, text, f"pip install '{requirement}'")
        else:
            good.append(f"{name} {found}")
    yield Finding("packages", OK, ", ".join(good))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def host(build: bool) -> Iterator[Finding]:
    """Look at the compiler, the CPU kernel and the cache; build the kernel when asked."""
    from omfuse.host import native

    tool = native.compiler()
    if tool is None:
        text = "no C++ compiler: FlashAttention runs in standard operators, and there is no sim"
        yield Finding("compiler", WARN, text, "apt install g++, or name one with CXX")
    else:
        yield Finding("compiler", OK, f"{_first_line(tool)}")
    if tool is not None and build:
        from omfuse.host import kernel

        found = kernel.find()
        if found.path is None:
            fix = "omfuse works without it, only slower; see the compiler's message"
            yield Finding("cpu-kernel", WARN, f"the CPU kernel is not used: {found.reason}", fix)
        else:
            yield Finding("cpu-kernel", OK, "the CPU kernel builds and computes what it should")
    yield from _cache()


def simulation(build: bool) -> Iterator[Finding]:
    """Look at the simulated device; build its library when asked."""
    from omfuse.errors import OmfuseError
    from omfuse.host import native

    if native.compiler() is None:
        text = "the simulated device needs a C++ compiler"
        yield Finding("sim", SKIP, text, "apt install g++")
        return
    if not build:
        return
    from omfuse.sim.build import build_library

    try:
        build_library()
    except (OmfuseError, OSError, subprocess.SubprocessError) as error:
        yield Finding("sim", FAIL, f"the simulated device does not build: {error}", "report it")
    else:
        yield Finding("sim", OK, "the simulated device builds: --device sim works")


def _first_line(tool: str) -> str:
    done = subprocess.run(
        [tool, "--version"], capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout.splitlines()[0] if done.stdout else tool


def _cache() -> Iterator[Finding]:
    from omfuse.host import native

    folder = native.cache_dir()
    near = folder
    while not near.exists():
        near = near.parent
    if not os.access(near, os.W_OK):
        text = f"the cache {folder} cannot be written: everything is built again each time"
        yield Finding("cache", WARN, text, "name another folder with OMFUSE_CACHE_DIR")
        return
    free = shutil.disk_usage(near).free
    if free < _LOW_SPACE:
        text = f"{free / 1024**3:.1f} GiB are free for the cache {folder}"
        yield Finding("cache", WARN, text, "free some space, or set OMFUSE_CACHE_DIR")
    else:
        yield Finding("cache", OK, f"cache {folder}, {free / 1024**3:.0f} GiB free")
