"""Latency and peak memory of one attention on this CPU: fused, as exported, one operator, torch.

    pip install torch                     # optional: without it its columns are left out
    python -m benchmarks.host_speed [--json] [--threads 1,2] [--rounds 7] [--only llama]

Every form of a block runs in a process of its own, which stays alive.  A round times each of them
once, one after the other; a ratio is the median over the rounds of ratios within a round, so that
a machine that slows down slows all of them.  Rounds during which other programs used the
processors are repeated.  Memory is the growth of the peak resident set in the first runs, with
model and inputs loaded before.  A form whose output differs from the exported graph stops the
benchmark.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import attention_models
from benchmarks.attention_models import Block
from benchmarks.worker import Worker

Result = dict[str, Any]

BLOCKS = (
    Block("Stable Diffusion self", 4096, 4096, 8, 40),
    Block("Stable Diffusion self fp16", 4096, 4096, 8, 40, dtype="float16"),
    Block("Stable Diffusion cross", 4096, 77, 8, 40),
    Block("BERT base", 128, 128, 12, 64),
    Block("BERT base padded", 128, 128, 12, 64, "padding"),
    Block("BERT base", 512, 512, 12, 64),
    Block("BERT base padded", 512, 512, 12, 64, "padding"),
    Block("BERT base padded batch 4", 512, 512, 12, 64, "padding", batch=4),
    Block("BERT base fp16", 512, 512, 12, 64, dtype="float16"),
    Block("ViT base", 197, 197, 12, 64),
    Block("T5 base", 512, 512, 12, 64, "bias"),
    Block("free mask", 512, 512, 12, 64, "mask"),
    Block("free mask", 2048, 2048, 8, 64, "mask"),
    Block("bias", 2048, 2048, 8, 64, "bias"),
    Block("GPT-2 prefill", 1024, 1024, 12, 64, "causal"),
    Block("Llama prefill", 2048, 2048, 32, 128, "causal", kv_heads=8),
    Block("Whisper base encoder", 1500, 1500, 8, 64),
    Block("small", 8, 8, 12, 64),
    Block("small", 16, 16, 12, 64),
    Block("small", 32, 32, 12, 64),
    Block("small", 64, 64, 12, 64),
    Block("small causal", 64, 64, 12, 64, "causal"),
    Block("small padded", 32, 32, 12, 64, "padding"),
    Block("Llama decode", 1, 2048, 32, 128, kv_heads=8, kv_layout="BNSD"),
    Block("Llama decode padded", 1, 2048, 32, 128, "padding", kv_heads=8, kv_layout="BNSD"),
    Block("Whisper base decode cross", 1, 1500, 8, 64),
)
FORMS = ("unfused", "fused", "operator", "torch")
TOLERANCE = {"float32": 2e-5, "float16": 4e-3}  # of the largest output
QUIET = 0.1  # processors that other programs may use during a round
SLICE = 0.06  # seconds of work a form and round

_child: Result = {}  # in a child: what it runs


def _peak_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _open(form: str, block: Block, threads: int) -> tuple[str, Any]:
    """Return what computes the block, and a function that runs it once."""
    arrays = attention_models.feeds(block)
    if form == "torch":
        import torch

        torch.set_num_threads(threads)
        return f"torch {torch.__version__}", attention_models.with_torch(block, arrays)
    import onnxruntime

    model = attention_models.unfused(block)
    if form == "fused":
        import omfuse
        from omfuse.host.session import HostSession

        with tempfile.TemporaryDirectory(prefix="omfuse-speed-") as folder:
            path = Path(folder, "block.onnx")
            path.write_bytes(model.SerializeToString())
            rewritten = omfuse.rewrite(path)
        if rewritten.fused != 1:
            raise RuntimeError(f"{block.name} was not fused")
        session = HostSession(rewritten.model, threads=threads)
        return next(iter(session.kernels.values())), lambda: session.run(arrays)["output"]
    name = "onnxruntime"
    if form == "operator":
        found = attention_models.one_operator(block)
        if found is None:
            return "", None
        name, model = found
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    plain = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return name, lambda: plain.run(["output"], arrays)[0]


def serve(order: str, *arguments: Any) -> Any:
    """Answer one call inside a child: `open` a form, or `time` a number of runs."""
    if order == "open":
        name, run = _open(*arguments)
        if run is None:
            return None
        _child["run"] = run
        Path("/proc/self/clear_refs").write_text("5")  # the peak restarts here
        before = _resident_bytes()
        output = run()
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        run()
        grown = max(0, _peak_bytes() - before)
        return {"kernel": name, "output": output, "seconds": seconds, "peak_mb": grown / 2**20}
    run, count = _child["run"], arguments[0]
    run()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        run()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _called(worker: Worker, *arguments: Any) -> Any:
    status, answer = worker.call(*arguments, timeout=300)
    if status != "ok":
        raise RuntimeError(f"{status}: {answer}")
    return answer


def _busy() -> float:
    """CPU seconds that all programs of the machine have used."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _round(workers: dict[str, Worker], counts: dict[str, int], turn: int) -> tuple[Result, float]:
    """Time each form once, starting with another one each round; also how busy others were."""
    names = list(workers)
    times: Result = {}
    others = wall = 0.0
    for name in names[turn % len(names) :] + names[: turn % len(names)]:
        time.sleep(0.005)  # threads of the form before stop spinning
        busy, started = _busy(), time.perf_counter()
        times[name] = _called(workers[name], "time", counts[name])
        others += _busy() - busy - times[name][1] * (counts[name] + 1)
        wall += time.perf_counter() - started
    return times, others / wall


def measure(block: Block, threads: int, forms: list[str], rounds: int) -> Result:
    """Compare the forms of one block."""
    workers: dict[str, Worker] = {}
    line: Result = {
        "block": block.name, "q_len": block.q_len, "kv_len": block.kv_len, "heads": block.heads,
        "kv_heads": block.heads // block.groups, "depth": block.depth, "batch": block.batch,
        "extra": block.extra, "dtype": block.dtype, "threads": threads, "forms": {},
    }  # fmt: skip
    try:
        opened: Result = {}
        for form in forms:
            worker = Worker(serve, quiet=False)
            workers[form] = worker
            answer = _called(worker, "open", form, block, threads)
            if answer is None:
                workers.pop(form).close()
            else:
                opened[form] = answer
        want = opened["unfused"].pop("output").astype(np.float64)
        for form in list(opened)[1:]:
            error = float(np.abs(opened[form].pop("output") - want).max() / np.abs(want).max())
            if not error <= TOLERANCE[block.dtype]:
                raise RuntimeError(f"{form} of {block} is off by {error}")
            opened[form]["error"] = error
        counts = {f: max(1, math.ceil(SLICE / a.pop("seconds"))) for f, a in opened.items()}
        samples, loads = [], []
        while len(samples) < 4 * rounds and sum(load <= QUIET for load in loads) < rounds:
            sample, load = _round(workers, counts, len(samples))
            samples.append(sample)
            loads.append(load)
    finally:
        for worker in workers.values():
            worker.close()
    kept = sorted(range(len(samples)), key=loads.__getitem__)[:rounds]
    line["others"] = statistics.median(loads[i] for i in kept)
    for form, answer in opened.items():
        walls, cpus = (
            [samples[i][form][which] / samples[i]["fused"][which] for i in kept] for which in (0, 1)
        )
        answer |= {
            "ms": 1e3 * statistics.median(samples[i][form][0] for i in kept),
            "ratio": statistics.median(walls),
            "ratio_low": min(walls),
            "ratio_high": max(walls),
            "cpu_ratio": statistics.median(cpus),
        }
        line["forms"][form] = answer
    return line


def machine() -> Result:
    """The processor, its name and what is installed."""
    import onnxruntime

    model = ""
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith(("model name", "CPU part")):
            model = text.split(":", 1)[1].strip()
            break
    flags = Path("/proc/cpuinfo").read_text()
    widest = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "vectors": widest,
        "onnxruntime": onnxruntime.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="blocks whose name contains this")
    parser.add_argument("--threads", default="1,2", help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    forms = [f for f in FORMS if f != "torch" or importlib.util.find_spec("torch")]
    lines = []
    for block in BLOCKS:
        if options.only.lower() in block.name.lower():
            for threads in map(int, options.threads.split(",")):
                lines.append(measure(block, threads, forms, options.rounds))
                print(json.dumps(lines[-1]), file=sys.stderr)
    if options.json:
        found = {"schema": "omfuse.host-speed/1", "machine": machine(), "lines": lines}
        print(json.dumps(found))
    else:
        show(lines, machine())
    return 0


def show(lines: list[Result], found: Result) -> None:
    """Print the table in Markdown."""
    print(", ".join(f"{key}: {value}" for key, value in found.items()), end="\n\n")
    print("Times are of the fused block; ratios above 1 mean that the fused block is faster.\n")
    with_torch = any("torch" in line["forms"] for line in lines)
    heads = ["block", "Sq x Skv, heads x D", "mask", "threads", "fused ms", "unfused"]
    heads += ["ORT operator", *(["torch"] if with_torch else []), "MB fused", "MB unfused"]
    heads += ["MB operator", *(["MB torch"] if with_torch else [])]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for line in lines:
        forms = line["forms"]
        heads_text = str(line["heads"])
        if line["kv_heads"] != line["heads"]:
            heads_text += f"/{line['kv_heads']}"
        sizes = f"{line['q_len']} x {line['kv_len']}, {heads_text} x {line['depth']}"
        row = [line["block"], sizes, line["extra"], str(line["threads"])]
        row += [f"{forms['fused']['ms']:.3g}"]
        for form in ("unfused", "operator", *(["torch"] if with_torch else [])):
            if form not in forms:
                row.append("-")
            elif form == "operator":
                row.append(f"{forms[form]['ratio']:.2f} ({forms[form]['kernel']})")
            else:
                row.append(f"{forms[form]['ratio']:.2f}")
        for form in ("fused", "unfused", "operator", *(["torch"] if with_torch else [])):
            row.append(f"{forms[form]['peak_mb']:.1f}" if form in forms else "-")
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    sys.exit(main())
