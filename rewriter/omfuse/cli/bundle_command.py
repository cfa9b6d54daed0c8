"""``omfuse bundle``: everything that a board without network needs, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from omfuse.cli import console


def command(
    model: Annotated[Path, typer.Argument(help="The exported .onnx file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder, or a .tar.gz or .tar.zst file.")
    ],
    soc: Annotated[
        list[str] | None, typer.Option(help="Chip, such as Ascend310P3; repeat it for several.")
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
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a sample; 0, 1 and 2.")] = None,
    python: Annotated[
        list[str] | None, typer.Option(help="Python of the board, such as 3.10; repeat it.")
    ] = None,
    wheels: Annotated[bool, typer.Option(help="Bring numpy for aarch64 and x86-64.")] = True,
    config: Annotated[
        Path | None, typer.Option(help="Project file instead of the nearest omfuse.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Pack MODEL, fused and ready for ATC, with the operator, samples and a run script.

    Example: omfuse bundle bert.onnx -o bert.tar.gz --soc Ascend310P3 --shape batch=1
    """
    from omfuse.atc.layers import make_jobs
    from omfuse.bundle.build import PYTHONS, make_bundle

    given: dict[str, Any] = {"soc": soc, "shape": shape, "precision": precision}
    given |= {"attention": attention}
    jobs = make_jobs(model, Path("{soc}.om"), given, {"dry_run": False}, config=config)
    with console.progress(f"packing {model.name}"):
        made = make_bundle(
            model,
            output,
            jobs,
            seeds=seed or (0, 1, 2),
            pythons=(python or PYTHONS) if wheels else (),
            tell=console.print_line,
        )
    if as_json:
        console.print_json({"schema": "omfuse.bundle/1", "model": str(model), **made.as_dict()})
    else:
        console.print_result(
            f"wrote {made.path}   {made.size / 1e6:.1f} MB   {', '.join(made.socs)}   "
            f"{made.attention} FlashAttention   {made.samples} samples   {made.wheels} wheels"
        )
        console.print_result("on the board: ./run.sh")
