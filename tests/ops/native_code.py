"""Compile small C++ pieces of the operator for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from omfuse.host import native
from omfuse.ops.package import SOURCES


def compiler() -> str:
    """Return the C++ compiler, or skip the test."""
    tool = native.compiler()
    if tool is None:
        pytest.skip("no C++ compiler here")
    return tool


def shared_library(folder: Path, name: str, text: str, sources: list[Path]) -> Path:
    """Compile ``text`` with ``sources`` as C++11, warnings as errors, into a library."""
    main = folder / f"{name}.cc"
    main.write_text(text, "utf-8")
    made = folder / f"lib{name}.so"
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{SOURCES}"]
    argv = [compiler(), *flags, str(main), *map(str, sources), "-o", str(made)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made
