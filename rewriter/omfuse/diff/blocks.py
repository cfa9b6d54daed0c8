"""Blocks of two graphs: each one alone on golden inputs, along the model, and switched on.

A block is a tensor that both graphs name but make by different nodes.  Its inputs are the nearest
tensors upstream that both graphs also name, so it can be cut out of both and fed with the same
golden values (teacher forcing): an error then belongs to the block and to nothing before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from omfuse.diff import splice
from omfuse.diff.golden import Original, load_original
from omfuse.diff.live_rows import live_rows
from omfuse.diff.roles import is_float
from omfuse.diff.verdict import BLOCK, MODEL, TensorVerdict, judge
from omfuse.errors import OmfuseError
from omfuse.session_protocol import Array

TAP_BYTES = 256 << 20  # tensors held at once while intermediate values are compared


@dataclass
class BlockResult:
    """One differing block.

    Attributes:
        name: name of the FlashAttention node, or of the tensor.
        softmax: the original softmax, when the rewrite noted it.
        output: tensor both graphs name.
        depth: position along the original, 0 to 1.
        local: verdict of the block alone on golden inputs.
        accumulated: verdict of the same tensor in the full run.
        problem: why it could not be checked.
    """

    name: str
    softmax: str | None
    output: str
    depth: float
    local: TensorVerdict | None = None
    accumulated: TensorVerdict | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "softmax": self.softmax,
            "output": self.output,
            "depth": self.depth,
            "local": self.local.as_dict() if self.local else None,
            "accumulated": self.accumulated.as_dict() if self.accumulated else None,
            "problem": self.problem,
        }


class Checker:
    """Runs single blocks and hybrids of the two graphs on one set of inputs."""

    def __init__(
        self,
        original: Original,
        a: onnx.ModelProto,
        b: onnx.ModelProto,
        feeds: Mapping[str, Array],
        precision: str,
        dead_rows: str = "report",
        b_dir: Path | None = None,
    ) -> None:
        self.b_dir = b_dir
        self.dead_rows = dead_rows
        self.original = original
        self.a = a
        self.b = b
        self.feeds = feeds
        self.precision = precision
        self.pictures: dict[str, Any] = {}
        self._worst = -1.0

    def golden(self, names: Sequence[str]) -> dict[str, Array]:
        """Return inner tensors and inputs of the original by name."""
        taps = [n for n in names if n not in self.feeds]
        found = self.original.run(self.feeds, taps=taps) if taps else {}
        fed = {n: self.feeds[n] for n in names if n in self.feeds}
        return {**{n: found[n] for n in taps}, **fed}

    def check(self, block: splice.Block) -> BlockResult:
        """Judge one block on golden inputs."""
        result = BlockResult(block.name, block.softmax, block.output, block.depth)
        try:
            feeds, golden, emulated, ran_in = self.inputs_of(block)
            got = self.run_block(block, feeds)
        except OmfuseError as error:
            result.problem = error.message
            return result
        result.local = judge(
            block.output,
            golden,
            got,
            emulated,
            self.precision,
            factors=BLOCK,
            emulated_in=ran_in,
            live_rows=self._live(block, feeds, golden),
            dead_policy=self.dead_rows,
        )
        if golden.shape == got.shape and result.local.ratio > self._worst:
            self._worst = result.local.ratio
            self.pictures = {"block": block.name, "golden": golden, "error": got - golden}
        return result

    def part(self, model: onnx.ModelProto) -> Original:
        """Open a piece of the original."""
        return load_original(
            model,
            isolated=self.original.isolated,
            cache=False,
            base_dir=self.original.base_dir,
        )

    def inputs_of(self, block: splice.Block) -> tuple[dict[str, Array], Array, Array, str]:
        """Return golden inputs, golden output, emulated output and its precision of a block.

        The inputs are rounded as the model's own dtypes round them, so that no error of the
        inputs is charged to the block.
        """
        values = self.golden(block.inputs)
        model = splice.cut(self.a, block.inputs, block.output, values)
        values = {n: values[n].astype(splice.input_dtype(model, n)) for n in values}
        part = self.part(model)
        try:
            golden = part.run(values)
            emulated, ran_in = part.emulated(values, golden, self.precision)
        finally:
            part.close()
        return values, golden[block.output], emulated[block.output], ran_in

    def run_block(self, block: splice.Block, feeds: Mapping[str, Array]) -> Array:
        """Run the other graph's version of a block."""
        from omfuse.host.session import HostSession

        model = splice.cut(self.b, block.inputs, block.output, feeds)
        with HostSession(model, isolated=self.original.isolated, base_dir=self.b_dir) as session:
            needed = {info.name for info in session.inputs}
            return session.run({n: a for n, a in feeds.items() if n in needed})[block.output]

    def _live(self, block: splice.Block, feeds: Mapping[str, Array], golden: Array) -> Array | None:
        model = splice.cut(self.a, block.inputs, block.output, feeds)
        part = self.part(model)
        try:
            return live_rows(part, feeds, {block.output: golden}).get(block.output)
        finally:
            part.close()

    def accumulate(self, blocks: Sequence[splice.Block], results: Sequence[BlockResult]) -> None:
        """Judge the blocks' tensors in the full run, a bounded number of bytes at a time."""
        by_name = {result.output: result for result in results}
        for verdict in self.along([b.output for b in blocks]):
            by_name[verdict.name].accumulated = verdict

    def along(self, names: Sequence[str]) -> list[TensorVerdict]:
        """Judge inner tensors of the full run without holding them all in memory."""
        from omfuse.host.session import HostSession

        sizes = splice.sizes(self.a, self.feeds)
        verdicts = []
        for group in splice.groups(names, sizes, TAP_BYTES):
            golden = self.golden(group)
            emulated, ran_in = self.original.emulated(self.feeds, golden, self.precision, group)
            with HostSession(
                self.b,
                extra_outputs=tuple(group),
                isolated=self.original.isolated,
                base_dir=self.b_dir,
            ) as session:
                got = session.run(self.feeds)
            for name in group:
                if not is_float(golden[name].dtype):
                    continue
                verdicts.append(
                    judge(
                        name,
                        golden[name],
                        got[name],
                        emulated[name],
                        self.precision,
                        factors=MODEL,
                        emulated_in=ran_in,
                    )
                )
        return verdicts

    def hybrid_fails(self, blocks: Sequence[splice.Block]) -> bool:
        """Tell whether the original with only these blocks replaced still fails."""
        from omfuse.host.session import HostSession

        model = splice.hybrid(self.a, self.b, blocks, self.b_dir)
        golden = self.original.run(self.feeds)
        emulated, ran_in = self.original.emulated(self.feeds, golden, self.precision)
        live = live_rows(self.original, self.feeds, golden)
        with HostSession(
            model, isolated=self.original.isolated, base_dir=self.original.base_dir
        ) as session:
            got = session.run(self.feeds)
        return any(
            judge(
                name,
                array,
                got[name],
                emulated.get(name),
                self.precision,
                live_rows=live.get(name),
                dead_policy=self.dead_rows,
                emulated_in=ran_in,
            ).verdict
            == "fail"
            for name, array in golden.items()
        )

    def bisect(self, blocks: Sequence[splice.Block]) -> tuple[list[str], list[dict[str, Any]]]:
        """Find guilty blocks with about log2(n) hybrids each.

        Hybrids hold the first k rewrites; the guilty one is where passing turns to failing.  It
        is then left out, and the search goes on until the rest passes.
        """
        steps: list[dict[str, Any]] = []

        def fails(chosen: Sequence[splice.Block]) -> bool:
            answer = self.hybrid_fails(chosen)
            steps.append({"blocks": [b.name for b in chosen], "fails": answer})
            return answer

        left, guilty = list(blocks), []
        while left and fails(left):
            low, high = 0, len(left)  # first low pass, first high fail
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if fails(left[:middle]) else (middle, high)
            guilty.append(left.pop(high - 1).name)
        return guilty, steps
