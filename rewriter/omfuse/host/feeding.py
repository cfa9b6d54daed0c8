"""Inputs for a run from files and from a random generator, outputs to files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from omfuse.errors import OutputError, UsageError
from omfuse.session_protocol import Array, TensorInfo

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def split_pairs(pairs: Sequence[str], flag: str) -> dict[str, str]:
    """Split ``NAME=VALUE`` arguments.

    Raises:
        UsageError: ``bad-argument`` when the equals sign is missing or a name comes twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        if not equals or not name or name in found:
            raise UsageError(
                "bad-argument", f"{flag} {pair!r}", hint=f"write {flag} NAME=VALUE once"
            )
        found[name] = value
    return found


def read_sizes(pairs: Sequence[str], flag: str) -> dict[str, int]:
    """Read ``NAME=SIZE`` arguments.

    Raises:
        UsageError: ``bad-argument``.
    """
    sizes = split_pairs(pairs, flag)
    for name, text in sizes.items():
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise UsageError("bad-argument", f"{flag} {name}={text}", hint="a size is an integer")
    return {name: int(text) for name, text in sizes.items()}


def load_array(path: str) -> Array:
    """Read one ``.npy`` file; files with Python objects are refused.

    Raises:
        UsageError: ``bad-input-file``.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UsageError(
            "bad-input-file", "no such file", where=path, hint="check the path"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            "bad-input-file", f"not a readable .npy file: {error}", where=path, hint="use np.save"
        ) from error
    if not isinstance(array, np.ndarray):
        raise UsageError("bad-input-file", "an .npz archive", where=path, hint="give .npy files")
    return array


def sizes_of(inputs: Sequence[TensorInfo], given: Mapping[str, Array]) -> dict[str, int]:
    """Return the sizes that given inputs settle for the symbols of the model."""
    sizes: dict[str, int] = {}
    for info in inputs:
        if info.name in given:
            for dim, size in zip(info.shape, given[info.name].shape, strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
    return sizes


def save_outputs(folder: Path, outputs: Mapping[str, Array]) -> dict[str, str]:
    """Write one ``.npy`` an output, each under its name in the end and whole, or not at all.

    bfloat16, which ``.npy`` cannot name, is written as float32, which holds it exactly.

    Returns:
        Output name -> file.

    Raises:
        OutputError: ``cannot-write``.
    """
    files: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in outputs.items():
            stem = _UNSAFE.sub("_", name).strip("._") or "output"
            target = folder / f"{stem}.npy"
            if str(target) in files.values():
                target = folder / f"{stem}_{len(files)}.npy"
            array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
                try:
                    np.save(file, array, allow_pickle=False)
                except BaseException:
                    os.unlink(file.name)  # noqa: PTH108
                    raise
            Path(file.name).replace(target)
            files[name] = str(target)
    except (OSError, ValueError) as error:
        raise OutputError(
            "cannot-write",
            f"cannot write the outputs: {error}",
            where=str(folder),
            hint="name a folder that can be made and written, with room for the outputs",
        ) from error
    return files
