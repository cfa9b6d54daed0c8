"""Make a corpus of another one's models after tools that users put between exporter and omfuse.

    pip install onnxsim onnxslim onnxconverter-common
    python -m benchmarks.zoo.posts --corpus CORPUS --folder OUT [--tools sim,fp16conv] [--every 2]
    python -m benchmarks.coverage --corpus OUT

Each model is expected to hold as many attentions as before. A tool that fails on a model, or
whose result onnxruntime does not run, leaves it out; so does one that changes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.corpus import Case, feeds_of, load_cases
from benchmarks.worker import Worker
from benchmarks.zoo.generate import save_json


def ort_optimized(source: str, target: str, level: str) -> None:
    """What `SessionOptions.optimized_model_filepath` writes, without fusions to other operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = target
    options.log_severity_level = 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def simplified(source: str, target: str) -> None:
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source), check_n=0)
    onnx.save(model, target)


def slimmed(source: str, target: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def halved(source: str, target: str) -> None:
    import onnx
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def other_opset(source: str, target: str) -> None:
    """onnx's version converter, to an opset in which much is spelled differently."""
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    opset = next(o.version for o in model.opset_import if o.domain == "")
    onnx.save(version_converter.convert_version(model, max(opset, 21)), target)


def quantized(source: str, target: str) -> None:
    """Dynamic quantisation of the linear layers' weights."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"])


def inferred(source: str, target: str) -> None:
    import onnx

    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(source), data_prop=True), target)


TOOLS: dict[str, Callable[[str, str], None]] = {
    "ortbasic": lambda s, t: ort_optimized(s, t, "ORT_ENABLE_BASIC"),
    "ortextended": lambda s, t: ort_optimized(s, t, "ORT_ENABLE_EXTENDED"),
    "sim": simplified,
    "slim": slimmed,
    "fp16conv": halved,
    "opset": other_opset,
    "quantized": quantized,
    "inferred": inferred,
}


def apply(tool: str, folder: str, case: Case, target: str) -> str:
    """Return why the result is of no use, or nothing."""
    import onnx
    from benchmarks.equality import run

    TOOLS[tool](case["path"], target)
    if Path(target).read_bytes() == Path(case["path"]).read_bytes():
        return "unchanged"
    for _, feeds in feeds_of(folder, case):
        run(target, feeds)
    onnx.checker.check_model(target)
    return ""


def derive(corpus: Path, folder: Path, tools: list[str], only: str, every: int) -> Counter[str]:
    """Fill a folder; return how often each tool ended how."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(corpus / "inputs.py", folder / "inputs.py")
    made: list[dict[str, Any]] = []
    ends: Counter[str] = Counter()
    with Worker(apply) as worker, tempfile.TemporaryDirectory(dir=folder) as scratch:
        for case in load_cases(corpus, only)[::every]:
            if case.get("post"):
                continue
            for tool in tools:
                part = Path(scratch) / "model.onnx"
                part.unlink(missing_ok=True)
                status, answer = worker.call(tool, str(corpus), case, str(part), timeout=120)
                end = status if status != "ok" else answer or "made"
                ends[f"{tool}: {end}"] += 1
                if end != "made":
                    why = str(answer).strip().splitlines() or [""]
                    print(f"{case['id']} {tool}: {end} {why[-1][:150]}", file=sys.stderr)
                    continue
                name = f"{case['id']}+{tool}"
                part.rename(folder / f"{name}.onnx")
                entry = {k: v for k, v in case.items() if k != "path"}
                made.append({**entry, "id": name, "file": f"{name}.onnx", "post": tool})
    save_json(folder / "manifest.json", {"cases": made})
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma-separated")
    parser.add_argument("--only", default="", help="ids that contain this text")
    parser.add_argument("--every", type=int, default=1, help="each n-th model only")
    given = parser.parse_args()
    ends = derive(given.corpus, given.folder, given.tools.split(","), given.only, given.every)
    for end, count in sorted(ends.items()):
        print(f"{end}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
