"""``omfuse op``: the Ascend C operator: build, install, check, test, estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    ] = Path(),
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


@app.command("test")
def run_tests(
    arch: Annotated[
        str, typer.Option(help="Architectures: 910b (also 910_93), 310p; separated by commas.")
    ] = "910b,310p",
    soc: Annotated[
        str | None, typer.Option(help="A chip instead of architectures, such as Ascend310P3.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A short grid, under a minute.")] = False,
    checks: Annotated[
        bool, typer.Option("--checks", help="Look for races, bounds, uninitialised reads (slow).")
    ] = False,
    schedules: Annotated[
        int, typer.Option(min=0, help="Random orders of the pipes to run each case in.")
    ] = 0,
    random: Annotated[
        int, typer.Option(min=0, help="Random cases that mix shapes and features, after the grid.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the values and of random cases.")] = 0,
    json: _Json = False,
) -> int:
    """Run the emulated kernel over a grid of cases; exit 1 when one misses its error budget."""
    from omfuse.ops import verify

    arches = _arches(arch, soc)

    def show(number: int, count: int, result: verify.CaseResult) -> None:
        mark = "ok" if result.ok else f"FAIL {result.problem or f'ratio {result.ratio:.2f}'}"
        console.print_line(f"[{number}/{count}] {result.arch} {result.name}: {mark}")

    with console.progress("building the emulated kernel and running the grid"):
        results = verify.run_grid(arches, quick, seed, checks, schedules, random, show)
    failed = [result for result in results if not result.ok]
    if json:
        console.print_json(
            {
                "schema": "omfuse.op-test/1",
                "emulated": True,
                "arches": arches,
                "cases": len(results),
                "failed": len(failed),
                "seed": seed,
                "results": [result.as_dict() for result in results],
            }
        )
        return int(bool(failed))
    columns = (
        "arch",
        "aspect",
        "worst case",
        "rel l2",
        "unfused",
        "max abs",
        "unfused",
        "of budget",
    )
    rows = [
        [
            row.arch,
            row.aspect,
            row.name,
            f"{row.rel_l2:.2e}",
            f"{row.plain_rel_l2:.2e}",
            f"{row.max_abs:.2e}",
            f"{row.plain_max_abs:.2e}",
            row.problem or f"{row.ratio:.2f}",
        ]
        for row in verify.worst_by_aspect(results)
    ]
    console.print_table(columns, rows)
    what = f"{len(failed)} of {len(results)} failed" if failed else f"all {len(results)} pass"
    console.print_result(f"{what}: the kernel's own source on this CPU, emulated, not a device")
    return int(bool(failed))


def _arches(arch: str, soc: str | None) -> list[str]:
    from omfuse.errors import UsageError
    from omfuse.ops.grid import ARCH_TYPES

    if soc is not None:
        from omfuse.ops.chip import load_chip

        return ["910b" if load_chip(soc).split else "310p"]
    names = [name.strip() for name in arch.split(",") if name.strip()]
    unknown = [name for name in names if name not in ARCH_TYPES]
    if unknown or not names:
        raise UsageError(
            "unknown-arch",
            f"no architecture {', '.join(unknown) or arch!r}",
            where="--arch",
            hint=f"use {' or '.join(ARCH_TYPES)}",
        )
    return list(dict.fromkeys(names))


@app.command()
def estimate(
    soc: Annotated[str, typer.Option(help="Chip, such as Ascend910B3.")],
    shape: Annotated[str, typer.Option(help="B,N,Sq,Skv,D of the attention.")],
    kv_heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of key and value; N if absent.")
    ] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Causal, aligned at the end.")] = False,
    mask: Annotated[
        str, typer.Option(help="none; keys, a mask [B,1,1,Skv]; full, a mask [B,1,Sq,Skv].")
    ] = "none",
    dtype: Annotated[str, typer.Option(help="float16 or bfloat16.")] = "float16",
    inner_precision: Annotated[
        str, typer.Option(help="Scores of our kernel between cores: fp32 or fp16.")
    ] = "fp32",
    json: _Json = False,
) -> None:
    """Estimate the time of one attention, fused and unfused: a model, never a measurement.

    Example: omfuse op estimate --soc Ascend910B3 --shape 1,32,4096,4096,128 --causal
    """
    from omfuse.ops import estimate as model

    with console.progress("counting what the kernel does"):
        found = model.estimate(
            soc,
            model.parse_shape(shape),
            kv_heads,
            causal=causal,
            mask=mask,
            dtype=dtype,
            inner_precision=inner_precision,
        )
    if json:
        console.print_json({"schema": "omfuse.op-estimate/1", **found.as_dict()})
        return
    base = found.best_fused().seconds
    rows = []
    for row in found.rows:
        fused = bool(row.l2)
        rows.append(
            [
                _NAMES[row.name],
                f"{1e6 * row.seconds:,.1f}",
                f"+-{100 * row.error:.0f} %",
                row.bound,
                f"{100 * row.utilisation:.0f} %" if fused else "",
                f"{row.dram / 1e6:,.1f}",
                f"{row.l2 / 1e6:,.1f}" if fused else "",
                f"{row.seconds / base:.2f}",
            ]
        )
    columns = ("", "us", "error", "bound", "of peak", "DRAM MB", "L2 MB", "x kernel")
    console.print_table(columns, rows)
    if found.counters:
        console.print_result(_blocking(found.counters))
    if found.counted:
        console.print_result(f"this kernel was not counted: {found.counted}")
    console.print_result(f"{found.soc}, {found.dtype}: {model.MODEL}")


def _blocking(counters: dict[str, Any]) -> str:
    """Say what a core of our kernel works on and what its buffers take."""
    held = ", ".join(f"{name} {size / 1024:.1f}" for name, size in counters["held_bytes"].items())
    return (
        f"this kernel: {counters['block_rows']} queries x {counters['step_keys']} keys a step on "
        f"{counters['cube_cores']} cores; KB of a core: {held}; "
        f"{counters['workspace_bytes'] / 1e6:.1f} MB of workspace"
    )


_NAMES = {
    "naive": "unfused, as exported",
    "atc": "unfused, scale and mask merged",
    "best": "unfused, softmax merged",
    "public": "fused, level of public kernels",
    "v1": "fused, first kernel (plan)",
    "target": "fused, tuned (plan)",
    "kernel": "fused, this kernel (counted)",
}
