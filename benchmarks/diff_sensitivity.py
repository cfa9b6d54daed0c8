"""Which rule catches which bug: two attention blocks, correct arithmetic and the bug zoo.

Run ``python benchmarks/diff_sensitivity.py [--length 512] [--precision fp16]``.  The first block
carries the bug; its output is judged by omfuse, and by the thresholds of msit and Polygraphy.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from omfuse.diff import diff
from omfuse.diff.vendor_rules import msit, polygraphy
from omfuse.host.session import HostSession

HEADS, DEPTH, SCALE = 8, 64, 0.125
ELEM = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "fp32": TensorProto.FLOAT}
BLOCKS = ("attention.0", "attention.1")


@dataclass(frozen=True)
class Bug:
    """One way to be wrong, applied to the first block."""

    name: str
    scale: float = SCALE
    keep_mask: bool = True
    causal: bool = True  # the original is causal
    window_right: int | None = None  # replaces the causal rule
    swap_heads: bool = False
    zero_tile: bool = False
    nan: bool = False
    masked_rows: str = "uniform"
    inner_precision: str = "fp32"
    dead: bool = False  # one batch row hides every key
    wrong: bool = True


ZOO = (
    Bug("correct, fp32 accumulate", wrong=False),
    Bug("correct, not causal", causal=False, wrong=False),
    Bug("scale +2 %", scale=SCALE * 1.02),
    Bug("scale 0.1 instead of 0.125", scale=0.1),
    Bug("padding ignored (causal)", keep_mask=False),
    Bug("padding ignored, not causal", keep_mask=False, causal=False),
    Bug("causal off by one", window_right=1),
    Bug("2 of 8 K heads swapped", swap_heads=True),
    Bug("one 16-row tile zeroed", zero_tile=True),
    Bug("dead rows zero instead of mean", masked_rows="zero", dead=True, causal=False),
    Bug("NaN in one row", nan=True),
)


class Graph:
    """A small ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def const(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, *inputs: str, out: str, **attrs: object) -> str:
        domain = attrs.pop("domain", "")
        self.nodes.append(helper.make_node(op, inputs, [out], out, domain=domain, **attrs))
        return out

    def model(self, length: int, batch: int = 2) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        shape = [batch, HEADS, length, DEPTH]
        inputs = [value(n, TensorProto.FLOAT, shape) for n in ("q", "k", "v", "k2", "v2")]
        inputs.append(value("attention_mask", TensorProto.INT64, [batch, length]))
        outputs = [value("y", TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "two_blocks", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("omfuse", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _padding(g: Graph) -> str:
    g.const("axes", np.array([1, 2]))
    g.add("Cast", "attention_mask", out="mask.bool", to=TensorProto.BOOL)
    return g.add("Unsqueeze", "mask.bool", "axes", out="mask")


def original(length: int, causal: bool = True) -> onnx.ModelProto:
    """Two unfused blocks, masked by Where with a large finite fill."""
    g = Graph()
    keep = _padding(g)
    if causal:
        lower = np.tril(np.ones((length, length), bool))[None, None]
        keep = g.add("And", keep, g.const("lower", lower), out="keep")
    g.const("fill", np.float32(-1e9))
    g.const("scale", np.float32(SCALE))
    query = "q"
    for number, (key, value) in enumerate((("k", "v"), ("k2", "v2"))):
        p = f"block{number}."
        g.add("Transpose", key, out=p + "kt", perm=[0, 1, 3, 2])
        g.add("MatMul", query, p + "kt", out=p + "s")
        g.add("Mul", p + "s", "scale", out=p + "scaled")
        g.add("Where", keep, p + "scaled", "fill", out=p + "masked")
        g.add("Softmax", p + "masked", out=p + "p", axis=-1)
        g.add("MatMul", p + "p", value, out=p + "o")
        query = g.add("Mul", p + "o", g.const(p + "g", np.float32(3)), out=p + "next")
    g.add("Identity", query, out="y")
    return g.model(length)


def rewritten(length: int, bug: Bug, precision: str = "fp16") -> onnx.ModelProto:
    """The same two blocks fused, computing in ``precision``, with a bug in the first."""
    g = Graph()
    g.const("axes", np.array([1, 2]))
    query = "q"
    g.add("Cast", "attention_mask", out="mask.bool", to=TensorProto.BOOL)
    g.add("Unsqueeze", "mask.bool", "axes", out="mask")
    for number, (key, value) in enumerate((("k", "v"), ("k2", "v2"))):
        # A dead row of the first block feeds only dead rows of the second, which hide it again.
        here = bug if number == 0 or bug.dead else Bug("none", causal=bug.causal)
        query = _fused_block(g, number, query, key, value, here, precision, length)
    g.add("Identity", query, out="y")
    return g.model(length)


def _fused_block(
    g: Graph, number: int, query: str, key: str, value: str, bug: Bug, precision: str, length: int
) -> str:
    p, elem = f"block{number}.", ELEM[precision]
    if bug.swap_heads:
        g.const(p + "heads", np.array([1, 0, *range(2, HEADS)]))
        key = g.add("Gather", key, p + "heads", out=p + "swapped", axis=1)
    feeds = [
        g.add("Cast", source, out=f"{p}{role}", to=elem)
        for role, source in (("query", query), ("key", key), ("value", value))
    ]
    attrs: dict[str, object] = {
        "num_heads": HEADS,
        "num_kv_heads": HEADS,
        "scale": float(bug.scale),
        "masked_rows": bug.masked_rows,
        "inner_precision": bug.inner_precision,
    }
    if bug.window_right is not None:
        attrs["window_right"] = bug.window_right
    elif bug.causal:
        attrs["causal"] = "top_left"
    mask = ["", "mask"] if bug.keep_mask else []
    out = f"{p}raw"
    node = helper.make_node(
        "FlashAttention", [*feeds, *mask], [out], BLOCKS[number], domain="omfuse", **attrs
    )
    note = node.metadata_props.add()
    note.key, note.value = "omfuse.softmax", f"{p}p"
    g.nodes.append(node)
    g.add("Cast", out, out=p + "wide", to=TensorProto.FLOAT)
    result = p + "wide"
    if bug.zero_tile:
        tile = np.ones((1, HEADS, length, 1), np.float32)
        tile[0, 3, length // 2 : length // 2 + 16] = 0
        result = g.add("Mul", result, g.const(p + "tile", tile), out=p + "tiled")
    if bug.nan:
        spot = np.zeros((1, HEADS, length, 1), bool)
        spot[0, 2, 5] = True
        g.const(p + "spot", spot)
        g.const(p + "nan", np.float32(np.nan))
        result = g.add("Where", p + "spot", p + "nan", result, out=p + "hurt")
    g.add("Identity", result, out=p + "o")
    return g.add("Mul", p + "o", g.const(p + "g", np.float32(3)), out=p + "next")


def make_inputs(length: int, dead: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """N(0,1) tensors, 16 padded keys in one batch row (all of them for dead rows)."""
    rng = np.random.default_rng(seed)
    shape = (2, HEADS, length, DEPTH)
    feeds = {n: rng.standard_normal(shape).astype(np.float32) for n in ("q", "k", "v", "k2", "v2")}
    # What a narrow device can read exactly, so that its own inputs are not charged to it.
    feeds = {n: a.astype(np.float16).astype(np.float32) for n, a in feeds.items()}
    mask = np.ones((2, length), np.int64)
    mask[1, 0 if dead else length - 16 :] = 0
    return {**feeds, "attention_mask": mask}


def row(bug: Bug, length: int, precision: str) -> dict[str, object]:
    """Judge one member of the zoo by all three rules."""
    feeds = make_inputs(length, bug.dead)
    a, b = original(length, bug.causal), rewritten(length, bug, precision)
    report = diff(
        a,
        b,
        inputs=feeds,
        precision=precision,
        localise=True,
        cache=False,
        dead_rows="strict" if bug.dead else "report",
    )
    with HostSession(a, optimize=False, extra_outputs=("block0.o",)) as session:
        golden = session.run(feeds)["block0.o"]
    with HostSession(b, optimize=False, extra_outputs=("block0.o",)) as session:
        got = session.run(feeds)["block0.o"]
    first = report.blocks[0].local
    return {
        "case": bug.name,
        "cosine": msit(golden, got)["cosine"],
        "msit": "pass" if msit(golden, got)["pass"] else "fail",
        "polygraphy": "pass" if polygraphy(golden, got)["pass"] else "fail",
        "omfuse": report.verdict,
        "x limit": first.ratio,
        "culprits": ", ".join(report.culprits),
        "wrong": bug.wrong,
        "report": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16")
    args = parser.parse_args()
    columns = ("case", "cosine", "msit", "polygraphy", "omfuse", "x limit", "culprits")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for bug in ZOO:
        found = row(bug, args.length, args.precision)
        cells = [found[c] for c in columns]
        print("| " + " | ".join(f"{c:.5g}" if isinstance(c, float) else str(c) for c in cells), "|")


if __name__ == "__main__":
    main()
