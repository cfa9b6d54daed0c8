"""Estimate attentions of well-known models on a chip: this kernel's counted work beside plans.

    python -m benchmarks.kernel_estimates --soc 910B3 [--only llama] [--json]

Nothing is measured on an NPU. *Unfused* is the chain of operators that ATC makes of the exported
graph; *public*, *first* and *tuned* are equations for the level of public kernels, of a first and
of a tuned kernel of this design; *this kernel* counts what the emulated kernel issues, clocked by
a table of instruction costs. `omfuse op estimate` shows one of them with all its parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks import markdown

from omfuse.ops.estimate import estimate


@dataclass(frozen=True)
class Shape:
    """One attention; `kv_heads` 0 means as many as `heads`."""

    name: str
    batch: int
    heads: int
    q_len: int
    kv_len: int
    depth: int
    kv_heads: int = 0
    causal: bool = False


SHAPES = (
    Shape("BERT base, S 128", 1, 12, 128, 128, 64),
    Shape("BERT base, S 128, batch 32", 32, 12, 128, 128, 64),
    Shape("BERT base, S 512, batch 32", 32, 12, 512, 512, 64),
    Shape("ViT-B/16, batch 64", 64, 12, 197, 197, 64),
    Shape("ViT-L/14, batch 32", 32, 16, 577, 577, 64),
    Shape("SD 1.5 self, 256", 2, 8, 256, 256, 160),
    Shape("SD 1.5 self, 1024", 2, 8, 1024, 1024, 80),
    Shape("SD 1.5 self, 4096", 2, 8, 4096, 4096, 40),
    Shape("SD 1.5 cross, 4096 x 77", 2, 8, 4096, 77, 40),
    Shape("SD 2.1 self, 4096", 2, 5, 4096, 4096, 64),
    Shape("SDXL self, 1024", 2, 20, 1024, 1024, 64),
    Shape("SDXL self, 4096", 2, 10, 4096, 4096, 64),
    Shape("Flux, 4608", 1, 24, 4608, 4608, 128),
    Shape("Llama 7B prefill, 2048", 1, 32, 2048, 2048, 128, causal=True),
    Shape("Llama 7B prefill, 4096", 1, 32, 4096, 4096, 128, causal=True),
    Shape("Llama 3 8B prefill, 8192", 1, 32, 8192, 8192, 128, 8, causal=True),
    Shape("decode, 4096 keys", 1, 32, 1, 4096, 128, 8),
    Shape("decode, 4096 keys, batch 16", 16, 32, 1, 4096, 128, 8),
    Shape("decode, 32768 keys", 1, 32, 1, 32768, 128, 8),
)
COLUMNS = {"atc": "unfused", "public": "public", "v1": "first", "target": "tuned"}


def measure(shape: Shape, soc: str) -> dict[str, Any]:
    """Return the JSON form of one estimate, named."""
    sizes = (shape.batch, shape.heads, shape.q_len, shape.kv_len, shape.depth)
    found = estimate(soc, sizes, shape.kv_heads or None, causal=shape.causal)
    return {"name": shape.name, **found.as_dict()}


def row(line: dict[str, Any]) -> list[str]:
    rows = {one["name"]: one for one in line["rows"]}
    case, ours = line["case"], rows.get("kernel")
    sizes = "{batch}, {heads}, {q_len}, {kv_len}, {depth}".format(**case)
    cells = [line["name"], sizes]
    cells += [f"{rows[name]['seconds'] * 1e6:,.0f}" for name in COLUMNS]
    if ours is None:
        return [*cells, line["not_counted"], "-", "-", "-"]
    ratio = rows["atc"]["seconds"] / ours["seconds"]
    peak = f"{100 * ours['utilisation']:.0f} %"
    return [*cells, f"{ours['seconds'] * 1e6:,.0f}", peak, ours["bound"], f"{ratio:.1f}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--soc", default="910B3")
    parser.add_argument("--only", default="", help="attentions whose name contains this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    chosen = [shape for shape in SHAPES if given.only.lower() in shape.name.lower()]
    lines = [measure(shape, given.soc) for shape in chosen]
    if given.json:
        print(json.dumps({"schema": "omfuse.kernel-estimates/1", "lines": lines}))
        return 0
    heads = ["attention", "B, N, Sq, Skv, D", *(f"{text} us" for text in COLUMNS.values())]
    heads += ["this kernel us", "of cube peak", "bound by", "unfused / this kernel"]
    right = [head for head in heads[2:] if head != "bound by"]
    print(markdown.table(heads, map(row, lines), right))
    return 0


if __name__ == "__main__":
    sys.exit(main())
