"""From the layers of settings to jobs: SoC file < project's omfuse.toml < command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omfuse.atc.config import find_project, load_project, load_soc
from omfuse.atc.form.masks import DEFAULT_FILL
from omfuse.atc.job import Job, output_names
from omfuse.atc.options.fields import FIELD_NAMES, from_argv, parse_setting
from omfuse.atc.options.problem import is_whole
from omfuse.atc.precision import DEFAULT
from omfuse.atc.shapes.wishes import wish_name
from omfuse.errors import UsageError


def make_jobs(
    model: Path,
    output: Path | None,
    given: Mapping[str, Any],
    fixed: Mapping[str, Any],
    variants: Sequence[str] = (),
    like: str | None = None,
    config: Path | None = None,
) -> list[Job]:
    """Make one job for each chip and variant.

    Args:
        model: the ONNX file.
        output: the ``.om``; may be missing for a dry run.
        given: values of the command line that a project file may also set; None means not given.
        fixed: other fields of the jobs.
        variants: texts ``NAME: SHAPE SHAPE``.
        like: an existing atc command to take flags from.
        config: project file instead of the nearest one.

    Raises:
        UsageError: ``no-soc``, ``no-output``, ``same-output``, ``bad-variant``, ``bad-quotes``,
            ``bad-config`` and those of options.
    """
    path = config or find_project(Path()) or find_project(model.parent)
    if config is not None and not config.is_file():
        raise UsageError("bad-config", "no such file", where=str(config))
    old = from_argv(_words(like, "--like")) if like else None
    socs = given["soc"] or _listed(load_project(path).get("soc"))
    if not socs and old is not None and old.soc_version:
        socs = [old.soc_version]
    if not socs:
        raise UsageError(
            "no-soc",
            "no chip is named",
            where="--soc",
            hint="--soc Ascend310P3; `npu-smi info` shows the part in column Name",
        )
    names = [load_soc(soc).name for soc in socs]
    shapes = [_variant(text) for text in variants] or [("", ())]
    target = _output(output, bool(fixed["dry_run"]), model)
    files = output_names(target, names, [name for name, _ in shapes])
    _check_different(files)
    jobs: list[Job] = []
    for soc, typed in zip(names, socs, strict=True):
        layer = load_project(path, soc)
        for _, extra in shapes:
            values = _values(layer, given, extra, old)
            jobs.append(Job(model, files[len(jobs)], typed, **values, **fixed))
    return jobs


def _output(output: Path | None, dry_run: bool, model: Path) -> Path:
    if output is not None:
        return output
    if dry_run:
        return model.with_suffix(".om")
    raise UsageError("no-output", "no output file is named", where="-o", hint="-o model.om")


def _check_different(files: Sequence[Path]) -> None:
    twice = next((path for path in files if files.count(path) > 1), None)
    if twice is not None:
        raise UsageError(
            "same-output",
            "two of the compiles would write the same file",
            where=str(twice),
            hint="name each chip and each variant once",
        )


def _words(text: str, flag: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(
            "bad-quotes", f"{str(error).lower()} in {text!r}", where=flag, hint="close the quotes"
        ) from None


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]


def _variant(text: str) -> tuple[str, tuple[str, ...]]:
    match = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*:\s*(.+)", text)
    if not match:
        raise UsageError(
            "bad-variant",
            f"{text!r} is not NAME: SHAPE SHAPE",
            where="--variant",
            hint="--variant 'b1: batch=1 seq=128'",
        )
    return match[1], tuple(_words(match[2], "--variant"))


def _values(
    layer: Mapping[str, Any], given: Mapping[str, Any], extra: Sequence[str], old: Any
) -> dict[str, Any]:
    def pick(name: str, default: Any = None) -> Any:
        return given[name] if given.get(name) is not None else layer.get(name, default)

    settings: list[tuple[str, Any]] = list(layer.get("set", {}).items())
    if old is not None:
        settings += _settings_of(old)
    settings += [parse_setting(text) for text in given.get("set") or ()]
    shape = list(given.get("shape") or ())
    if not shape and not extra:
        shape = [_shape_text(name, spec) for name, spec in layer.get("shape", {}).items()]
    named = {wish_name(text) for text in extra}
    shape = [text for text in shape if wish_name(text) not in named]
    timeout = pick("timeout")
    return {
        "shape": (*shape, *extra),
        "precision": pick("precision", DEFAULT),
        "attention": pick("attention", "custom"),
        "opset": _opset(pick("opset")),
        "mask_fill": _mask_fill(pick("mask_fill")),
        "settings": tuple(settings),
        "timeout": None if timeout is None else float(timeout),
        "use_cache": bool(given.get("cache", True)) and bool(layer.get("cache", True)),
    }


def _settings_of(old: Any) -> list[tuple[str, Any]]:
    """Return the flags of an existing command, without those that a job decides itself."""
    decided = ("model", "output", "soc_version", "mode")
    found = [(n, getattr(old, n)) for n in FIELD_NAMES if n not in decided]
    return [*((n, v) for n, v in found if v is not None), *old.extra]


def _shape_text(name: str, spec: Any) -> str:
    values = spec if isinstance(spec, list) else [spec]
    return f"{name}={','.join(str(v) for v in values)}"


def _opset(value: Any) -> int | None:
    if value is None:
        return None
    if str(value) == "keep":
        return 0
    if is_whole(str(value)) and 7 <= int(value) <= 64:
        return int(value)
    raise UsageError(
        "bad-opset", f"{value!r} is no opset", where="--opset", hint="a number such as 17, or keep"
    )


def _mask_fill(value: Any) -> float | None:
    if value is None:
        return DEFAULT_FILL
    if str(value) == "keep":
        return None
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not -65504.0 <= number < 0.0:
        raise UsageError(
            "bad-mask-fill",
            f"{value!r} is no negative number that fp16 has",
            where="--mask-fill",
            hint="a number from -65504 to below 0, or keep",
        )
    return number
