"""Break files, graphs and runs many times, and count what was lost.

    python -m benchmarks.fault_matrix [--times 1.0] [--json]

Prints one row a kind of fault: how often it was tried, how it ended, and what was lost: an input
that changed, half an output, an error that is none of ours, another result than the original's.
Exits 1 when anything was lost. About five minutes on two cores with --times 1.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from benchmarks.damage import BYTES, GRAPH, damage_bytes
from benchmarks.equality import judge, run

import omfuse
from omfuse.atc.om.summary import describe_om
from omfuse.errors import OmfuseError

SAMPLE = Path(__file__).parents[1] / "examples" / "sample.onnx"
SHAPES = ("batch=2", "source=9", "target=5")
FEEDS = {
    "source_ids": np.arange(18).reshape(2, 9) % 90,
    "source_mask": np.array([[1] * 9, [1] * 6 + [0] * 3]),
    "target_ids": np.arange(10).reshape(2, 5) % 90,
}


@dataclass
class Row:
    """One kind of fault."""

    name: str
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return sum(self.ends.values())


def random_bytes(dice: random.Random, data: bytes) -> bytes:
    damages = [
        (dice.choice(BYTES), dice.randrange(len(data)), dice.randint(1, 4000))
        for _ in range(dice.randint(1, 4))
    ]
    return damage_bytes(data, damages)


def damaged_files(folder: Path, times: int) -> Row:
    row, dice, data = Row("damaged .onnx file, rewritten"), random.Random(1), SAMPLE.read_bytes()
    path = folder / "model.onnx"
    for _ in range(times):
        broken = random_bytes(dice, data)
        path.write_bytes(broken)
        outcome(row, lambda: f"read, {omfuse.rewrite(path).fused} of 6 fused")
        if path.read_bytes() != broken:
            row.lost.append("the input changed")
    return row


def outcome(row: Row, work: Callable[[], str]) -> None:
    try:
        row.ends[work()] += 1
    except OmfuseError:
        row.ends["refused with one error"] += 1
    except Exception as error:
        row.ends["another error"] += 1
        row.lost.append(f"{type(error).__name__}: {error}")


def damaged_graphs(_: Path, times: int) -> Row:
    row, dice, original = (
        Row("damaged graph, rewritten and run"),
        random.Random(2),
        onnx.load(SAMPLE),
    )
    for _ in range(times):
        model = onnx.ModelProto()
        model.CopyFrom(original)
        for _ in range(dice.randint(1, 3)):
            dice.choice(GRAPH)(model, dice.randrange(10000), dice.randrange(100))
        outcome(row, lambda model=model: judged(row, model))  # type: ignore[misc]
    return row


def judged(row: Row, model: onnx.ModelProto) -> str:
    result = omfuse.rewrite(model)
    if not result.changed:
        return "nothing to fuse"
    try:
        expected = run(model.SerializeToString(), FEEDS)
    except Exception:  # onnxruntime has many kinds of errors for damaged graphs
        return "fused, but no runtime runs the original"
    verdict = judge(expected, run(result.model.SerializeToString(), FEEDS))
    if not verdict["equal"]:
        row.lost.append(f"another result: {verdict['worst']:.2g}")
    return "fused, same result"


def damaged_oms(folder: Path, times: int) -> Row:
    row, dice = Row("damaged .om, inspected"), random.Random(3)
    path = folder / "m.om"
    omfuse.compile(SAMPLE, path, "Ascend310P3", device="sim", shape=list(SHAPES))
    data = path.read_bytes()
    for _ in range(times):
        path.write_bytes(random_bytes(dice, data))
        outcome(row, lambda: "described" if describe_om(path) else "")
    return row


def killed(folder: Path, times: int, how: signal.Signals) -> Row:
    row, dice = Row(f"{how.name} at a random moment of rewrite"), random.Random(4)
    model, output = folder / "model.onnx", folder / "out.onnx"
    shutil.copy(SAMPLE, model)
    before = model.read_bytes()
    command = [sys.executable, "-m", "omfuse", "rewrite", str(model), "-o", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    length, whole = time.perf_counter() - started, output.read_bytes()
    for _ in range(times):
        output.unlink(missing_ok=True)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listen
        )
        time.sleep(dice.uniform(0, 1.1 * length))
        process.send_signal(how)
        process.communicate()
        row.ends["whole output" if output.exists() else "no output"] += 1
        if output.exists() and output.read_bytes() != whole:
            row.lost.append("half an output")
        if model.read_bytes() != before:
            row.lost.append("the input changed")
        rest = [p for p in folder.iterdir() if p not in (model, output)]
        if rest and how is not signal.SIGKILL:
            row.lost.append(f"left behind: {rest[0].name}")
        for path in rest:
            path.unlink()
    return row


def listen() -> None:
    """Undo the deafness to Ctrl-C that a shell gives to jobs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def resumed(folder: Path, times: int) -> Row:
    row, dice = Row("SIGKILL at a random moment of pipeline, then again"), random.Random(5)
    command = [sys.executable, "-m", "omfuse", "pipeline", str(SAMPLE), "--soc", "310P3",
               "--device", "sim", "-o", str(folder / "out"), "--seed", "0"]  # fmt: skip
    for shape in SHAPES:
        command += ["--shape", shape]
    for _ in range(times):
        shutil.rmtree(folder / "out", ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(dice.uniform(0, 6))
        process.kill()
        process.communicate()
        again = subprocess.run(command, capture_output=True, text=True)
        row.ends["passed the second time" if again.returncode == 0 else "failed"] += 1
        if again.returncode:
            row.lost.append(again.stderr[-300:])
    return row


def full_disk(folder: Path, times: int) -> Row:
    row = Row("no space after n bytes of the output")
    output = folder / "out.onnx"
    command = [sys.executable, "-m", "omfuse", "rewrite", str(SAMPLE), "-o", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    size = output.stat().st_size
    for index in range(times):
        output.unlink(missing_ok=True)
        limit = size * index // times
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limiter(limit))
        row.ends[
            "one error, nothing left" if done.returncode == 2 else f"exit {done.returncode}"
        ] += 1
        if done.returncode == 0 or list(folder.iterdir()) or "Traceback" in done.stderr:
            row.lost.append(done.stderr[-300:] or "half an output")
    return row


def limiter(limit: int) -> Callable[[], None]:
    def apply() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return apply


def campaign(times: float) -> Iterator[Row]:
    def often(count: int) -> int:
        return max(3, int(count * times))

    work: list[Callable[[Path], Row]] = [
        lambda f: damaged_files(f, often(4000)),
        lambda f: damaged_graphs(f, often(2000)),
        lambda f: damaged_oms(f, often(4000)),
        lambda f: killed(f, often(40), signal.SIGINT),
        lambda f: killed(f, often(40), signal.SIGTERM),
        lambda f: killed(f, often(40), signal.SIGKILL),
        lambda f: full_disk(f, often(40)),
        lambda f: resumed(f, often(12)),
    ]
    for one in work:
        with tempfile.TemporaryDirectory() as folder:
            yield one(Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--times", type=float, default=1.0, help="factor on how often each is tried"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    if not options.json:
        print("| fault | tried | ended | lost |\n|---|---|---|---|")
    for row in campaign(options.times):
        rows.append(row)
        if not options.json:
            ends = ", ".join(f"{end} {count:,}" for end, count in row.ends.most_common())
            lost = f"{len(row.lost)}: {row.lost[0]}" if row.lost else "nothing"
            print(f"| {row.name} | {row.tried:,} | {ends} | {lost} |", flush=True)
    if options.json:
        found = [{"fault": r.name, "tried": r.tried, "ends": r.ends, "lost": r.lost} for r in rows]
        print(json.dumps({"schema": "omfuse.fault-matrix/1", "rows": found}, indent=1))
    return int(any(row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())
