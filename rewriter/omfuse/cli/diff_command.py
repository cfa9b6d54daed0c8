"""``omfuse diff``: does B compute the same as A, and if not, which block is wrong."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omfuse.cli import console
from omfuse.errors import UsageError

if TYPE_CHECKING:
    from omfuse.diff.report import DiffReport
    from omfuse.diff.verdict import Override
    from omfuse.session_protocol import Array


def command(
    a: Annotated[str, typer.Argument(help="The original: .onnx, or saved outputs .npz.")],
    b: Annotated[str, typer.Argument(help="The judged side: .onnx, .om or .npz.")],
    given: Annotated[
        list[str] | None,
        typer.Option("--inputs", help="FILE.npz, a folder of .npy, or NAME=FILE.npy; repeat it."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed of generated inputs; 0, 1 and 2.")
    ] = None,
    dim: Annotated[
        list[str] | None, typer.Option("--dim", help="SYMBOL=SIZE for generated inputs.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="What B is held to: auto, fp32, fp16 or bf16.")
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="Device of an .om: sim or ascend.")] = None,
    atol: Annotated[
        list[str] | None, typer.Option(help="[OUTPUT=]VALUE instead of the budget.")
    ] = None,
    rtol: Annotated[
        list[str] | None, typer.Option(help="[OUTPUT=]VALUE instead of the budget.")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="[OUTPUT=]FACTOR on the limits of the budget.")
    ] = None,
    dead_rows: Annotated[
        str, typer.Option(help="Rows without any key: report, strict or zero.")
    ] = "report",
    blocks: Annotated[
        bool,
        typer.Option("--blocks/--no-blocks", help="Check each differing block alone."),
    ] = True,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Switch rewrites on one by one to find the culprit.")
    ] = False,
    reduce: Annotated[
        Path | None, typer.Option(help="Folder for the smallest failing sub-model.")
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Compare every tensor both graphs name.")
    ] = False,
    save_inputs: Annotated[
        Path | None, typer.Option(help="Write the inputs of the worst case, .npz.")
    ] = None,
    save_outputs: Annotated[
        Path | None, typer.Option(help="Write B's outputs of the worst case, .npz.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with pictures.")] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Survive a crash of onnxruntime.")
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run the golden again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare B with A on the same inputs; exit 1 when B is not within its error budget.

    Example: omfuse diff bert.onnx fused.om --device sim --html report.html
    """
    from omfuse.diff import diff
    from omfuse.diff.files import read_inputs, write_arrays
    from omfuse.host.feeding import read_sizes

    if html is not None:
        from omfuse.diff.html import require_plotting

        require_plotting()
    feeds: dict[str, Array] | None = read_inputs(given) if given else None
    with console.progress(f"comparing {b} with {a}"):
        report = diff(
            a,
            b,
            inputs=feeds,
            seeds=seed or (0, 1, 2),
            dims=read_sizes(dim or [], "--dim"),
            precision=precision,
            device=device,
            overrides=_overrides(atol or [], rtol or [], budget or []),
            dead_rows=dead_rows,
            localise=blocks,
            bisect=bisect,
            reduce=reduce,
            tensors=tensors,
            isolated=True if isolated else None,
            cache=not no_cache,
            replay=_replay(sys.argv[1:]) if len(sys.argv) > 2 and a in sys.argv else None,
        )
    case = report.worst_case()
    if save_inputs is not None:
        write_arrays(save_inputs, case.feeds)
    if save_outputs is not None:
        write_arrays(save_outputs, case.outputs)
    if html is not None:
        from omfuse.diff.html import write

        write(report, html)
    if json:
        console.print_json(report.as_dict())
    else:
        _print(report)
        if html is not None:
            console.print_result(f"wrote {html}")
    if not report.passed:
        raise typer.Exit(1)


def _replay(arguments: Sequence[str]) -> str:
    return shlex.join(["omfuse", *arguments])


def _overrides(
    atol: Sequence[str], rtol: Sequence[str], budget: Sequence[str]
) -> dict[str, Override]:
    """Read ``VALUE`` and ``OUTPUT=VALUE``.

    Raises:
        UsageError: ``bad-option`` for what is not a non-negative number.
    """
    from omfuse.diff.verdict import Override

    found: dict[str, dict[str, Any]] = {}
    for option, texts in (("atol", atol), ("rtol", rtol), ("budget", budget)):
        for text in texts:
            name, _, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not value >= 0:
                raise UsageError(
                    "bad-option",
                    f"--{option} {text} is not a number",
                    hint=f"--{option} 0.01 for all outputs, --{option} NAME=0.01 for one",
                )
            found.setdefault(name or "*", {})[option] = value
    return {name: Override(**values) for name, values in found.items()}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _print(report: DiffReport) -> None:
    columns = ("output", "verdict", "max abs", "rel L2", "worst row", "x limit", "cosine", "needs")
    rows = []
    for o in report.outputs:
        d, needs = o.distance, o.tolerance
        rows.append(
            [
                o.name,
                o.verdict.upper() if o.verdict != "pass" else "pass",
                _number(d.max_abs if d else None),
                _number(d.rel_l2 if d else None),
                _number(d.worst_row if d else None),
                _number(o.ratio),
                f"{d.cosine:.6f}" if d else "-",
                f"--budget {_number(needs['budget'])} or --atol {_number(needs['atol'])}"
                if needs
                else "-",
            ]
        )
    console.print_table(columns, rows)
    for o in report.outputs:
        for reason in o.reasons:
            console.print_result(f"{o.name}: {reason}")
        for warning in o.warnings:
            console.print_result(f"{o.name}: warning: {warning}")
        if o.dead_rows:
            console.print_result(
                f"{o.name}: {o.dead_rows['rows']} rows without any key, policy "
                f"{o.dead_rows['policy']}, largest difference {o.dead_rows['max_abs']:.3g}"
            )
    if report.blocks:
        console.print_table(
            ("block", "tensor", "alone", "x limit", "in the full run", "x limit"),
            [_block_row(block) for block in report.blocks],
        )
    if report.culprits:
        console.print_result(f"wrong: {', '.join(report.culprits)}")
    for note in report.notes:
        console.print_result(f"note: {note}")
    if report.reproducer:
        console.print_result(f"reproduce the block alone: {report.reproducer}")
    simulated = " (simulated)" if report.device == "sim" else ""
    console.print_result(
        f"{report.verdict}: {report.b} on {report.device}{simulated}, held to {report.precision}; "
        f"{len(report.cases)} sets of inputs"
    )
    console.print_result(f"repeat: {report.replay}")


def _block_row(block: Any) -> list[str]:
    alone, full = block.local, block.accumulated
    return [
        block.name,
        block.output,
        alone.verdict if alone else block.problem or "-",
        _number(alone.ratio if alone else None),
        full.verdict if full else "-",
        _number(full.ratio if full else None),
    ]
