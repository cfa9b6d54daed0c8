"""Inputs for a run from files and from a random generator, outputs to files."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from omfuse.errors import OutputError, UsageError
from omfuse.session import Array, TensorInfo

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
        if not text.isdigit():
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


def random_feeds(
    inputs: Sequence[TensorInfo], seed: int, dims: Mapping[str, int], given: Mapping[str, Array]
) -> dict[str, Array]:
    """Draw the inputs that are not given: floats from N(0, 1), integers 0 or 1, masks all kept.

    Symbols take their sizes from ``dims``, then from given inputs.

    Raises:
        UsageError: ``unknown-dim`` when a symbol has no size.
    """
    rng = np.random.default_rng(seed)
    sizes = dict(dims)
    for info in inputs:
        if info.name in given:
            for dim, size in zip(info.shape, given[info.name].shape, strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
    feeds = dict(given)
    for info in inputs:
        if info.name in given:
            continue
        unknown = [d for d in info.shape if isinstance(d, str) and d not in sizes]
        if unknown:
            raise UsageError(
                "unknown-dim",
                f"dim {unknown[0]!r} of input {info.name!r} has no size",
                hint=f"add --dim '{unknown[0]}=SIZE' or --input {info.name}=FILE.npy",
            )
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in info.shape)
        if math.prod(shape) * info.dtype.itemsize > 1 << 36:
            raise UsageError(
                "bad-argument",
                f"input {info.name!r} would have shape {list(shape)}, more than 64 GiB",
                hint="give smaller sizes with --dim",
            )
        feeds[info.name] = _draw(rng, info, shape)
    return feeds


def _draw(rng: np.random.Generator, info: TensorInfo, shape: tuple[int, ...]) -> Array:
    if info.dtype.kind == "b" or ("mask" in info.name.lower() and info.dtype.kind in "iu"):
        return np.ones(shape, info.dtype)
    if info.dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(info.dtype)
    if info.dtype.kind == "O":
        return np.full(shape, "", dtype=object)
    return rng.standard_normal(shape).astype(info.dtype)


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
