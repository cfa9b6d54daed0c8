"""Compile ONNX models into .om: the whole way from a job to a file beside its manifest."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import onnx

from omfuse.atc import cache, op_package, runfolder
from omfuse.atc.deliver import content_key, deliver, from_cache
from omfuse.atc.driver import AtcError, AtcRun, run_atc
from omfuse.atc.environment import Toolchain, child_environment, find_toolchain, platform_names
from omfuse.atc.form.make import AtcForm
from omfuse.atc.inspect_om import describe_om
from omfuse.atc.job import CompileResult, Job, Progress
from omfuse.atc.options.fields import AtcOptions, command_text
from omfuse.atc.prepare import Prepared, check_rules, final_options, form_of, prepare
from omfuse.atc.process import reset_stop, stop_all, termination_is_interrupt
from omfuse.atc.shapes.shape_plan import ShapePlan
from omfuse.errors import NotAvailableError, OmfuseError, UsageError


def compile(  # noqa: A001
    model: str | Path | onnx.ModelProto,
    output: str | Path,
    soc: str,
    *,
    device: str = "ascend",
    shape: Mapping[str, Any] | Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> CompileResult:
    """Compile one ONNX model for one SoC.

    Args:
        model: path, or a model in memory (written to a temporary file).
        output: path of the ``.om``; a manifest goes beside it.
        soc: soc_version such as ``Ascend310P3``.
        device: ``ascend`` or ``sim``.
        shape: ``{"input_ids": (1, 128)}``, ``{"batch": [1, 4, 8]}`` or texts ``NAME=SPEC``.
        settings: further ATC flags, by name.
        more: the other fields of :class:`~omfuse.atc.job.Job`.

    Raises:
        UsageError: bad option, shape, SoC; ``OptionsError`` lists every broken rule of ATC.
        ModelError: the model cannot be compiled.
        NotAvailableError: no CANN, or no FlashAttention package.
        AtcError: ATC failed; it carries ATC's messages and advice.
    """
    texts = shape_texts(shape)
    pairs = tuple((settings or {}).items())
    if isinstance(model, onnx.ModelProto):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            job = Job(path, Path(output), soc, device, texts, settings=pairs, **more)
            return run_job(job)
    return run_job(Job(Path(model), Path(output), soc, device, texts, settings=pairs, **more))


def shape_texts(shape: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Turn shapes given as a mapping into the texts of ``--shape``."""
    if not isinstance(shape, Mapping):
        return tuple(shape)
    found = []
    for name, value in shape.items():
        many = isinstance(value, (list, tuple))
        found.append(f"{name}={','.join(map(str, value)) if many else value}")
    return tuple(found)


def run_jobs(
    jobs: Sequence[Job], workers: int = 1, progress: Progress | None = None
) -> list[CompileResult | OmfuseError]:
    """Run several compiles, ``workers`` at a time; a failure does not stop the others.

    Raises:
        KeyboardInterrupt: after every ATC has ended.
    """
    results: list[CompileResult | OmfuseError | None] = [None] * len(jobs)
    reset_stop()
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    futures = {pool.submit(run_job, job, progress): i for i, job in enumerate(jobs)}
    try:
        with termination_is_interrupt():
            for future in as_completed(futures):
                try:
                    results[futures[future]] = future.result()
                except OmfuseError as error:
                    results[futures[future]] = error
    except BaseException:
        for future in futures:
            future.cancel()
        stop_all()
        raise
    finally:
        pool.shutdown(wait=True)
        reset_stop()
    return [r for r in results if r is not None]


def run_job(job: Job, progress: Progress | None = None) -> CompileResult:
    """Run one compile; see :func:`compile` for the errors."""
    hear, begin = progress or Progress(), time.monotonic()
    hear.stage(job, "checking")
    ready = prepare(job)
    folder = runfolder.make_run_folder(job.model.stem, job.log_dir)
    toolchain = _toolchain(job, folder)
    _check_target(job, ready, toolchain)
    env = child_environment(toolchain, _environment(job), folder, job.op_paths)
    packages = op_package.identify_packages(toolchain, env)
    key = None
    if job.use_cache and not job.dry_run:
        cache.cache_limit()
        key = content_key(ready, toolchain, packages)
        hit = cache.look_up(key)
        if hit is not None:
            return from_cache(ready, toolchain, hit, begin, folder)
    hear.stage(job, "preparing the model")
    form = form_of(ready)
    options = final_options(ready, form, folder)
    check_rules(ready, options, toolchain, form)
    command = command_text(str(toolchain.atc), options.to_argv(), _op_env(env))
    notes = [*ready.notes, *form.notes]
    warnings = [*ready.warnings, *form.warnings]
    if form.attention and job.attention == "custom" and toolchain.device == "ascend":
        _check_package(ready, form, toolchain, env)
    if job.dry_run:
        result = _result(ready, toolchain, command, form, notes, warnings, begin)
        result.run_folder = folder
        return result
    hear.stage(job, "ATC")
    run = _run(ready, toolchain, options, folder, env, form, hear)
    warnings += [f"{m.code}: {m.text}" for m in run.messages if m.warning]
    if toolchain.device == "ascend" and run.info.get("simulated"):
        warnings.append(f"{toolchain.atc} is the simulated ATC: this .om runs on no chip")
    notes += [f"ATC pass {f.name}: matched {f.matched}, applied {f.applied}" for f in run.fusions]
    result = _result(ready, toolchain, command, form, notes, warnings, begin)
    result.info, result.run_folder = {**run.info, "path": str(job.output)}, folder
    hear.stage(job, "writing")
    deliver(ready, toolchain, result, run, key, options, packages)
    runfolder.drop_bulk(folder)
    result.seconds = time.monotonic() - begin
    return result


def _toolchain(job: Job, folder: Path) -> Toolchain:
    try:
        return find_toolchain(job.device, job.cann, folder)
    except NotAvailableError:
        if job.dry_run and job.device == "ascend":
            return Toolchain("ascend", Path("atc"), None)
        runfolder.drop_bulk(folder)
        folder.rmdir()
        raise


def _check_target(job: Job, ready: Prepared, toolchain: Toolchain) -> None:
    known = platform_names(toolchain)
    if job.checked and known and ready.soc.name not in known:
        near = sorted(n for n in known if n.startswith(ready.soc.family)) or sorted(known)
        raise UsageError(
            "soc-not-installed",
            f"this CANN has no platform file for {ready.soc.name} (ATC E20101)",
            where=str(toolchain.home),
            hint=f"it knows {', '.join(near[:8])}; from CANN 8.5 the ops package of the chip is "
            "installed separately",
        )


def _environment(job: Job) -> dict[str, str]:
    env = dict(os.environ)
    if job.parallel:
        env["TE_PARALLEL_COMPILER"] = env["MAX_COMPILE_CORE_NUMBER"] = str(job.parallel)
    return env


def _op_env(env: Mapping[str, str]) -> dict[str, str]:
    name = "ASCEND_CUSTOM_OPP_PATH"
    return {name: env[name]} if env.get(name) else {}


def _check_package(
    ready: Prepared, form: AtcForm, toolchain: Toolchain, env: Mapping[str, str]
) -> None:
    check = op_package.check_flash_attention(toolchain, env, ready.soc, form.opset)
    if check.ok or not ready.job.checked:
        return
    if ready.job.dry_run or toolchain.home is None:
        ready.warnings += [f"{what}; {fix}" for what, fix in check.problems]
        return
    what = "; ".join(text for text, _ in check.problems)
    raise NotAvailableError(
        "op-not-installed",
        f"FlashAttention is not ready for {ready.soc.name}: {what}",
        where=str(check.package.root) if check.package else None,
        hint="; ".join(dict.fromkeys(fix for _, fix in check.problems)),
    )


def _run(
    ready: Prepared,
    toolchain: Toolchain,
    options: AtcOptions,
    folder: Path,
    env: Mapping[str, str],
    form: AtcForm,
    hear: Progress,
) -> AtcRun:
    job = ready.job
    try:
        return run_atc(
            toolchain,
            options,
            folder,
            env,
            timeout=job.timeout,
            on_tick=lambda tick: hear.tick(job, tick),
            opset=form.opset,
            verify=describe_om,
        )
    except AtcError as error:
        _add_gear_advice(error, ready.plan)
        raise


def _add_gear_advice(error: AtcError, plan: ShapePlan) -> None:
    """Name the static shapes to try when an operator failed and gears may be the reason."""
    if not plan.gears or error.code not in ("atc-e20001", "atc-e40021", "atc-e14001"):
        return
    lines = [
        " ".join(f"--shape '{n}={','.join(map(str, s))}'" for n, s in gear.items() if s)
        for gear in plan.gears[:8]
    ]
    error.hint = f"{error.hint}\n  find the bad gear by compiling each alone:" + "".join(
        f"\n    {line}" for line in lines
    )


def _result(
    ready: Prepared,
    toolchain: Toolchain,
    command: str,
    form: AtcForm,
    notes: Iterable[str],
    warnings: Iterable[str],
    begin: float,
) -> CompileResult:
    return CompileResult(
        output=None,
        soc=ready.soc.name,
        device=toolchain.device,
        command=command,
        seconds=time.monotonic() - begin,
        attention=form.attention,
        shape_kind=ready.plan.kind,
        notes=list(dict.fromkeys(notes)),
        warnings=list(dict.fromkeys(warnings)),
        cann=toolchain.version,
    )
