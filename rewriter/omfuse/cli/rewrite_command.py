"""``omfuse rewrite``: fuse every attention of a model, and prove it on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omfuse.cli import console
from omfuse.errors import UsageError

if TYPE_CHECKING:
    from omfuse.api import RewriteResult
    from omfuse.diff import DiffReport


def command(
    model: Annotated[Path, typer.Argument(help="The .onnx file to rewrite.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the fused model.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run both models in onnxruntime and compare.")
    ] = False,
    require: Annotated[
        str | None, typer.Option(help="Fail (exit 1) when fewer than N, or not all, are fused.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Fuse only this softmax node; repeat it.")
    ] = None,
    patterns: Annotated[
        list[Path] | None, typer.Option(help="A Python file with further lift rules; repeat it.")
    ] = None,
    soc: Annotated[
        str | None, typer.Option(help="Leave blocks alone that would not pay on this SoC.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --soc: fuse these blocks too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would be fused; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Replace every attention of MODEL by one FlashAttention node.

    Example: omfuse rewrite bert.onnx -o fused.onnx --verify
    """
    import omfuse
    from omfuse import api

    if output is None and not dry_run:
        raise UsageError(
            "no-output", "no output file given", hint="add -o FUSED.onnx, or --dry-run"
        )
    needed = _needed(require)
    with console.progress(f"rewriting {model.name}"):
        result = omfuse.rewrite(
            model, only=only or (), patterns=patterns or (), soc=soc, force=force
        )
    report = None
    if verify and result.changed:
        with console.progress("running both models in onnxruntime"):
            report = _verify(model, result)
    met = _meets(result, needed)
    wrong = report is not None and report.verdict != "pass"
    written = output is not None and not dry_run and not wrong
    if written:
        assert output is not None
        api.save(result, model, output)
    document: dict[str, Any] = {
        "schema": "omfuse.rewrite/1",
        "input": str(model),
        "output": str(output) if written else None,
        **result.as_dict(),
    }
    if verify:
        document["verify"] = None if report is None else report.as_dict()
    if as_json:
        console.print_json(document)
    else:
        _show(model, output if written else None, result, report, verify)
    if not met:
        console.print_line(f"required {require}, fused {result.fused}")
    if wrong:
        console.print_line("the rewritten model differs from the original; nothing was written")
    return 0 if met and not wrong else 1


def _needed(require: str | None) -> int | None:
    if require is None:
        return None
    if require == "all":
        return -1
    if not require.isdigit():
        raise UsageError("bad-require", f"--require {require}", hint="use a number or `all`")
    return int(require)


def _meets(result: RewriteResult, needed: int | None) -> bool:
    if needed is None:
        return True
    ready = result.fused + sum(record.status == "fused" for record in result.lowered)
    if needed < 0:
        left = sum(record.status != "fused" for record in result.lowered)
        return ready > 0 and result.declined + left == 0
    return ready >= needed


def _verify(model: Path, result: RewriteResult) -> DiffReport:
    from omfuse.diff import diff

    return diff(model, result.model, session_options={"base_dir": model}, cache=False)


def _show(
    model: Path,
    output: Path | None,
    result: RewriteResult,
    report: DiffReport | None,
    verify: bool,
) -> None:
    attention = result.fused + result.declined
    if result.lowered:
        done = sum(record.status == "fused" for record in result.lowered)
        console.print_result(f"lowered {done} of {len(result.lowered)} attention operators")
    elif not attention:
        console.print_result(f"no attention found in {model.name}")
    if attention:
        console.print_result(
            f"fused {result.fused} of {attention} attention blocks"
            f"   nodes {result.nodes_before} -> {result.nodes_after}   {result.seconds:.2f} s"
        )
    for record in (*result.records, *result.lowered):
        if record.status == "declined":
            console.print_result(f"  left {record.node}: {record.reason} [{record.code}]")
            if record.hint:
                console.print_result(f"    hint: {record.hint}")
    if report is not None:
        worst = max(report.outputs, key=lambda o: o.ratio, default=None)
        error = ""
        if worst is not None and worst.distance is not None:
            error = f"   worst {worst.name}: max abs error {worst.distance.max_abs:.2e}"
        console.print_result(
            f"verified in onnxruntime: {report.verdict}   seeds {len(report.seeds)}{error}"
        )
    elif verify:
        console.print_result("nothing was changed, so there is nothing to verify")
    if output is not None:
        console.print_result(f"wrote {output}")
