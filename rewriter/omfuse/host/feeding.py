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


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to a file that is whole or absent."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save_outputs(target: Path, outputs: Mapping[str, Array]) -> dict[str, str]:
    """Write outputs whole or not at all: to one ``.npz``, or to a folder, one ``.npy`` each.

    bfloat16, which numpy's files cannot name, is written as float32, which holds it exactly.

    Returns:
        Output name -> file.

    Raises:
        OutputError: ``cannot-write``.
    """
    plain = {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, array in outputs.items()
    }
    try:
        if target.suffix.lower() == ".npz" and not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_npz(target, plain)
            return dict.fromkeys(plain, str(target))
        return _save_each(target, plain)
    except (OSError, ValueError) as error:
        raise OutputError(
            "cannot-write",
            f"cannot write the outputs: {error}",
            where=str(target),
            hint="name a folder that can be made and written, with room for the outputs",
        ) from error


def _save_each(folder: Path, outputs: Mapping[str, Array]) -> dict[str, str]:
    files: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in outputs.items():
        stem = _UNSAFE.sub("_", name).strip("._") or "output"
        target = folder / f"{stem}.npy"
        if str(target) in files.values():
            target = folder / f"{stem}_{len(files)}.npy"
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            try:
                np.save(file, array, allow_pickle=False)
            except BaseException:
                os.unlink(file.name)  # noqa: PTH108
                raise
        Path(file.name).replace(target)
        files[name] = str(target)
    return files
