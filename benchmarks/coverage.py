"""How many of a corpus' true attention blocks are fused, and whether the models stay the same.

    python -m benchmarks.coverage --corpus CORPUS
    python -m benchmarks.coverage --corpus DIR --only bert --json
    python -m benchmarks.coverage --corpus DIR --peers        # onnxscript, onnxruntime, OpenVINO

Each model is rewritten, then the original (graph optimisation disabled) and the rewritten file run
in onnxruntime on inputs that exercise attention, for one or two sets of sizes; `equality.py` says
when two outputs are equal. Exits 0 when every file is within `expected_min..expected_max` of the
manifest and equal to its original, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import markdown
from benchmarks.corpus import Case, Result, in_range, load_cases, measure, new_worker
from rich.console import Console


def measure_all(
    folder: Path, cases: list[Case], jobs: int = 1, rewriter: str = "omfuse",
    progress: Callable[[int, Result], None] | None = None,
) -> list[Result]:  # fmt: skip
    """Lines in the order of `cases`; `jobs` worker processes."""
    waiting: queue.SimpleQueue[tuple[int, Case]] = queue.SimpleQueue()
    for item in enumerate(cases):
        waiting.put(item)
    lines: dict[int, Result] = {}

    def serve() -> None:
        with new_worker() as worker:
            while True:
                try:
                    index, case = waiting.get_nowait()
                except queue.Empty:
                    return
                lines[index] = measure(worker, folder, case, rewriter)
                if progress is not None:
                    progress(len(lines), lines[index])

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(max(1, jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [lines[index] for index in sorted(lines)]


def summary(lines: Iterable[Result]) -> Result:
    """Counts over some lines. A file's fused blocks count up to what is expected of it."""
    chosen = list(lines)
    blocks = sum(line["expected"] for line in chosen)
    required = sum(line["min"] for line in chosen)
    fused = sum(min(line["fused"], line["expected"]) for line in chosen)
    right = sum(
        min(line["fused"], line["expected"]) for line in chosen if line["equal"] is not False
    )
    return {
        "files": len(chosen),
        "blocks": blocks,
        "required": required,
        "fused": fused,
        "fused_and_equal": right,
        "percent": round(100 * fused / blocks, 1) if blocks else None,
        "percent_equal": round(100 * right / blocks, 1) if blocks else None,
        "in_range": sum(in_range(line) for line in chosen),
        "unequal": sum(line["equal"] is False for line in chosen),
        "not_run": sum(line["equal"] is None for line in chosen),
        "too_many": sum(line["fused"] > line["max"] for line in chosen),
        "seconds": round(sum(line["seconds"] for line in chosen), 2),
    }


def grouped(lines: Iterable[Result], key: Callable[[Result], str]) -> dict[str, Result]:
    groups: dict[str, list[Result]] = defaultdict(list)
    for line in lines:
        groups[key(line)].append(line)
    return {name: summary(groups[name]) for name in sorted(groups)}


def exporter_of(line: Result) -> str:
    name = {"ts": "TorchScript", "dy": "dynamo"}.get(line["exporter"], line["exporter"])
    return f"{name} {line['opset']} {line['attn']}"


def declined(lines: Iterable[Result]) -> list[Result]:
    """Declined softmaxes of files that want more blocks, by code, with examples."""
    found: dict[str, list[str]] = defaultdict(list)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        if line["fused"] >= line["min"]:
            continue
        for record in line["records"]:
            if record["status"] != "fused":
                code = f"{record['status']}: {record['code']}"
                found[code].append(f"{line['id']} {record['node']}")
                reasons[code][record["reason"]] += 1
    return [
        {
            "code": code,
            "count": len(places),
            "reasons": reasons[code].most_common(4),
            "examples": list(dict.fromkeys(place.split()[0] for place in places))[:5],
        }
        for code, places in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def report(lines: list[Result]) -> Result:
    """The whole answer as one JSON-ready object."""
    return {
        "total": summary(lines),
        "by_kind": grouped(lines, lambda line: line["kind"]),
        "by_family": grouped(lines, lambda line: line["family"]),
        "by_exporter": grouped(lines, exporter_of),
        "out_of_range": [line["id"] for line in lines if not in_range(line)],
        "false_positives": [line["id"] for line in lines if line["fused"] > line["max"]],
        "unequal": {line["id"]: line["error"] for line in lines if line["equal"] is False},
        "errors": {
            line["id"]: line["error"]
            for line in lines
            if line["error"] and line["equal"] is not False
        },
        "not_run": {line["id"]: line.get("note") for line in lines if line["equal"] is None},
        "declined": declined(lines),
        "lines": [{k: v for k, v in line.items() if k != "records"} for line in lines],
    }


def succeeded(answer: Result) -> bool:
    return not (answer["out_of_range"] or answer["unequal"] or answer["errors"])


def group_table(title: str, groups: dict[str, Result]) -> str:
    heads = (title, "files", "in range", "blocks", "fused", "unequal", "not run")
    rows = []
    for name, values in groups.items():
        counts = [str(values[key]) for key in ("files", "in_range", "blocks")]
        rest = [str(values[key]) for key in ("unequal", "not_run")]
        rows.append([name, *counts, share(values), *rest])
    return markdown.table(heads, rows, heads[1:])


def share(values: Result) -> str:
    percent = "" if values["percent"] is None else f" ({values['percent']:.1f} %)"
    return f"{values['fused']}{percent}"


def tools_table(answer: Result) -> str:
    """omfuse beside the other tools, in the order of the blocks that they fuse."""
    from benchmarks import peers

    totals = {"omfuse": answer["total"]}
    totals |= {peers.TITLES[name]: peer["total"] for name, peer in answer["peers"].items()}
    rows = []
    for name, total in sorted(totals.items(), key=lambda item: -item[1]["fused"]):
        ran = total["not_run"] < total["files"]
        unequal = str(total["unequal"]) if ran else "not run"
        rows.append([name, f"{total['in_range']} of {total['files']}", share(total), unequal])
    heads = ("tool", "files in range", "blocks fused", "unequal files")
    return markdown.table(heads, rows, heads[1:])


def print_report(console: Console, answer: Result, families: bool) -> None:
    groups = {"source": answer["by_kind"], "exporter": answer["by_exporter"]}
    if families:
        groups["family"] = answer["by_family"]
    for title, group in groups.items():
        print(group_table(title, group), end="\n\n")
    print(group_table("in all", {"total": answer["total"]}), flush=True)
    by_id = {line["id"]: line for line in answer["lines"]}
    for name in answer["out_of_range"]:
        line = by_id[name]
        mark = "TOO MANY" if line["fused"] > line["max"] else "missed"
        wanted = f"{line['min']}..{line['max']}"
        console.print(f"{mark}: {name}: {line['fused']} fused, expected {wanted}", highlight=False)
    for title in ("unequal", "errors"):
        for name, text in answer[title].items():
            console.print(f"{title}: {name}: {text}", highlight=False, markup=False)
    for group in answer["declined"]:
        console.print(
            f"{group['count']:4d} {group['code']} in {', '.join(group['examples'])}",
            highlight=False, markup=False,
        )  # fmt: skip
        for reason, often in group["reasons"]:
            console.print(f"       {often} x {reason}", highlight=False, markup=False)


def _compare(folder: Path, cases: list[Case], jobs: int, console: Console) -> dict[str, Result]:
    from benchmarks import peers

    answers: dict[str, Result] = {}
    for name in peers.available():
        console.print(f"{name}: {len(cases)} files")
        lines = measure_all(folder, cases, jobs, name)
        answers[name] = {
            "total": summary(lines),
            "failed": sum(bool(line["error"]) and line["equal"] is None for line in lines),
            "lines": [{k: v for k, v in line.items() if k != "records"} for line in lines],
        }
    return answers


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with manifest.json")
    parser.add_argument("--only", default="", help="cases whose id contains this text")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--families", action="store_true", help="print the table by family")
    parser.add_argument("--peers", action="store_true", help="measure other tools as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(stderr=options.json, soft_wrap=True)
    loud = Console(stderr=True)
    cases = load_cases(options.corpus, options.only)
    if not cases:
        print(f"no case of {options.corpus} contains {options.only!r}", file=sys.stderr)
        return 2
    started = time.perf_counter()

    def progress(count: int, line: Result) -> None:
        if loud.is_terminal and count % 10 == 0:
            loud.print(f"{count}/{len(cases)} {line['id']}", end="\r")

    answer = report(measure_all(options.corpus, cases, options.jobs, progress=progress))
    answer["wall_seconds"] = round(time.perf_counter() - started, 1)
    if options.peers:
        answer["peers"] = _compare(options.corpus, cases, options.jobs, loud)
    if options.json:
        print(json.dumps({"schema": "omfuse.coverage/1", **answer}))
    else:
        print_report(console, answer, options.families)
        console.print(f"{answer['wall_seconds']} s on {options.jobs} processes", highlight=False)
        if options.peers:
            print("\n" + tools_table(answer))
    return 0 if succeeded(answer) else 1


if __name__ == "__main__":
    sys.exit(main())
