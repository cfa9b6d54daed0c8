"""Native sources are formatted by `.clang-format`, and stay small."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("custom_ops", "rewriter", "tests", "benchmarks", "examples")
SUFFIXES = (".h", ".hpp", ".c", ".cc", ".cpp")


def native_files() -> list[Path]:
    """Return every native source once; the editable install's links lead to the same files."""
    found = {
        path.resolve()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES and path.is_file()
    }
    return sorted(found)


def clang_format() -> str:
    """Return the formatter of the `dev` extra."""
    beside = Path(sys.executable).with_name("clang-format")
    tool = str(beside) if beside.exists() else shutil.which("clang-format")
    if tool is None:
        pytest.skip("clang-format is not installed (the `dev` extra brings it)")
    return tool


def test_native_sources_are_formatted() -> None:
    files = native_files()
    assert len(files) > 60
    command = [clang_format(), "--style=file", "--dry-run", "--Werror", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[:2000]


def test_native_sources_stay_small() -> None:
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in native_files()}
    assert {name: count for name, count in lines.items() if count > 500} == {}
