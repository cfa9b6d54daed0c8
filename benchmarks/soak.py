"""Many runs of one session: memory must stay flat, and nothing may be left behind.

Run ``python benchmarks/soak.py [--runs 10000] [--model FILE.om --device ascend]``.  Without a model
the repository's sample is rewritten and compiled with the simulated toolchain, with batch gears.
Exits 1 when the resident memory of the second half grows by more than the limit.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import omfuse
from omfuse.session import open_session

SAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sample.onnx"
PAGE = 4096


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def build(folder: Path) -> Path:
    target = folder / "sample.om"
    fused = omfuse.rewrite(SAMPLE).model
    shape = ["batch=1,2,4", "source=16", "target=12"]
    omfuse.compile(fused, target, "Ascend310P3", device="sim", shape=shape)
    return target


def feeds_of(session: object, model: str, rows: int) -> dict[str, np.ndarray]:
    from omfuse.cli.subjects import feeds_for

    sizes = {"batch": rows} if getattr(session, "mode", "") == "batch" else {}
    return feeds_for(session, model, {}, sizes, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--model")
    parser.add_argument("--device", default="sim")
    parser.add_argument("--reopen", type=int, default=1000, help="runs between two sessions")
    parser.add_argument("--limit", type=float, default=4.0, help="MiB of growth allowed")
    args = parser.parse_args()
    samples: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(build(Path(folder)))
        started = time.perf_counter()
        done, sessions, used = 0, 0, 0
        while done < args.runs:
            with open_session(model, args.device) as session:
                sessions += 1
                sets = [feeds_of(session, model, rows) for rows in (1, 2, 4)]
                for step in range(min(args.reopen, args.runs - done)):
                    session.run(sets[step % 3])
                    done += 1
                    if done % max(args.runs // 20, 1) == 0:
                        gc.collect()
                        samples.append((done, resident()))
                free, total = session.memory()
                used = max(used, total - free)
        seconds = time.perf_counter() - started
    half = [size for count, size in samples if count > args.runs // 2]
    growth = (half[-1] - half[0]) / 2**20 if len(half) > 1 else 0.0
    result = {
        "runs": done,
        "sessions": sessions,
        "device": args.device,
        "seconds": round(seconds, 1),
        "resident_mib": [round(size / 2**20, 1) for _, size in samples],
        "growth_of_second_half_mib": round(growth, 2),
        "device_memory_peak_bytes": used,
    }
    if args.device == "sim":
        from omfuse.sim.device import simulated_device

        report = simulated_device().report()
        result |= {"leaks": report["leaks"], "violations": report["violations"]}
        result["acl_calls"] = report["calls"]
    print(json.dumps(result, indent=1))
    return int(growth > args.limit or bool(result.get("leaks")) or bool(result.get("violations")))


if __name__ == "__main__":
    sys.exit(main())
