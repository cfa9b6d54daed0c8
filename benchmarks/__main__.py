"""Measure every table of the pages again, from scratch.

    python -m benchmarks --corpus CORPUS              # print them
    python -m benchmarks --corpus CORPUS --write      # and put them into docs/
    python -m benchmarks --only rewrite-speed,host-speed --write

Each benchmark is a process of its own, one after the other, and prints its table in Markdown; let
nothing else run meanwhile.  Needs what the extra `benchmarks` installs, and hours where the second
corpus has yet to be exported.  Exits 1 when a benchmark fails: its table stays as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import markdown

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Table:
    """One table of a page: the command that prints it and its first heading."""

    name: str
    page: str
    command: tuple[str, ...]
    heading: str
    needs_corpus: bool = False
    answer_counts: bool = True  # a non-zero exit means that the table must not be shown


TABLES = (
    Table("coverage", "benchmarks.md", ("coverage", "--peers"), "tool", needs_corpus=True),
    Table("zoo", "benchmarks.md", ("zoo",), "source", answer_counts=False),
    Table("rewrite-speed", "benchmarks.md", ("rewrite_speed",), "model"),
    Table("host-speed", "benchmarks.md", ("host_speed",), "block"),
    Table("estimates-910B3", "benchmarks.md", ("kernel_estimates", "--soc", "910B3"), "attention"),
    Table("estimates-310P3", "benchmarks.md", ("kernel_estimates", "--soc", "310P3"), "attention"),
    Table("compile-corpus", "benchmarks.md", ("compile_corpus",), "chip", needs_corpus=True),
    Table("run-corpus", "benchmarks.md", ("run_corpus",), "verdict", needs_corpus=True),
    Table("diff-fp16", "diff.md", ("diff_sensitivity",), "case"),
    Table("diff-bf16", "diff.md", ("diff_sensitivity", "--precision", "bf16"), "case"),
    Table("diff-corpus", "diff.md", ("diff_corpus", "--every", "3"), "rewrite", needs_corpus=True),
    Table("faults", "reliability.md", ("fault_matrix",), "fault"),
)


def measure(table: Table, corpus: Path | None) -> str:
    """Run one benchmark and return its table.

    Raises:
        RuntimeError: it failed.
        LookupError: it printed no such table.
    """
    words = [sys.executable, "-m", f"benchmarks.{table.command[0]}", *table.command[1:]]
    if table.needs_corpus:
        words += ["--corpus", str(corpus)]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and (table.answer_counts or done.returncode > 1):
        raise RuntimeError(f"{' '.join(words[1:])} ended with exit code {done.returncode}")
    return markdown.find(done.stdout, table.heading)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(table.name for table in TABLES)
    parser.add_argument("--corpus", type=Path, help="folder with manifest.json, inputs.py, models")
    parser.add_argument("--only", default="", help=f"comma-separated, of: {names}")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    options = parser.parse_args(arguments)
    chosen = [t for t in TABLES if not options.only or t.name in options.only.split(",")]
    unknown = set(filter(None, options.only.split(","))) - {table.name for table in TABLES}
    if unknown:
        parser.error(f"no table {', '.join(sorted(unknown))}; the tables are: {names}")
    if options.corpus is None and any(table.needs_corpus for table in chosen):
        parser.error("--corpus is needed, or --only with tables that need none")
    failed = 0
    for table in chosen:
        started = time.perf_counter()
        print(f"{table.name} ...", file=sys.stderr, flush=True)
        try:
            content = measure(table, options.corpus)
        except (RuntimeError, LookupError) as error:
            print(f"{table.name}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{table.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        print(f"\n{table.name}\n\n{content}", flush=True)
        if options.write:
            page = ROOT / "docs" / table.page
            page.write_text(markdown.fill(page.read_text(), table.name, content))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
