"""``omfuse pipeline``: rewrite, compile and compare in one go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omfuse.cli import console

if TYPE_CHECKING:
    from omfuse.pipeline import PipelineResult


def command(
    model: Annotated[
        Path | None, typer.Argument(help="The exported .onnx; else [pipeline] model.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for all results.")
    ] = None,
    soc: Annotated[
        list[str] | None, typer.Option(help="Chip, such as Ascend310P3; repeat it for several.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="ascend (default), or sim for the simulated toolchain.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="As in `omfuse compile`, such as batch=1,4,8.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="As in `omfuse compile`, such as fp16 or mixed.")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="custom (default), prompt-flash or score.")
    ] = None,
    require: Annotated[
        str | None, typer.Option(help="Fail (exit 1) when fewer than N, or not all, are fused.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of generated inputs.")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="SYMBOL=SIZE for generated inputs.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Project file instead of the nearest omfuse.toml.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Rewrite MODEL, compile it for each chip, compare every result with the original.

    Example: omfuse pipeline bert.onnx --soc Ascend310P3 --shape batch=1 --device sim
    """
    from omfuse.host.feeding import read_sizes
    from omfuse.pipeline.run import run_pipeline
    from omfuse.pipeline.settings import read_settings

    given: dict[str, Any] = {"soc": soc, "shape": shape, "precision": precision}
    given |= {"attention": attention, "cache": not fresh}
    settings = read_settings(
        model,
        output,
        device,
        require,
        given,
        {"dry_run": False},
        config,
        seeds=seed or (),
        dims=read_sizes(dim or [], "--dim"),
        resume=not fresh,
    )
    with console.progress(f"pipeline of {settings.model.name}"):
        result = run_pipeline(settings, console.print_line)
    if as_json:
        console.print_json(result.as_dict())
    else:
        _show(result)
    return result.exit_code


def _show(result: PipelineResult) -> None:
    rewritten = result.rewrite
    attention = rewritten["fused"] + rewritten["declined"]
    console.print_result(
        f"fused {rewritten['fused']} of {attention} attention blocks   "
        f"nodes {rewritten['nodes_before']} -> {rewritten['nodes_after']}"
    )
    console.print_result(f"in onnxruntime: {result.host['verdict']}")
    simulated = "simulated " if result.settings.device == "sim" else ""
    for target in result.targets:
        if target.error is not None:
            error = target.error
            console.print_result(f"{target.soc}: {error['message']} [{error['code']}]")
            if error.get("hint"):
                console.print_result(f"  fix: {error['hint']}")
        if target.compile is not None:
            verdict = target.diff["verdict"] if target.diff else "not compared"
            console.print_result(
                f"{simulated}{target.soc}: {verdict}   {target.compile['attention']} "
                f"FlashAttention   {target.compile['output']}"
            )
    if not result.required:
        console.print_result(f"required {result.settings.require} fused blocks")
    if result.reused:
        console.print_line(f"unchanged, taken over: {', '.join(result.reused)}")
    console.print_result(f"report {result.page}")
