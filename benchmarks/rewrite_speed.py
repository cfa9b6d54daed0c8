"""Time, CPU time and peak memory of rewriting large models, beside other tools on the same files.

    pip install onnxscript
    python -m benchmarks.rewrite_speed [--json] [--timeout 240] [--only decoder]

Each run is a process of its own: read the file, fuse, write the result.  CPU seconds are of that
process, and include imports.  Needs 12 GB of disk and, for the peers, as much memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import big_models, markdown

Result = dict[str, Any]

MODELS = {
    "decoder, 32 layers": (lambda: big_models.decoder(32), False),
    "encoder, 24 layers": (lambda: big_models.encoder(24, 768, 12), False),
    "encoder, 2.2 GB beside the file": (lambda: big_models.encoder(12, 1968, 16), True),
    "decoder, 8 layers": (lambda: big_models.decoder(8), False),
    "decoder, 16 layers": (lambda: big_models.decoder(16), False),
    "decoder, 64 layers": (lambda: big_models.decoder(64), False),
}  # fmt: skip
GROWTH = ("decoder, 8 layers", "decoder, 16 layers", "decoder, 64 layers")

RUN = {
    "omfuse": """
import omfuse, omfuse.api
result = omfuse.rewrite(source)
omfuse.api.save(result, source, target)
print(result.fused)
""",
    "onnxscript": """
import onnx_ir, onnxscript.optimizer
from onnxscript.rewriter import ort_fusions
model = onnx_ir.load(source)
onnxscript.optimizer.optimize(model)
model, _ = ort_fusions.optimize_for_ort(model)
onnx_ir.save(model, target, external_data="weights" if external else None)
names = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "SDPA")
print(sum(node.op_type in names for node in model.graph.all_nodes()))
""",
    "onnxruntime": """
import logging
logging.disable(logging.CRITICAL)
from onnxruntime.transformers import optimizer
model = optimizer.optimize_model(source, "bert", opt_level=0)
model.save_model_to_file(target, use_external_data_format=external)
names = ("Attention", "MultiHeadAttention")
print(sum(node.op_type in names for node in model.model.graph.node))
""",
}


def run(tool: str, source: Path, external: bool, timeout: float) -> Result:
    """Run one tool on one file in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="omfuse-speed-", dir=source.parent) as folder:
        target = str(Path(folder) / "out.onnx")
        head = f"source, target, external = {str(source)!r}, {target!r}, {external!r}\n"
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-c", head + RUN[tool]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return {"note": f"not finished after {timeout:.0f} s"}
    if child.returncode:
        return {"note": (err.strip().splitlines() or ["failed"])[-1][:120]}
    return {"wall": time.perf_counter() - started, "fused": int(out.split()[-1])}


def measured(tool: str, source: Path, external: bool, timeout: float) -> Result:
    """Fork around `run`, because the usage of children is summed over a process' life."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = run(tool, source, external, timeout)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer |= {"cpu": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        answer = json.loads(stream.read())
    os.waitpid(pid, 0)
    return dict(answer)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of omfuse; the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    lines: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="omfuse-speed-") as folder:
        for name, (make, external) in MODELS.items():
            if options.only not in name:
                continue
            path = Path(folder) / "model.onnx"
            model = make()
            nodes = len(model.graph.node)
            big_models.save(model, path, external)
            del model
            for tool in RUN:
                if tool != "omfuse" and name in GROWTH:
                    continue
                count = options.repeat if tool == "omfuse" else 1
                tries = [measured(tool, path, external, options.timeout) for _ in range(count)]
                best = min(tries, key=lambda answer: answer["cpu"])
                lines.append({"model": name, "nodes": nodes, "tool": tool, **best})
                print(json.dumps(lines[-1]), file=sys.stderr)
            for file in Path(folder).iterdir():
                file.unlink()
    if options.json:
        print(json.dumps({"schema": "omfuse.rewrite-speed/1", "lines": lines}))
    else:
        show(lines)
    return 0


def show(lines: list[Result]) -> None:
    rows = []
    for line in lines:
        row = [line["model"], f"{line['nodes']:,}", line["tool"], str(line.get("fused", "-"))]
        row += [f"{line['wall']:.2f}" if "wall" in line else line.get("note", "-")]
        rows.append([*row, f"{line['cpu']:.2f}", f"{line['peak_mb']:,.0f}"])
    heads = ("model", "nodes", "tool", "fused", "wall s", "CPU s", "peak MB")
    print(markdown.table(heads, rows, right=("nodes", "fused", "wall s", "CPU s", "peak MB")))


if __name__ == "__main__":
    sys.exit(main())
