"""Exports what a corpus folder lacks, one case at a time in a child process."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.worker import Worker

GROUPS = ("plain", "timm", "torchvision", "hf", "auto", "diffusers", "keras", "tf", "jax")


def default_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "omfuse" / "zoo"


def registry(group: str) -> Any:
    """The cases of one group; imported on demand, since each group needs its own libraries."""
    from benchmarks.zoo.cases import Registry

    cases = Registry()
    importlib.import_module(f"benchmarks.zoo.{group}_cases").register(cases)
    return cases


def list_group(group: str) -> list[tuple[str, Any]]:
    """(id, variant) of every model of a group."""
    from benchmarks.zoo.variants import variant_name, variants

    found = []
    for family, case in registry(group).cases.items():
        chosen = list(dict.fromkeys(variants(case)))
        found += [(variant_name(case, v), (family, v)) for v in chosen]
    return found


def export_one(group: str, family: str, variant: Any, path: str) -> Any:
    if group not in _LOADED:
        _LOADED[group] = registry(group)
    export = importlib.import_module(f"benchmarks.zoo.{_EXPORTS.get(group, 'export')}").export
    target, partial = Path(path), Path(path + ".partial")
    entry = export(_LOADED[group].cases[family], tuple(variant), partial)
    partial.replace(target)
    return {**entry, "file": target.name}


_EXPORTS = {"keras": "keras_export", "tf": "keras_export", "jax": "jax_export"}
_LOADED: dict[str, Any] = {}


def _dispatch(action: str, *arguments: Any) -> Any:
    return {"list": list_group, "export": export_one}[action](*arguments)


def generate(folder: Path, groups: list[str], only: str, timeout: float) -> dict[str, Any]:
    """Export every case that the folder lacks; failures are kept in `failures.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("inputs.py"), folder / "inputs.py")
    cases = _load(folder / "manifest.json", {"cases": []})["cases"]
    done = {case["id"] for case in cases}
    failures: dict[str, str] = _load(folder / "failures.json", {})
    for group in groups:
        with Worker(_dispatch) as worker:
            status, names = worker.call("list", group, timeout=300)
            if status != "ok":
                print(f"{group}: left out, {names}", file=sys.stderr)
                continue
            for name, (family, variant) in names:
                if name in done or only not in name or name in failures:
                    continue
                started = time.perf_counter()
                path = folder / "models" / f"{name}.onnx"
                status, entry = worker.call(
                    "export", group, family, variant, str(path), timeout=timeout
                )
                seconds = time.perf_counter() - started
                if status == "ok":
                    cases.append({**entry, "file": f"models/{path.name}"})
                    note = f"{entry['expected']} blocks, {entry['nodes']} nodes"
                    if not entry["runs_ort"]:
                        note += ", does not run"
                else:
                    failures[name] = str(entry)[:300]
                    note = f"{status}: {str(entry)[:160]}"
                print(f"{name:48s} {seconds:5.1f} s  {note}", file=sys.stderr, flush=True)
                save_json(folder / "manifest.json", {"cases": cases})
                save_json(folder / "failures.json", failures)
    return {"cases": cases, "failures": failures}


def _load(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def save_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)
