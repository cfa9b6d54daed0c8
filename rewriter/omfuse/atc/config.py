"""SoC configurations and their layers: SoC file, then the project's omfuse.toml, then flags.

``atc_configs/`` holds one TOML a SoC.  A file may ``extends`` a family file (leading underscore),
whose tables it overlays key by key.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from omfuse.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT_FILE = "omfuse.toml"
PROJECT_KEYS = {
    "soc": (str, list),
    "shape": (dict,),
    "precision": (str,),
    "attention": (str,),
    "opset": (int, str),
    "mask_fill": (int, float, str),
    "set": (dict,),
    "timeout": (int, float),
    "cache": (bool,),
}
# Names people type that are no soc_version, and what they usually mean.
_TRAPS = {
    "ascend310p": "310P is a family: npu-smi shows the part, usually Ascend310P3",
    "ascend310b": "310B is a family: npu-smi shows the part, 310B1 to 310B4",
    "ascend910": "910 is a family: the first generation is Ascend910A, ProA, PremiumA, B or ProB",
    "ascend910_93": "A3 parts are named by chip and NPU name, such as Ascend910_9392",
    "ascend910c": "910C is how A3 boards are called: their parts are Ascend910_9391 and alike",
}
# Parts of CANN that omfuse has no numbers for; their near names would mislead.
_OTHER_PARTS = re.compile(
    r"ascend(310|350_\w+|031|035[ab]?|610(lite)?|950\w*|910_55\w+|910_95|910_9363)\Z", re.I
)


@dataclass(frozen=True)
class SocConfig:
    """One target: hardware numbers, default ATC flags, what it supports, profit guards.

    Sizes are bytes, clocks MHz.  ``hardware`` keeps every number of the file.
    """

    name: str
    family: str
    short: str
    arch: str
    cube_cores: int
    vector_cores: int
    bf16: bool
    sparsity: bool
    shape_range: bool
    hardware: Mapping[str, Any] = field(default_factory=dict)
    atc: Mapping[str, Any] = field(default_factory=dict)
    attention: Mapping[str, Any] = field(default_factory=dict)
    guards: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _folder() -> Any:
    return resources.files("omfuse").joinpath("atc_configs")


@lru_cache(maxsize=1)
def soc_names() -> tuple[str, ...]:
    """Return every soc_version with a configuration, sorted."""
    names = []
    for entry in _folder().iterdir():
        if entry.name.endswith(".toml") and not entry.name.startswith("_"):
            names.append(str(tomllib.loads(entry.read_text("utf-8"))["soc"]["name"]))
    return tuple(sorted(names))


@lru_cache(maxsize=64)
def load_soc(name: str) -> SocConfig:
    """Load the configuration of a soc_version; the case of the name does not matter.

    Raises:
        UsageError: ``unknown-soc`` with near names; ATC would stop with E20101.
    """
    exact = {n.lower(): n for n in soc_names()}
    wanted = name if name.lower().startswith("ascend") else f"Ascend{name}"
    if wanted.lower() not in exact:
        raise _unknown_soc(name, wanted)
    data = _read_file(f"{exact[wanted.lower()].lower()}.toml")
    soc, support = data["soc"], data["support"]
    return SocConfig(
        name=soc["name"],
        family=soc["family"],
        short=soc["short"],
        arch=soc["arch"],
        cube_cores=data["hardware"]["cube_cores"],
        vector_cores=data["hardware"]["vector_cores"],
        bf16=support["bf16"],
        sparsity=support["sparsity"],
        shape_range=support["shape_range"],
        hardware=data["hardware"],
        atc=data.get("atc", {}),
        attention=data.get("attention", {}),
        guards=data.get("guards", {}),
        notes=tuple(soc.get("notes", ())),
    )


def _unknown_soc(name: str, wanted: str) -> UsageError:
    if _OTHER_PARTS.match(wanted):
        return UsageError(
            "unknown-soc",
            f"omfuse has no configuration for {name}",
            where="--soc",
            hint="CANN may know it, but neither its numbers nor the kernel were made for it; "
            "omfuse compiles for 310P, 310B, 910, 910B and 910_93",
        )
    trap = _TRAPS.get(wanted.lower())
    names = soc_names()
    starts = [n for n in names if n.lower().startswith(wanted.lower())]
    near = starts or difflib.get_close_matches(wanted, names, n=4, cutoff=0.7) or list(names)
    hint = (f"{trap}; " if trap else "") + f"near names: {', '.join(near[:8])}"
    return UsageError(
        "unknown-soc",
        f"{name!r} is no soc_version omfuse knows (ATC E20101)",
        where="--soc",
        hint=hint + ". `npu-smi info` shows the part in column Name; put Ascend before it",
    )


def _read_file(name: str) -> dict[str, Any]:
    data = tomllib.loads(_folder().joinpath(name).read_text("utf-8"))
    parent = data.pop("extends", None)
    return overlay(_read_file(f"{parent}.toml"), data) if parent else data


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``top`` over ``base``, table by table."""
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = overlay(old, value)
        else:
            merged[key] = value
    return merged


def find_project(start: Path) -> Path | None:
    """Return the nearest omfuse.toml at or above a folder."""
    folder = start.resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / PROJECT_FILE).is_file():
            return candidate / PROJECT_FILE
    return None


def load_project(path: Path | None, soc: str | None = None) -> dict[str, Any]:
    """Read the settings of ``[compile]``, overlaid with ``[target.<soc>]``.

    Raises:
        UsageError: ``bad-config`` for a broken file, an unknown key or a wrong type.
    """
    if path is None:
        return {}
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("bad-config", f"cannot read the file: {error}", where=str(path)) from None
    settings = dict(_table(data, "compile", path))
    targets = {str(k).lower(): k for k in _table(data, "target", path)}
    for key in targets.values():
        load_soc(str(key))
    if soc is not None and soc.lower() in targets:
        key = targets[soc.lower()]
        settings = overlay(settings, _table(data["target"], key, path))
    for problem in _bad_keys(settings):
        raise UsageError("bad-config", problem[0], where=str(path), hint=problem[1])
    return settings


def _table(data: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, Mapping):
        raise UsageError("bad-config", f"{key} must be a table", where=str(path))
    return table


def _bad_keys(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if key not in PROJECT_KEYS:
            near = difflib.get_close_matches(key, PROJECT_KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"keys: {', '.join(PROJECT_KEYS)}"
            yield f"unknown key {key!r}", hint
        elif not isinstance(value, PROJECT_KEYS[key]):
            kinds = " or ".join(k.__name__ for k in PROJECT_KEYS[key])
            yield f"{key} must be {kinds}, it is {type(value).__name__}", ""
