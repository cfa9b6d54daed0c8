"""``omfuse explain``: what each softmax was understood to be, or why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omfuse.cli import console
from omfuse.errors import UsageError

if TYPE_CHECKING:
    from omfuse.match.report import Record


def command(
    model: Annotated[Path, typer.Argument(help="The .onnx file to look at.")],
    node: Annotated[
        str | None, typer.Argument(help="Name, or end of the name, of one softmax node.")
    ] = None,
    missed: Annotated[
        bool, typer.Option("--missed", help="Only the softmaxes that are not fused.")
    ] = False,
    patterns: Annotated[
        list[Path] | None, typer.Option(help="A Python file with further lift rules; repeat it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Print the normal form of each attention of MODEL, or the reason why it is not fused.

    Example: omfuse explain bert.onnx --missed
    """
    import omfuse

    with console.progress(f"reading {model.name}"):
        result = omfuse.rewrite(model, patterns=patterns or ())
    records = [
        r for r in (*result.records, *result.lowered) if node is None or r.node.endswith(node)
    ]
    if node is not None and not records:
        known = ", ".join(r.node for r in result.records[:5]) or "none"
        raise UsageError(
            "no-such-node", f"no softmax called {node!r}", str(model), f"there are: {known}"
        )
    if missed:
        records = [r for r in records if r.status != "fused"]
    if as_json:
        console.print_json(
            {
                "schema": "omfuse.explain/1",
                "input": str(model),
                "softmaxes": [record.as_dict() for record in records],
            }
        )
        return 0
    if not records:
        console.print_result("every softmax is fused" if result.records else "no softmax found")
    for record in records:
        _show(record)
    return 0


def _show(record: Record) -> None:
    console.print_result(f"{record.status:<13} {record.node}")
    if record.normal_form:
        console.print_result(f"  {record.normal_form}")
    if record.saved_nodes is not None:
        traffic = f", {_bytes(record.saved_bytes)}" if record.saved_bytes is not None else ""
        console.print_result(f"  saves {record.saved_nodes} nodes{traffic}")
    if record.reason:
        console.print_result(f"  why:  {record.reason} [{record.code}]")
    if record.last_node:
        console.print_result(f"  at:   {record.last_node}")
    if record.hint:
        console.print_result(f"  hint: {record.hint}")


def _bytes(saved: int | str | None) -> str:
    """Say how many bytes a run no longer go to memory and back."""
    if isinstance(saved, int):
        return f"{saved / 2**20:.2f} MiB of memory traffic a run"
    return f"{saved} bytes of memory traffic a run"
