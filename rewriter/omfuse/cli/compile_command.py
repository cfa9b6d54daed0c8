"""``omfuse compile``: ONNX to .om through ATC, one or several chips and shapes at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omfuse.cli import console
from omfuse.errors import OmfuseError

if TYPE_CHECKING:
    from omfuse.atc.job import CompileResult, Job, Progress

_HEARTBEAT_SECONDS = 30.0
_SCHEMA = "omfuse.compile/1"


def command(
    model: Annotated[Path, typer.Argument(help="An .onnx file, usually from `omfuse rewrite`.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .om to write; {soc} and {variant} may stand in."),
    ] = None,
    soc: Annotated[
        list[str] | None, typer.Option(help="Chip, such as Ascend310P3; repeat it for several.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=1,128 an input; batch=1,4,8 gears of a dim; 'seq=1~512' a range; "
            "'batch,seq=1,64;4,128' gears in step."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="'NAME: batch=1 seq=128' one more .om with these shapes; repeat it."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 (default), protected, mixed, cube, bf16 or origin.")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="custom (default), prompt-flash or score.")
    ] = None,
    opset: Annotated[
        str | None, typer.Option(help="Lower to this opset, or `keep`; by default 17 if possible.")
    ] = None,
    mask_fill: Annotated[
        str | None,
        typer.Option(help="Value for masks beyond fp16 (default -10000), or `keep`."),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="FLAG=VALUE for any other ATC flag.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="An existing atc command whose flags to take over.")
    ] = None,
    keep_domain: Annotated[
        list[str] | None, typer.Option(help="Foreign domain that you have a parser plug-in for.")
    ] = None,
    device: Annotated[str, typer.Option(help="ascend, or sim for the simulated ATC.")] = "ascend",
    cann: Annotated[Path | None, typer.Option(help="CANN folder instead of searching.")] = None,
    op_path: Annotated[
        list[Path] | None, typer.Option(help="Operator package (a vendors/<name> folder).")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds after which ATC is ended.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=32, help="Operators that ATC compiles at once.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="ATC runs at once.")] = 1,
    log_dir: Annotated[Path | None, typer.Option(help="Where run folders with logs go.")] = None,
    cache: Annotated[bool, typer.Option(help="Reuse a result of the same content.")] = True,
    config: Annotated[
        Path | None, typer.Option(help="Project file instead of the nearest omfuse.toml.")
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Start ATC even when a rule is broken.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prepare all, print the ATC command, stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile MODEL into an offline .om model.

    Example: omfuse compile fused.onnx -o model.om --soc Ascend310P3 --shape batch=1,4,8
    """
    given = {
        "soc": soc,
        "shape": shape,
        "precision": precision,
        "attention": attention,
        "opset": opset,
        "mask_fill": mask_fill,
        "set": setting,
        "timeout": timeout,
        "cache": cache,
    }
    fixed = {
        "device": device,
        "cann": cann,
        "op_paths": tuple(op_path or ()),
        "parallel": parallel,
        "log_dir": log_dir,
        "keep_domains": tuple(keep_domain or ()),
        "checked": not unchecked,
        "dry_run": dry_run,
    }
    try:
        asked, results = _compile(model, output, given, fixed, variant or [], like, config, jobs)
    except OmfuseError as error:
        if json:
            empty = {"schema": _SCHEMA, "model": str(model), "results": [], "failed": 1}
            console.print_json({**empty, "error": error.as_dict()})
        raise
    failures = [r for r in results if isinstance(r, OmfuseError)]
    if json:
        listed = [_entry(job, result) for job, result in zip(asked, results, strict=True)]
        document: dict[str, Any] = {"schema": _SCHEMA, "model": str(model)}
        document |= {"results": listed, "failed": len(failures)}
        if len(results) == 1:
            document |= {k: v for k, v in listed[0].items() if k not in ("target", "shape")}
        console.print_json(document)
    for job, result in zip(asked, results, strict=True):
        if isinstance(result, OmfuseError):
            for warning in getattr(result, "warnings", ()):
                console.print_line(f"warning: {warning}")
            if len(results) > 1:
                console.print_line(f"{job.output} for {job.soc} failed:")
                console.print_error(result)
        elif not json:
            _show(result)
    if failures:
        if len(results) == 1:
            raise failures[0]
        raise typer.Exit(max(f.exit_code for f in failures))


def _compile(
    model: Path,
    output: Path | None,
    given: dict[str, Any],
    fixed: dict[str, Any],
    variants: Sequence[str],
    like: str | None,
    config: Path | None,
    workers: int,
) -> tuple[list[Job], list[CompileResult | OmfuseError]]:
    from omfuse.atc.compile import run_jobs
    from omfuse.atc.layers import make_jobs

    jobs = make_jobs(model, output, given, fixed, variants, like, config)
    if len(jobs) > 1 and workers > 1 and fixed["parallel"] is None:
        share = max(1, (os.cpu_count() or 1) // workers)
        jobs = [replace(job, parallel=share) for job in jobs]
    with _progress(len(jobs)) as progress:
        return jobs, run_jobs(jobs, workers, progress)


def _entry(job: Job, result: CompileResult | OmfuseError) -> dict[str, Any]:
    """Return the JSON form of one compile; a failed one says which it was."""
    if not isinstance(result, OmfuseError):
        return result.as_dict()
    target = {"target": str(job.output), "soc": job.soc, "shape": list(job.shape)}
    return {**target, "error": result.as_dict()}


@contextmanager
def _progress(count: int) -> Iterator[Progress]:
    """Show stage, elapsed time and ATC's last line: live on a terminal, now and then in a log."""
    from omfuse.atc.job import Progress

    if not sys.stderr.isatty():
        last: dict[str, float] = {}

        def beat(job: Job, tick: Any) -> None:
            if tick.seconds - last.get(str(job.output), 0.0) >= _HEARTBEAT_SECONDS:
                last[str(job.output)] = tick.seconds
                text = f"{job.output.name}: ATC {tick.seconds:.0f} s  {tick.last_line[:120]}"
                console.print_line(text)

        yield Progress(tick=beat)
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def stage(job: Job, text: str) -> None:
            name = str(job.output)
            if name not in tasks:
                tasks[name] = bars.add_task("")
            bars.update(tasks[name], description=f"{job.output.name}  {text}")

        def tick(job: Job, now: Any) -> None:
            text = f"ATC  {now.last_line[:80]}"
            bars.update(tasks[str(job.output)], description=f"{job.output.name}  {text}")

        yield Progress(stage, tick)


def _show(result: CompileResult) -> None:
    for note in result.notes:
        console.print_line(f"note: {note}")
    for warning in result.warnings:
        console.print_line(f"warning: {warning}")
    if result.output is None:
        console.print_result(result.command)
        return
    size = result.output.stat().st_size / 1e6
    how = "from the cache" if result.cached else f"{result.seconds:.1f} s"
    kind = "simulated " if result.device == "sim" else ""
    console.print_result(
        f"wrote {result.output}   {kind}{result.soc}   {size:.1f} MB   "
        f"{len(result.attention)} FlashAttention   {how}"
    )
    console.print_line(f"manifest {result.manifest}")
    if result.run_folder is not None:
        console.print_line(f"logs {result.run_folder}")
