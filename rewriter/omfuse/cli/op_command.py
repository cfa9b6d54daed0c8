"""``omfuse op``: the Ascend C operator: build, install, check, test, estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omfuse.cli import console

app = typer.Typer(
    help="Build, install, check, test and estimate the Ascend C operator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Cann = Annotated[Path | None, typer.Option(help="CANN folder instead of searching.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def build(
    soc: Annotated[
        list[str] | None, typer.Option(help="Chip, such as Ascend910B3; repeat it. All if absent.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the .run file.")
    ] = Path("."),
    cann: _Cann = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that it may take.")] = 3600.0,
    json: _Json = False,
) -> None:
    """Build the operator package with the CANN of this machine; exit 4 when there is none."""
    from omfuse.ops.package import build_package

    with console.progress("building the operator package"):
        built = build_package(soc or [], output, cann, timeout)
    if json:
        console.print_json(
            {
                "schema": "omfuse.op-build/1",
                "package": str(built.package),
                "preset": built.preset,
                "cann": str(built.toolchain.home),
                "cann_version": built.toolchain.version,
                "seconds": built.seconds,
                "log": str(built.log),
            }
        )
    else:
        console.print_result(f"built {built.package} ({built.preset}) in {built.seconds:.0f} s")
        console.print_result(f"next: omfuse op install {built.package}")


@app.command()
def install(
    package: Annotated[Path, typer.Argument(help="A .run file, or a vendor folder.")],
    path: Annotated[
        Path | None, typer.Option(help="Install below this folder, not into CANN's opp.")
    ] = None,
    cann: _Cann = None,
    json: _Json = False,
) -> None:
    """Install an operator package where ATC finds it."""
    from omfuse.ops.install import install_package

    with console.progress("installing"):
        installed = install_package(package, path, cann)
    if json:
        console.print_json(
            {
                "schema": "omfuse.op-install/1",
                "root": str(installed.root),
                "environment": str(installed.environment) if installed.environment else None,
            }
        )
        return
    console.print_result(f"installed {installed.root}")
    if installed.environment:
        console.print_result(f"before atc: source {installed.environment}")


@app.command()
def check(
    soc: Annotated[str, typer.Option(help="Chip, such as Ascend910B3.")],
    path: Annotated[
        Path | None, typer.Option(help="Where it was installed; else ATC's own places.")
    ] = None,
    cann: _Cann = None,
    json: _Json = False,
) -> int:
    """Look at an installed package as ATC will; exit 1 when something is missing."""
    from omfuse.ops.check import check_package

    with console.progress("looking at the package"):
        findings = check_package(soc, path, cann)
    broken = sum(not finding.ok for finding in findings)
    if json:
        console.print_json(
            {
                "schema": "omfuse.op-check/1",
                "soc": soc,
                "ok": not broken,
                "findings": [finding.as_dict() for finding in findings],
            }
        )
    else:
        for finding in findings:
            console.print_result(
                f"{'ok' if finding.ok else 'FAIL':<5} {finding.part:<12} {finding.text}"
            )
            if finding.fix:
                console.print_result(f"      {'':<12} fix: {finding.fix}")
        console.print_result("the package is ready" if not broken else f"{broken} broken")
    return int(broken > 0)
