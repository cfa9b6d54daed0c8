"""Build the simulated libascendcl with the machine's compiler, once."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

from omfuse.acl.prototypes import SIGNATURES, SINCE_9
from omfuse.errors import NotAvailableError, ToolchainError
from omfuse.host import native

SOURCES = Path(__file__).resolve().parent / "acl"
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra")
SANITIZE = ("-fsanitize=address,undefined", "-fno-omit-frame-pointer")
# What the library looks like from outside: 81 as in CANN 8.1, 90 with what came later.
FLAVOURS = (81, 90)


def prototypes_header(flavour: int) -> str:
    """Return the header of the functions that the library must define, from our own table."""
    lines = [
        signature.text + ";"
        for name, signature in SIGNATURES.items()
        if flavour >= 90 or name not in SINCE_9
    ]
    body = "\n".join(lines)
    return f'#pragma once\n#include "acl_types.h"\nextern "C" {{\n{body}\n}}\n'


@functools.cache
def build_library(flavour: int = 90, sanitize: bool = False) -> Path:
    """Return the path of the simulated ``libascendcl.so``, building it when needed.

    Args:
        flavour: one of :data:`FLAVOURS`.
        sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer, whose runtimes the process
            must have preloaded.

    Raises:
        NotAvailableError: ``no-compiler`` or ``not-linux``.
        ToolchainError: ``sim-build-failed``.
    """
    if not sys.platform.startswith("linux"):
        raise NotAvailableError(
            "not-linux",
            f"the simulated device is not built on {sys.platform}",
            hint="use Linux, or run the .onnx with --device host",
        )
    tool = native.compiler()
    if tool is None:
        raise NotAvailableError(
            "no-compiler",
            "the simulated device needs a C++ compiler once",
            hint="install g++ or clang++, or run the .onnx with --device host",
        )
    flags = (*FLAGS, f"-DSIMACL_API={flavour}", *(SANITIZE if sanitize else ()))
    header = prototypes_header(flavour)
    units = sorted(SOURCES.glob("*.cc"))
    try:
        digest = native.digest(tool, (*units, *SOURCES.glob("*.h")), header, flags)
        folder = native.cache_dir() / "sim" / digest
        if (folder / "libascendcl.so").exists():
            return folder / "libascendcl.so"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = folder / f"header-{flavour}.part"
        part.write_text(header, encoding="utf-8")
        part.replace(folder / "acl_prototypes.h")
        all_flags = (*flags, f"-I{folder}", f"-I{SOURCES}")
        return native.build(
            folder / "libascendcl.so",
            tool,
            dict.fromkeys(units, all_flags),
            ("-pthread", *(SANITIZE if sanitize else ())),
            "the simulated device",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(
            "sim-build-failed",
            f"the simulated device could not be built: {native.brief(error)}",
            hint="the compiler must know C++17; CXX names another one, OMFUSE_CACHE_DIR another "
            "cache folder",
        ) from error
