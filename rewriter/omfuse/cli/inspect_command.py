"""``omfuse inspect``: what is in a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from omfuse.cli import console


def command(
    model: Annotated[Path, typer.Argument(help="An .onnx or .om file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show inputs, outputs, opsets, size and the attention blocks of MODEL.

    Of an .om also gears, chip, CANN version, ATC command, and each FlashAttention with its kernel.

    Example: omfuse inspect bert.onnx
    """
    from omfuse.inspection import inspect

    with console.progress(f"reading {model.name}"):
        found = inspect(model)
    if as_json:
        console.print_json(found)
        return 0
    if found["kind"] == "om":
        from omfuse.cli.om_view import show

        show(found)
        return 0
    opsets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
    console.print_result(
        f"{model.name}   {found['bytes'] / 1e6:.1f} MB   {found['nodes']} nodes   {opsets}"
        f"   {found['producer']}"
    )
    for side in ("inputs", "outputs"):
        for value in found[side]:
            console.print_result(f"  {side[:-1]:<7} {_text(value)}")
    if found["attention"]:
        columns = ("attention", "heads", "query", "key", "scale", "bias", "mask")
        console.print_table(columns, [_row(block) for block in found["attention"]])
    else:
        console.print_result("no attention found")
    for record in found["not_fused"]:
        console.print_result(f"{record['status']}: {record['node']}: {record['reason']}")
    return 0


def _text(value: dict[str, Any]) -> str:
    return f"{value['name']}  {value['dtype']} [{', '.join(map(str, value['shape']))}]"


def _row(block: dict[str, Any]) -> list[Any]:
    heads = str(block["heads"])
    if block["kv_heads"] != block["heads"]:
        heads += f" / {block['kv_heads']}"
    return [
        block["node"],
        heads,
        block["query"],
        block["key"],
        f"{block['scale']:.6g}",
        "yes" if block["bias"] else "",
        "yes" if block["mask"] else "",
    ]
