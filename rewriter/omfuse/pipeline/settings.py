"""What a pipeline is asked to do: ``[pipeline]`` and ``[diff]`` of omfuse.toml, under the flags."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omfuse.atc.config import find_project
from omfuse.diff.compare import DEAD_ROWS, PRECISIONS
from omfuse.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "pipeline": {"model": (str,), "output": (str,), "device": (str,), "require": (int, str)},
    "diff": {
        "seeds": (list,),
        "dims": (dict,),
        "precision": (str,),
        "dead_rows": (str,),
        "budget": (int, float),
        "atol": (int, float),
        "rtol": (int, float),
    },
}


@dataclass(frozen=True)
class DiffSettings:
    """How both comparisons judge; see :func:`omfuse.diff.compare.diff`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    dims: tuple[tuple[str, int], ...] = ()
    precision: str = "auto"
    dead_rows: str = "report"
    budget: float | None = None
    atol: float | None = None
    rtol: float | None = None


@dataclass(frozen=True)
class Settings:
    """One pipeline.

    Attributes:
        model: the exported ``.onnx``.
        output: folder for everything that is made.
        device: ``ascend`` or ``sim``.
        require: fail when fewer blocks are fused; ``all`` for no declined one.
        compile: settings for :func:`omfuse.atc.layers.make_jobs`, None where not given.
        fixed: its other fields.
        config: project file, None for the nearest one.
        diff: how results are judged.
        resume: take over stages whose inputs have not changed.
    """

    model: Path
    output: Path
    device: str
    require: int | str | None
    compile: Mapping[str, Any]
    fixed: Mapping[str, Any]
    config: Path | None
    diff: DiffSettings
    resume: bool = True


def read_settings(
    model: Path | None,
    output: Path | None,
    device: str | None,
    require: str | None,
    compile: Mapping[str, Any],  # noqa: A002
    fixed: Mapping[str, Any],
    config: Path | None = None,
    seeds: Sequence[int] = (),
    dims: Mapping[str, int] | None = None,
    precision: str | None = None,
    resume: bool = True,
) -> Settings:
    """Merge the project file and the flags; flags win.

    Raises:
        UsageError: ``bad-config`` for the file, ``no-model``, ``unknown-device``,
            ``bad-require`` or ``bad-option``.
    """
    path = config or find_project(Path()) or (find_project(model.parent) if model else None)
    tables = _tables(path)
    pipeline, judge = tables["pipeline"], tables["diff"]
    if model is None and "model" in pipeline and path is not None:
        model = path.parent / pipeline["model"]
    if model is None:
        raise UsageError(
            "no-model", "no model is named", hint="omfuse pipeline MODEL.onnx, or [pipeline] model"
        )
    if output is None and "output" in pipeline and path is not None:
        output = path.parent / pipeline["output"]
    device = device or pipeline.get("device", "ascend")
    if device not in ("ascend", "sim"):
        raise UsageError("unknown-device", f"no device {device!r}", hint="use ascend or sim")
    precision = precision or judge.get("precision", "auto")
    _one_of(precision, PRECISIONS, "precision")
    dead_rows = judge.get("dead_rows", "report")
    _one_of(dead_rows, DEAD_ROWS, "dead_rows")
    numbers = {key: judge.get(key) for key in ("budget", "atol", "rtol")}
    return Settings(
        model,
        output or model.with_name(f"{model.stem}.omfuse"),
        device,
        _require(require if require is not None else pipeline.get("require")),
        compile,
        {**fixed, "device": device},
        config,
        DiffSettings(
            tuple(seeds or judge.get("seeds", (0, 1, 2))),
            tuple(sorted((dims or judge.get("dims", {})).items())),
            precision,
            dead_rows,
            **numbers,
        ),
        resume,
    )


def _one_of(value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise UsageError("bad-option", f"{name} {value!r}", hint=f"one of {', '.join(allowed)}")


def _require(value: int | str | None) -> int | str | None:
    if value is None or value == "all":
        return value
    if str(value).isdigit():
        return int(value)
    raise UsageError("bad-require", f"require {value!r}", hint="use a number or `all`")


def _tables(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None:
        return {name: {} for name in _KEYS}
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("bad-config", f"cannot read the file: {error}", where=str(path)) from None
    found: dict[str, dict[str, Any]] = {}
    for name, keys in _KEYS.items():
        table = data.get(name, {})
        if not isinstance(table, dict):
            raise UsageError("bad-config", f"{name} must be a table", where=str(path))
        for key, value in table.items():
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f"did you mean {near[0]}?" if near else f"keys: {', '.join(keys)}"
                raise UsageError("bad-config", f"unknown key {key!r} in [{name}]", str(path), hint)
            if not isinstance(value, keys[key]) or isinstance(value, bool):
                kinds = " or ".join(kind.__name__ for kind in keys[key])
                raise UsageError("bad-config", f"{name}.{key} must be {kinds}", str(path))
        found[name] = table
    return found
