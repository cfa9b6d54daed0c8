"""Run rewritten models whole through the emulated Ascend C kernel and hold them to the original.

    python benchmarks/kernel_corpus.py MODEL.onnx... [--kernel ascendc] [--json OUT.json]

Each model is rewritten, opened with the kernel's own source behind onnxruntime, and compared with
its original by ``omfuse.diff``, held to the error budget of fp16, since the kernel takes fp16. The
emulation is a model of the device on this CPU: the verdict is about numbers, never about speed.

A model that fails is run again with masks that hide nothing. Where it then passes ("dead rows"),
the difference lies in rows whose every key is hidden by a large finite number: fp32 loses the
scores beside it and averages all values, fp16 operands cannot hold it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import omfuse
from omfuse.diff import diff, generate_inputs
from omfuse.errors import OmfuseError
from omfuse.host.session import HostSession


def judge(path: Path, kernel: str, seeds: list[int]) -> dict[str, Any]:
    """Return the row of one model."""
    started = time.perf_counter()
    row: dict[str, Any] = {"model": path.name, "fused": 0, "by_kernel": 0, "verdict": "error"}
    try:
        rewritten = omfuse.rewrite(path)
        row["fused"] = rewritten.fused
        with HostSession(
            rewritten.model, kernel=kernel, base_dir=path.parent, isolated=True
        ) as session:
            used = Counter(text.split(":")[0] for text in session.kernels.values())
            row["by_kernel"] = used[f"{kernel} (emulated)"]
            row["others"] = [t for t in session.kernels.values() if not t.startswith(kernel)]
            report = diff(
                path, session, precision="fp16", seeds=seeds, localise=False, second_shape=False
            )
            if report.verdict == "fail":
                feeds = generate_inputs(onnx.load(path), seeds[0], base_dir=path.parent)
                alive = {n: np.ones_like(a) if "mask" in n else a for n, a in feeds.items()}
                again = diff(
                    path,
                    session,
                    inputs=alive,
                    precision="fp16",
                    localise=False,
                    second_shape=False,
                )
                row["dead_rows_only"] = again.verdict == "pass"
        row["verdict"] = "dead rows" if row.get("dead_rows_only") else report.verdict
        row["worst"] = max((o.ratio or 0.0 for o in report.outputs), default=None)
    except OmfuseError as error:
        row["why"] = f"{error.code}: {error.message}"[:300]
    row["seconds"] = round(time.perf_counter() - started, 2)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--kernel", default="ascendc", choices=["ascendc", "ascendc-310p"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for path in options.models:
        row = judge(path, options.kernel, options.seeds)
        rows.append(row)
        print(
            f"{row['verdict']:<12} {row['by_kernel']}/{row['fused']} by the kernel "
            f"{row['seconds']:8.1f} s  {row['model']}  {row.get('why', '')}",
            flush=True,
        )
    counts = Counter(row["verdict"] for row in rows)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    if options.json:
        options.json.write_text(json.dumps({"kernel": options.kernel, "rows": rows}, indent=1))
    return int(any(row["verdict"] != "pass" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
