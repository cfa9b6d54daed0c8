"""Build C++ libraries on this machine, once, into the user's cache.

``OMFUSE_CACHE_DIR`` moves the cache; ``CXX`` names the compiler.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TIMEOUT = 300  # seconds for one compiler run


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


def digest(tool: str, sources: Iterable[Path], *parts: object) -> str:
    """Return a hash of the compiler's version, of source files and of other ``parts``."""
    version = subprocess.run(
        [tool, "--version"], capture_output=True, timeout=TIMEOUT, check=True
    ).stdout
    found = hashlib.sha256(repr((version, *parts)).encode())
    for path in sorted(sources):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:24]


def build(
    library: Path,
    tool: str,
    units: Mapping[Path, Sequence[str]],
    link_flags: Sequence[str] = (),
    what: str = "a library",
    jobs: int | None = None,
) -> Path:
    """Compile and link unless it is there; whole or not at all, also with two builders at once.

    Args:
        library: the file to make.
        tool: the compiler.
        units: source file -> flags.
        link_flags: flags of the link.
        what: what is built, for the message on a terminal.
        jobs: compilers at once; the number of processors when None.

    Raises:
        OSError: the compiler cannot run or the cache cannot be written.
        subprocess.SubprocessError: compiler or linker failed; ``stderr`` has its words.
    """
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if sys.stderr.isatty():
        sys.stderr.write(f"omfuse: building {what}, once on this machine\n")
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        objects = [Path(scratch, f"{source.stem}.o") for source in units]
        commands = [
            [tool, *flags, "-c", str(source), "-o", str(target)]
            for (source, flags), target in zip(units.items(), objects, strict=True)
        ]
        _compile(commands, jobs or os.cpu_count() or 1)
        made = Path(scratch, "library.so")
        subprocess.run(
            [tool, "-shared", "-o", str(made), *map(str, objects), *link_flags],
            capture_output=True,
            timeout=TIMEOUT,
            check=True,
        )
        made.replace(library)
    return library


def _compile(commands: Sequence[Sequence[str]], jobs: int) -> None:
    for first in range(0, len(commands), jobs):
        running = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for command in commands[first : first + jobs]
        ]
        results = [(process, process.communicate(timeout=TIMEOUT)[1]) for process in running]
        for process, said in results:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)


def brief(error: Exception) -> str:
    """Return the telling line of a failed build."""
    said = getattr(error, "stderr", None)
    if isinstance(said, bytes) and said.strip():
        lines = said.decode(errors="replace").splitlines()
        return next((line for line in lines if "error" in line), lines[0])[:200]
    return str(error)[:200]
