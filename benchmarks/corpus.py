"""Measures one model of a corpus: rewrite, run both forms, compare. Runs in a worker process."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.equality import judge, run
from benchmarks.worker import Worker

Case = dict[str, Any]
Result = dict[str, Any]


def load_cases(folder: Path, only: str = "") -> list[Case]:
    """The cases of `folder/manifest.json` with `path` added, filtered by text in their id."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        raise SystemExit(f"{folder} is no corpus: it has no manifest.json")
    cases = []
    for case in json.loads(manifest.read_text())["cases"]:
        places = (folder / case["file"], folder / "visible" / case["file"])
        path = next((p for p in places if p.exists()), None)
        if path is not None and only in case["id"]:
            cases.append({**case, "path": str(path)})
    return cases


def feeds_of(folder: str, case: Case) -> list[tuple[str, dict[str, Any]]]:
    """Inputs for the default dims and, where the original accepts them, for the other dims."""
    location = Path(folder) / "inputs.py"
    spec = importlib.util.spec_from_file_location("corpus_inputs", location)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dtype = case.get("float_in") or "float32"
    sets = [("default", module.make_inputs(case["inputs"], 0, None, dtype))]
    if case.get("runs_alt_shape"):
        sets.append(("alt", module.make_inputs(case["inputs"], 1, case["inputs"]["alt"], dtype)))
    return sets


def rewrite_omfuse(source: str, target: str) -> Result:
    """Rewrite with omfuse; what it said about every softmax."""
    import onnx

    import omfuse

    started = time.perf_counter()
    result = omfuse.rewrite(source)
    seconds = time.perf_counter() - started
    onnx.save(result.model, target)
    fields = ("node", "status", "code", "reason", "exactness")
    records = [{key: str(getattr(r, key, None)) for key in fields} for r in result.records]
    lowered = sum(record.status == "fused" for record in result.lowered)
    return {"fused": result.fused, "lowered": lowered, "records": records, "seconds": seconds}


REWRITERS: dict[str, Callable[[str, str], Result]] = {"omfuse": rewrite_omfuse}


def _answer(action: str, *arguments: Any) -> Any:
    if action == "rewrite":
        rewriter, source, target = arguments
        if rewriter not in REWRITERS:
            from benchmarks import peers

            REWRITERS.update(peers.REWRITERS)
        return REWRITERS[rewriter](source, target)
    if action == "run":
        path, folder, case = arguments
        return [run(path, feeds) for _, feeds in feeds_of(folder, case)]
    raise ValueError(action)


def new_worker() -> Worker:
    return Worker(_answer)


def measure(worker: Worker, folder: Path, case: Case, rewriter: str = "omfuse") -> Result:
    """One line of the table. `equal` is None where the original itself does not run."""
    line: Result = {
        key: case.get(key)
        for key in ("id", "family", "exporter", "opset", "attn", "dtype", "dynamic", "negative")
    }
    line |= {"kind": kind_of(case), "expected": case["expected"]}
    line |= {"min": case["expected_min"], "max": case["expected_max"]}
    line |= {"fused": 0, "equal": None, "error": None, "records": [], "seconds": 0.0}
    with tempfile.TemporaryDirectory(prefix="omfuse-coverage-") as scratch:
        target = str(Path(scratch) / "rewritten.onnx")
        status, answer = worker.call("rewrite", rewriter, case["path"], target, timeout=120)
        if status != "ok":
            return {**line, "error": f"rewrite: {status}: {answer}"}
        line |= answer
        if not answer.get("runs", True):
            return line
        status, reference = worker.call("run", case["path"], str(folder), case, timeout=120)
        if status != "ok":
            return {**line, "note": f"original: {status}: {str(reference)[:200]}"}
        status, outputs = worker.call("run", target, str(folder), case, timeout=120)
        if status != "ok":
            return {**line, "equal": False, "error": f"rewritten: {status}: {str(outputs)[:400]}"}
    dtype = case.get("dtype") or "float32"
    if case.get("post") == "fp16conv":
        dtype = "float16"
    verdicts = [judge(a, b, dtype) for a, b in zip(reference, outputs, strict=True)]
    worst = max(verdicts, key=lambda v: v["worst"])
    line |= {"equal": all(v["equal"] for v in verdicts), "worst": worst["worst"]}
    if not line["equal"]:
        line["error"] = (
            f"output {worst['output']} differs by {worst['worst']:.2g} deviations "
            f"(allowed {worst['tolerance']:.2g})"
        )
    return line


def kind_of(case: Case) -> str:
    """The library that a case comes from, without its version."""
    source = str(case.get("source") or "other").split()[0]
    if case.get("negative"):
        return f"{source}, never attention"
    return source


def in_range(line: Result) -> bool:
    return bool(line["min"] <= line["fused"] <= line["max"])
