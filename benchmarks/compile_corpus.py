"""Compiles every rewritten model of a corpus with the simulated ATC and inspects the result.

    python -m benchmarks.compile_corpus --corpus CORPUS
    python -m benchmarks.compile_corpus --corpus DIR --only bert --soc Ascend310P3 --subprocess

For each model and chip: rewrite, compile, read the .om with the reader, and compare the number of
FlashAttention operators in it, complete with kernel and task, with the number that was fused. Sizes
of open dims are those of the manifest; with `--shapes gears` or `--shapes range` the dims of models
with two sets of sizes become two gears in step, or a range from one to the other. `--subprocess`
starts the stand-in as the driver does; without it the stand-in runs inside the worker. With
`--attention prompt-flash` or `score` models outside the limits of CANN's own operators are refused
by name, which passes. Exits 0 when every model passes.
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
from benchmarks.corpus import Case, Result, feeds_of, load_cases
from benchmarks.worker import Worker
from rich.console import Console

SOCS = ("Ascend310P3", "Ascend910B3")


def compile_case(
    folder: str, case: Case, socs: list[str], own_process: bool, shapes: str, attention: str
) -> list[Result]:
    """One line a chip; none when the case has no sizes of the kind asked for."""
    import onnx

    import omfuse
    from omfuse.atc.om.summary import describe_om
    from omfuse.atc.prepare import graph_inputs
    from omfuse.errors import OmfuseError
    from omfuse.sim.atc.inprocess import atc_in_process

    lines = []
    with tempfile.TemporaryDirectory(prefix="omfuse-compile-") as scratch:
        os.environ["OMFUSE_RUN_DIR"] = scratch
        fused = omfuse.rewrite(case["path"])
        # Standard Attention operators become FlashAttention too, counted apart.
        count = fused.fused + sum(record.status == "fused" for record in fused.lowered)
        path = Path(scratch) / "fused.onnx"
        onnx.save(fused.model, str(path))
        sets = [
            {name: array.shape for name, array in feeds.items()}
            for _, feeds in feeds_of(folder, case)
        ]
        inputs = graph_inputs(fused.model)
        shape = (
            static_shape(inputs, sets[0]) if shapes == "static" else moving(inputs, sets, shapes)
        )
        if shapes != "static" and not shape:
            return []
        for soc in socs:
            target, started = Path(scratch) / f"{soc}.om", time.perf_counter()
            line: Result = {"id": case["id"], "soc": soc, "fused": count}
            try:
                if own_process:
                    result = _compile(path, target, soc, shape, attention)
                else:
                    with atc_in_process():
                        result = _compile(path, target, soc, shape, attention)
                found = describe_om(target)
                complete = [entry for entry in found["attention"] if entry["complete"]]
                line |= {"kind": result.shape_kind, "found": len(complete), "error": None}
                line |= {"bytes": found["bytes"], "open": _open(found)}
            except OmfuseError as error:
                text = f"{error.code}: {error.message} ({error.where})"
                line |= {"kind": "", "found": 0, "error": text}
                line["refused"] = error.code == "attention-limit"
            line["seconds"] = round(time.perf_counter() - started, 3)
            complete_file = line["error"] is None and line["found"] == line["fused"]
            line["passes"] = complete_file or line.get("refused", False)
            lines.append(line)
    return lines


def static_shape(inputs: dict[str, Any], sizes: dict[str, Any]) -> list[str]:
    """The `--shape` texts that fix every open input."""
    return [
        f"{name}={','.join(map(str, sizes[name]))}"
        for name, dims in inputs.items()
        if not all(isinstance(dim, int) for dim in dims)
    ]


def moving(inputs: dict[str, Any], sets: list[dict[str, Any]], kind: str) -> list[str]:
    """The `--shape` texts that move every symbol between two sizes; none where there is one."""
    symbols = {
        dim: tuple(sizes[name][axis] for sizes in sets)
        for name, dims in inputs.items()
        for axis, dim in enumerate(dims)
        if not isinstance(dim, int)
    }
    if len(sets) < 2 or not symbols or None in symbols:
        return []
    fixed = [f"{name}={first}" for name, (first, second) in symbols.items() if first == second]
    varied = {name: pair for name, pair in symbols.items() if pair[0] != pair[1]}
    if kind == "range":
        return fixed + [f"{name}={min(pair)}~{max(pair)}" for name, pair in varied.items()]
    gears = [",".join(str(pair[i]) for pair in varied.values()) for i in (0, 1)]
    return fixed + ([f"{','.join(varied)}={';'.join(gears)}"] if varied else [])


def _compile(path: Path, target: Path, soc: str, shape: list[str], attention: str) -> Any:
    import omfuse

    more = {"device": "sim", "shape": shape, "use_cache": False, "attention": attention}
    return omfuse.compile(path, target, soc, **more)


def _open(found: dict[str, Any]) -> int:
    """Count outputs with a size that the compile left open."""
    return sum(-1 in output["shape"] for output in found["outputs"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--only", default="", help="text in the id of a case")
    parser.add_argument("--soc", action="append", help=f"default {' and '.join(SOCS)}")
    parser.add_argument("--shapes", choices=("static", "gears", "range"), default="static")
    parser.add_argument("--attention", default="custom", help="or prompt-flash, score")
    parser.add_argument("--subprocess", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    console = Console(stderr=True)
    lines: list[Result] = []
    socs = given.soc or list(SOCS)
    started = time.perf_counter()
    with Worker(compile_case) as worker:
        for case in load_cases(given.corpus, given.only):
            status, answer = worker.call(
                str(given.corpus), case, socs, given.subprocess, given.shapes, given.attention,
                timeout=300,
            )  # fmt: skip
            if status != "ok":
                empty = {"fused": None, "found": 0, "kind": "", "seconds": 0.0, "passes": False}
                answer = [{"id": case["id"], "soc": s, **empty, "error": answer} for s in socs]
            for line in answer:
                if not line["passes"]:
                    console.print(f"{line['id']} {line['soc']}: {line['error'] or line}")
            lines += answer
    report(lines, time.perf_counter() - started, given.json)
    return 0 if lines and all(line["passes"] for line in lines) else 1


def report(lines: list[Result], seconds: float, as_json: bool) -> None:
    if as_json:
        document = {"schema": "omfuse.compile-corpus/1", "seconds": round(seconds, 1)}
        print(json.dumps({**document, "lines": lines}))
        return
    heads = ("chip", "models", "pass", "refused", "FlashAttention fused", "in .om", "open outputs")
    rows = []
    for soc in dict.fromkeys(line["soc"] for line in lines):
        mine = [line for line in lines if line["soc"] == soc]
        counts = [sum(bool(line.get(key)) for line in mine) for key in ("passes", "refused")]
        counts += [sum(line[key] or 0 for line in mine) for key in ("fused", "found")]
        rows.append([soc, len(mine), *counts, sum(bool(line.get("open")) for line in mine)])
    print(markdown.table(heads, rows, heads[1:]), flush=True)
    console = Console()
    causes = Counter(str(line["error"]).split(":")[0] for line in lines if line["error"])
    for cause, count in causes.most_common():
        console.print(f"{count} x {cause}")


if __name__ == "__main__":
    sys.exit(main())
