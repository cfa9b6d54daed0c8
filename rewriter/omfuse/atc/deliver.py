"""Put a finished compile at its place: the .om, what belongs to it, its manifest, the cache."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from omfuse._version import __version__
from omfuse.atc import cache, runfolder
from omfuse.atc.driver import AtcRun
from omfuse.atc.environment import Toolchain
from omfuse.atc.job import CompileResult
from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.prepare import Prepared
from omfuse.errors import OutputError


def content_key(
    ready: Prepared, toolchain: Toolchain, packages: Sequence[Mapping[str, str]]
) -> str:
    """Return the cache key of a job: a hash over everything that decides the result."""
    job = ready.job
    if toolchain.device == "sim":
        tool = cache.tree_digest([Path(__file__).parent.parent / "sim"], (".py",))
    else:
        state = toolchain.atc.stat()
        tool = f"{toolchain.atc}:{state.st_size}:{state.st_mtime_ns}"
    files = {
        name: cache.file_digest(Path(text).expanduser())
        for name, text in ready.options.values().items()
        if Path(text).expanduser().is_file()
    }
    return cache.make_key(
        {
            "model": [_file(path) for path in (job.model, *_external(ready))],
            "soc": ready.soc.name,
            "device": toolchain.device,
            "cann": [toolchain.version, toolchain.inner_version, tool],
            "packages": list(packages),
            "options": ready.options.values(),
            "files": files,
            "plan": ready.plan.flags,
            "form": [job.precision, job.attention, job.opset, job.mask_fill, job.keep_domains],
        }
    )


def _external(ready: Prepared) -> list[Path]:
    """Return the files of weights that the model names."""
    places: set[str] = set()
    for tensor in onnx.external_data_helper._get_all_tensors(ready.model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            places.update(e.value for e in tensor.external_data if e.key == "location")
    folder = ready.weights
    return [folder / place for place in sorted(places) if (folder / place).is_file()]


def _file(path: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": cache.file_digest(path),
    }


def deliver(
    ready: Prepared,
    toolchain: Toolchain,
    result: CompileResult,
    run: AtcRun,
    key: str | None,
    options: AtcOptions,
    packages: Sequence[Mapping[str, str]],
) -> None:
    """Copy the files of a good run to their places, keep them in the cache, write the manifest."""
    output = ready.job.output
    result.seconds = run.outcome.seconds
    if run.extra_files:
        names = ", ".join(path.name for path in run.extra_files)
        result.notes.append(f"the .om needs {names} beside it, wherever it goes")
    record = {
        "result": {**result.as_dict(), "attention": result.attention},
        "atc_name": run.om.name,
        "options": options.values(),
        "extra": [p.name for p in run.extra_files],
        "packages": list(packages),
    }
    if key is not None:
        cache.store(key, run.om, run.extra_files, record)
    try:
        for path in run.extra_files:
            runfolder.place_any(path, output.parent / path.name)
        runfolder.place(run.om, output)
    except OutputError as error:
        error.hint = f"{error.hint}; the compiled file is kept as {run.om}"
        raise
    result.output = output
    result.manifest = write_manifest(ready, toolchain, result, record)


def from_cache(
    ready: Prepared, toolchain: Toolchain, hit: cache.Hit, begin: float
) -> CompileResult:
    """Finish a job from a cached compile."""
    old, job = hit.record["result"], ready.job
    for path in hit.extra:
        runfolder.place_any(path, job.output.parent / path.name)
    runfolder.place(hit.om, job.output)
    result = CompileResult(
        job.output,
        ready.soc.name,
        toolchain.device,
        old["command"],
        True,
        time.monotonic() - begin,
        old["attention"],
        old["shape_kind"],
        [*old["notes"], "taken from the cache: same model, options, chip, CANN and operators"],
        old["warnings"],
        cann=toolchain.version,
        info={**old["om"], "path": str(job.output)},
    )
    result.manifest = write_manifest(ready, toolchain, result, hit.record)
    return result


def write_manifest(
    ready: Prepared, toolchain: Toolchain, result: CompileResult, record: Mapping[str, Any]
) -> Path:
    """Write ``<name>.manifest.json`` beside the .om and return its path."""
    job = ready.job
    path = job.output.with_name(f"{job.output.stem}.manifest.json")
    document = {
        "schema": "omfuse.manifest/1",
        "omfuse": __version__,
        "device": result.device,
        "simulated": result.device == "sim",
        "soc": result.soc,
        "cann": {"version": toolchain.version, "inner": toolchain.inner_version},
        "packages": record["packages"],
        "model": {**_file(job.model), "external": [_file(path) for path in _external(ready)]},
        "om": {
            **_file(job.output),
            "atc_name": record["atc_name"],
            "beside": record["extra"],
        },
        "inputs": _tensors(result.info["inputs"]),
        "outputs": _tensors(result.info["outputs"]),
        "shape": {"asked": list(job.shape), "kind": result.shape_kind},
        "precision": job.precision,
        "attention": {"choice": job.attention, "nodes": result.attention},
        "options": record["options"],
        "command": result.command,
        "notes": result.notes,
        "warnings": result.warnings,
    }
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "manifest.json"
        made.write_text(json.dumps(document, indent=1, default=str) + "\n", "utf-8")
        runfolder.place(made, path)
    return path


def _tensors(described: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: entry[name] for name in ("name", "dtype", "shape")} for entry in described]
