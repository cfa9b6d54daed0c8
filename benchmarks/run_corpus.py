"""Rewrites, compiles and runs every model of a corpus on the simulated device; compares outputs.

    python -m benchmarks.run_corpus --corpus ../shared/corpus
    python -m benchmarks.run_corpus --corpus DIR --only bert --shapes gears --kernel cpu

The outputs of the .om are held to the error budget of `omfuse diff` against the original in
onnxruntime, for each set of inputs that the compiled shapes allow. Models that onnxruntime itself
does not run are left out. Exits 0 when every model passes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.compile_corpus import moving, static_shape
from benchmarks.corpus import Case, Result, feeds_of, load_cases
from benchmarks.worker import Worker
from rich.console import Console


def run_case(folder: str, case: Case, soc: str, shapes: str, kernel: str) -> Result:
    """Rewrite, compile, run and compare one model."""
    import onnx

    import omfuse
    from omfuse.atc.prepare import graph_inputs
    from omfuse.errors import OmfuseError
    from omfuse.session import open_session
    from omfuse.sim.atc.inprocess import atc_in_process
    from omfuse.sim.device import simulated_device

    simulated_device().kernel = kernel
    started = time.perf_counter()
    line: Result = {"id": case["id"], "fused": 0, "sets": 0, "verdict": "", "error": None}
    line |= {"kernels": {}, "ratio": 0.0, "mode": ""}
    with tempfile.TemporaryDirectory(prefix="omfuse-run-") as scratch:
        os.environ["OMFUSE_RUN_DIR"] = scratch
        sets = [feeds for _, feeds in feeds_of(folder, case)]
        fused = omfuse.rewrite(case["path"])
        line["fused"] = fused.fused
        path, target = Path(scratch, "fused.onnx"), Path(scratch, "m.om")
        onnx.save(fused.model, str(path))
        inputs = graph_inputs(fused.model)
        sizes = [{name: array.shape for name, array in feeds.items()} for feeds in sets]
        if shapes == "static":
            shape, sets = static_shape(inputs, sizes[0]), sets[:1]
        else:
            shape = moving(inputs, sizes, shapes)
            if not shape:
                return line | {"verdict": "not dynamic"}
        try:
            with atc_in_process():
                omfuse.compile(path, target, soc, device="sim", shape=shape, use_cache=False)
            with open_session(target, "sim") as session:
                line["mode"] = session.mode
                for feeds in sets:
                    line = _compare(case["path"], session, feeds, line)
                line["kernels"] = dict(Counter(_short(used) for used in session.kernels.values()))
        except OmfuseError as error:
            verdict = "error" if _runs(case["path"], sets[0]) else "original fails"
            line |= {"verdict": verdict, "error": f"{error.code}: {error.message}"}
    line["seconds"] = round(time.perf_counter() - started, 2)
    return line


def _compare(path: str, session: Any, feeds: dict[str, Any], line: Result) -> Result:
    from omfuse.diff import diff
    from omfuse.errors import OmfuseError, ToolchainError

    needed = {tensor.name: tensor.dtype for tensor in session.inputs}
    fitting = {n: a.astype(needed[n], copy=False) for n, a in feeds.items() if n in needed}
    try:
        report = diff(path, session, inputs=feeds, precision="fp16", localise=False, cache=False)
    except ToolchainError as error:
        if line["sets"]:
            raise
        return line | {"verdict": "original fails", "error": error.message[:200]}
    except OmfuseError:
        session.run(fitting)  # whose fault it is
        raise
    ratio = max([line["ratio"], *(o.ratio or 0.0 for o in report.outputs)])
    verdict = report.verdict if line["verdict"] in ("", "pass") else line["verdict"]
    reasons = [reason for output in report.outputs for reason in output.reasons]
    why = "; ".join(reasons)[:300] if report.verdict != "pass" else line["error"]
    return line | {"sets": line["sets"] + 1, "ratio": ratio, "verdict": verdict, "error": why}


def _runs(path: str, feeds: dict[str, Any]) -> bool:
    """Tell whether onnxruntime runs the original."""
    from omfuse.errors import OmfuseError
    from omfuse.host.session import HostSession

    try:
        with HostSession(path, optimize=False) as session:
            session.run(feeds)
    except OmfuseError:
        return False
    return True


def _short(used: str) -> str:
    name, _, rest = used.partition(": ")
    if "refuses" in rest:
        return f"{name}, the Ascend C kernel refuses"
    return f"{name}, {rest[:60]}" if "no emulated" in rest else name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--only", default="", help="text in the id of a case")
    parser.add_argument("--every", type=int, default=1, help="take every n-th case")
    parser.add_argument("--soc", default="Ascend910B3")
    parser.add_argument("--shapes", choices=("static", "gears", "range"), default="static")
    parser.add_argument("--kernel", default="auto", help="auto, ascendc, ascendc-310p or cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    console = Console(stderr=True)
    lines: list[Result] = []
    started = time.perf_counter()
    with Worker(run_case) as worker:
        for case in load_cases(given.corpus, given.only)[:: given.every]:
            status, answer = worker.call(
                str(given.corpus), case, given.soc, given.shapes, given.kernel, timeout=300
            )
            if status != "ok":
                answer = {"id": case["id"], "fused": 0, "verdict": "crash", "error": answer}
                answer |= {"sets": 0, "kernels": {}, "ratio": 0.0, "seconds": 0.0}
            if answer["verdict"] not in ("pass", "not dynamic"):
                console.print(f"{answer['id']}: {answer['verdict']} {answer['error']}")
            lines.append(answer)
    seconds = time.perf_counter() - started
    if given.json:
        document = {"schema": "omfuse.run-corpus/1", "seconds": round(seconds, 1), "lines": lines}
        print(json.dumps(document))
    else:
        report(lines, seconds)
    bad = [line for line in lines if line["verdict"] in ("fail", "error", "crash")]
    return 1 if bad or not lines else 0


def report(lines: list[Result], seconds: float) -> None:
    console = Console()
    rows = []
    for verdict in sorted({line["verdict"] for line in lines}):
        mine = [line for line in lines if line["verdict"] == verdict]
        sums = [sum(line[name] for line in mine) for name in ("sets", "fused")]
        rows.append([verdict, len(mine), *sums])
    heads = ("verdict", "models", "sets of inputs", "attention blocks")
    print(markdown.table(heads, rows, heads[1:]), flush=True)
    kernels: Counter[str] = Counter()
    for line in lines:
        kernels.update(line["kernels"])
    for name, count in kernels.most_common():
        console.print(f"{count} attention blocks by {name}")
    worst = max(lines, key=lambda line: line["ratio"])
    console.print(f"largest share of the budget: {worst['ratio']:.2f} in {worst['id']}")
    console.print(f"{seconds:.0f} s; simulated, so no measure of a chip")


if __name__ == "__main__":
    sys.exit(main())
