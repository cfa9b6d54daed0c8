"""Inputs and outputs as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from omfuse.diff.sides import load_npz
from omfuse.errors import OutputError, UsageError
from omfuse.host.feeding import load_array, write_npz
from omfuse.session_protocol import Array


def read_inputs(given: Sequence[str]) -> dict[str, Array]:
    """Read ``FILE.npz``, a folder of ``NAME.npy``, and ``NAME=FILE.npy``; later ones win.

    Raises:
        ModelError: a file is missing or not numpy's.
        UsageError: ``bad-option``.
    """
    arrays: dict[str, Array] = {}
    for text in given:
        path = Path(text)
        name, equals, file = text.partition("=")
        if path.is_dir():
            arrays.update({p.stem: load_array(str(p)) for p in sorted(path.glob("*.npy"))})
        elif path.suffix == ".npz" and not (equals and not path.exists()):
            arrays.update(load_npz(path))
        elif equals:
            arrays[name] = load_array(file)
        else:
            raise UsageError(
                "bad-option",
                f"--inputs {text} is neither a folder nor an .npz",
                hint="use FILE.npz, a folder of NAME.npy, or NAME=FILE.npy",
            )
    if not arrays:
        raise UsageError("bad-option", "--inputs holds no array", hint="check the folder")
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz`` that is whole or absent.

    Raises:
        OutputError: ``cannot-write``.
    """
    try:
        write_npz(path, dict(arrays))
    except OSError as error:
        raise OutputError("cannot-write", str(error), str(path), "choose another place") from error
