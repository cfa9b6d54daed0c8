"""Compile ONNX models into .om: the whole way from a job to a file beside its manifest."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import onnx

from omfuse.atc import cache, op_package, preflight, runfolder
from omfuse.atc.deliver import content_key, deliver, from_cache
from omfuse.atc.driver import AtcError, AtcRun, run_atc
from omfuse.atc.environment import Toolchain, child_environment, find_toolchain
from omfuse.atc.form.make import AtcForm
from omfuse.atc.job import CompileResult, Job, Progress
from omfuse.atc.om.summary import describe_om
from omfuse.atc.options.fields import AtcOptions, command_text
from omfuse.atc.prepare import Prepared, check_rules, final_options, form_of, prepare
from omfuse.atc.process import reset_stop, stop_all, termination_is_interrupt
from omfuse.atc.shapes.shape_plan import ShapePlan
from omfuse.errors import NotAvailableError, OmfuseError, OutputError

# Families of codes that speak of one operator: compile, tiling, shapes, parameters.
_OPERATOR_CODES = tuple(
    f"atc-{code}"
    for code in ("e14001", "e20001", "e22001", "e4002", "e5", "e6", "e8", "e9", "eb", "ez")
)


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
    try:
        return _run_job(job, progress)
    except OSError as error:
        raise OutputError(
            "no-work-space",
            f"cannot write the working files of the compile: {error.strerror}",
            where=str(error.filename) if error.filename else None,
            hint="free space there, or name another folder with --log-dir",
        ) from error


def _run_job(job: Job, progress: Progress | None) -> CompileResult:
    hear, begin = progress or Progress(), time.monotonic()
    hear.stage(job, "checking")
    ready = prepare(job)
    folder = runfolder.make_run_folder(job.model.stem, job.log_dir)
    with contextlib.ExitStack() as tidy:
        # Until ATC has something to say there, the folder is of no use to anybody.
        tidy.callback(shutil.rmtree, folder, ignore_errors=True)
        toolchain = _toolchain(job, folder)
        preflight.check_target(ready, toolchain)
        env = child_environment(toolchain, _environment(job), folder, job.op_paths)
        packages = op_package.identify_packages(toolchain, env)
        key = None
        if job.use_cache and not job.dry_run:
            cache.cache_limit()
            key = content_key(ready, toolchain, packages)
            hit = cache.look_up(key)
            if hit is not None:
                return from_cache(ready, toolchain, hit, begin)
        hear.stage(job, "preparing the model")
        form = form_of(ready)
        if form.attention and job.attention == "custom":
            preflight.check_operator(ready, form, toolchain, env)
        options = final_options(ready, form, folder)
        check_rules(ready, options, toolchain, form)
        command = command_text(str(toolchain.atc), options.to_argv(), _shown(env))
        tidy.pop_all()
    notes = [*ready.notes, *form.notes]
    warnings = [*ready.warnings, *form.warnings]
    if job.dry_run:
        result = _result(ready, toolchain, command, form, notes, warnings, begin)
        result.run_folder = folder
        return result
    warnings += preflight.python_warnings(toolchain, env)
    hear.stage(job, "ATC")
    try:
        run = _run(ready, toolchain, options, folder, env, form, hear)
    except AtcError as error:
        preflight.explain_operator(error, ready, form, toolchain, env)
        error.warnings = list(dict.fromkeys(warnings))
        raise
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
        raise


def _environment(job: Job) -> dict[str, str]:
    env = dict(os.environ)
    if job.parallel:
        env["TE_PARALLEL_COMPILER"] = env["MAX_COMPILE_CORE_NUMBER"] = str(job.parallel)
    return env


def _shown(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without which the printed command would do something else."""
    shown = {"ASCEND_CUSTOM_OPP_PATH": env.get("ASCEND_CUSTOM_OPP_PATH", "")}
    if not os.environ.get("ASCEND_OPP_PATH"):
        shown["ASCEND_OPP_PATH"] = env.get("ASCEND_OPP_PATH", "")
    return {name: text for name, text in shown.items() if text}


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
    if not plan.gears or not error.code.startswith(_OPERATOR_CODES):
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
