"""Many inputs from a folder, results to a folder: once each, and again only what is missing.

An item is one run.  It comes from an ``.npz`` with arrays by name, or from one ``.npy`` in each of
several folders with equal file names, one folder an input.  Its result is one ``.npz``, written
whole or not at all, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omfuse.errors import OutputError, UsageError

_SHOWN = 5
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Item:
    """One run: its name, and the files of its inputs (``*`` for an ``.npz`` of all)."""

    name: str
    files: Mapping[str, Path] = field(default_factory=dict)

    def load(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Read the inputs; ``fixed`` are those that all items share.

        Raises:
            UsageError: ``bad-input-file``.
        """
        arrays = dict(fixed)
        for name, path in self.files.items():
            try:
                loaded = np.load(str(path), allow_pickle=False)
                if name == "*":
                    with loaded:
                        arrays.update({key: loaded[key] for key in loaded.files})
                else:
                    arrays[name] = loaded
            except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
                raise UsageError(
                    "bad-input-file",
                    f"not a readable {'.npz' if name == '*' else '.npy'} file: {error}",
                    where=str(path),
                    hint="write it with numpy.savez or numpy.save",
                ) from error
        return arrays


def items_of_folder(folder: Path) -> list[Item]:
    """Return an item for each ``.npz`` of a folder, by name.

    Raises:
        UsageError: ``no-items``.
    """
    found = [Item(path.stem, {"*": path}) for path in sorted(folder.glob("*.npz"))]
    if not found:
        raise UsageError(
            "no-items",
            "the folder holds no .npz",
            where=str(folder),
            hint="one .npz an item with arrays by input name, or --input NAME=FOLDER for each "
            "input with one .npy an item",
        )
    return found


def items_of_folders(folders: Mapping[str, Path]) -> list[Item]:
    """Return an item for each file name that all folders hold.

    Raises:
        UsageError: ``no-items``, ``uneven-folders`` naming what is missing where.
    """
    files = {name: {p.stem: p for p in folder.glob("*.npy")} for name, folder in folders.items()}
    stems = sorted(set().union(*files.values()))
    if not stems:
        raise UsageError(
            "no-items",
            "the folders hold no .npy",
            where=", ".join(map(str, folders.values())),
            hint="each folder holds one .npy an item, under equal names",
        )
    for name, found in files.items():
        missing = [stem for stem in stems if stem not in found]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise UsageError(
                "uneven-folders",
                f"input {name!r} lacks {', '.join(missing[:_SHOWN])}{more}",
                where=str(folders[name]),
                hint="each folder holds the same file names",
            )
    return [Item(stem, {name: found[stem] for name, found in files.items()}) for stem in stems]


def result_path(folder: Path, item: Item) -> Path:
    """Return where the result of an item goes."""
    return folder / f"{_UNSAFE.sub('_', item.name) or 'item'}.npz"


def split_done(folder: Path, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return the items to do, and those whose result is there.

    Raises:
        UsageError: ``name-clash`` when two items would share one result.
    """
    targets: dict[Path, str] = {}
    for item in items:
        path = result_path(folder, item)
        if path in targets:
            raise UsageError(
                "name-clash",
                f"{item.name!r} and {targets[path]!r} would both be written to {path.name}",
                hint="use names of letters, digits, dots, dashes and underscores",
            )
        targets[path] = item.name
    done = {path for path in targets if zipfile.is_zipfile(str(path))}
    todo = [item for item in items if result_path(folder, item) not in done]
    return todo, [item for item in items if result_path(folder, item) in done]


def write_result(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an ``.npz`` that is whole or absent; bfloat16 is written as float32.

    Raises:
        OutputError: ``cannot-write``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=str(path.parent), suffix=".part")
        try:
            with os.fdopen(handle, "wb") as raw, zipfile.ZipFile(raw, "w") as archive:
                for name, array in arrays.items():
                    _write_member(archive, name, array)
            os.replace(part, str(path))  # noqa: PTH105
        except BaseException:
            os.unlink(part)  # noqa: PTH108
            raise
    except OSError as error:
        raise OutputError(
            "cannot-write",
            f"cannot write a result: {error.strerror or error}",
            where=str(path),
            hint="name a folder that can be made and written, with room for the outputs",
        ) from error


def _write_member(archive: zipfile.ZipFile, name: str, array: Any) -> None:
    plain = np.asarray(array)
    if plain.dtype.kind not in "biufc":  # .npy has no name for bfloat16
        plain = plain.astype(np.float32)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, plain, allow_pickle=False)
