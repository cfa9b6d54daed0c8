"""Put a finished compile at its place: the .om, what belongs to it, its manifest, the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from omfuse._version import __version__
from omfuse.atc import cache, op_package, runfolder
from omfuse.atc.driver import AtcRun
from omfuse.atc.environment import Toolchain
from omfuse.atc.job import CompileResult, Job
from omfuse.atc.options import AtcOptions
from omfuse.atc.prepare import Prepared


def content_key(ready: Prepared, toolchain: Toolchain, env: Mapping[str, str]) -> str:
    """Return the cache key of a job: a hash over everything that decides the result."""
    job = ready.job
    packages = op_package.find_packages(toolchain, env)
    if toolchain.device == "sim":
        tool = cache.tree_digest([Path(__file__).parent.parent / "sim"], (".py",))
    else:
        state = toolchain.atc.stat()
        tool = f"{toolchain.atc}:{state.st_size}:{state.st_mtime_ns}"
    files = {
        name: cache.file_digest(Path(text))
        for name, text in ready.options.values().items()
        if Path(text).is_file()
    }
    return cache.make_key(
        {
            "model": _model_digest(job.model, ready.model),
            "soc": ready.soc.name,
            "device": toolchain.device,
            "cann": [toolchain.version, toolchain.inner_version, tool],
            "packages": [[p.vendor, cache.tree_digest([p.root])] for p in packages],
            "options": ready.options.values(),
            "files": files,
            "plan": ready.plan.flags,
            "form": [job.precision, job.attention, job.opset, job.mask_fill, job.keep_domains],
        }
    )


def _model_digest(path: Path, model: onnx.ModelProto) -> str:
    """Hash the file and every external file it names."""
    places: set[str] = set()
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            places.update(e.value for e in tensor.external_data if e.key == "location")
    inside = [path.parent / p for p in sorted(places) if (path.parent / p).is_file()]
    return "-".join([cache.file_digest(path), *(cache.file_digest(p) for p in inside)])


def deliver(
    ready: Prepared,
    toolchain: Toolchain,
    result: CompileResult,
    run: AtcRun,
    key: str | None,
    options: AtcOptions,
) -> None:
    """Copy the files of a good run to their places, keep them in the cache, write the manifest."""
    output = ready.job.output
    result.seconds = run.outcome.seconds
    record = {
        "result": {**result.as_dict(), "attention": result.attention},
        "atc_name": run.om.name,
        "options": options.values(),
        "extra": [p.name for p in run.extra_files],
    }
    for path in run.extra_files:
        runfolder.place_any(path, output.parent / path.name)
    runfolder.place(run.om, output)
    if key is not None:
        cache.store(key, run.om, run.extra_files, record)
    result.output = output
    result.manifest = write_manifest(ready.job, toolchain, result, record)


def from_cache(
    ready: Prepared, toolchain: Toolchain, hit: cache.Hit, begin: float, folder: Path
) -> CompileResult:
    """Finish a job from a cached compile; the unused run folder goes away."""
    old, job = hit.record["result"], ready.job
    for path in hit.extra:
        runfolder.place_any(path, job.output.parent / path.name)
    runfolder.place(hit.om, job.output)
    shutil.rmtree(folder, ignore_errors=True)
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
        info=old["om"],
    )
    result.manifest = write_manifest(job, toolchain, result, hit.record)
    return result


def write_manifest(
    job: Job, toolchain: Toolchain, result: CompileResult, record: Mapping[str, Any]
) -> Path:
    """Write ``<name>.manifest.json`` beside the .om and return its path."""
    path = job.output.with_name(f"{job.output.stem}.manifest.json")
    document = {
        "schema": "omfuse.manifest/1",
        "omfuse": __version__,
        "device": result.device,
        "simulated": result.device == "sim",
        "soc": result.soc,
        "cann": {"version": toolchain.version, "inner": toolchain.inner_version},
        "model": {
            "name": job.model.name,
            "bytes": job.model.stat().st_size,
            "sha256": cache.file_digest(job.model),
        },
        "om": {
            "name": job.output.name,
            "bytes": job.output.stat().st_size,
            "sha256": cache.file_digest(job.output),
            "atc_name": record["atc_name"],
            "beside": record["extra"],
        },
        "shape": {"asked": list(job.shape), "kind": result.shape_kind},
        "precision": job.precision,
        "attention": {"choice": job.attention, "nodes": result.attention},
        "options": record["options"],
        "command": result.command,
        "notes": result.notes,
        "warnings": result.warnings,
    }
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as sink:
        json.dump(document, sink, indent=1, default=str)
        sink.write("\n")
    Path(sink.name).chmod(0o644)
    Path(sink.name).replace(path)
    return path
