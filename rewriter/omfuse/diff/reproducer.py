"""Write the smallest failing piece of a model as files anyone can run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from omfuse.diff import splice
from omfuse.diff.blocks import Checker
from omfuse.diff.report import DiffReport
from omfuse.diff.verdict import BLOCK, judge
from omfuse.errors import OmfuseError, OutputError
from omfuse.host.feeding import write_npz
from omfuse.session_protocol import Array


def write(
    folder: str | Path, blocks: Sequence[splice.Block], checker: Checker, report: DiffReport
) -> str:
    """Write ``original.onnx``, ``rewritten.onnx``, ``inputs.npz`` and ``README.txt``.

    The smallest guilty block is taken, and its batch is cut to the one row that still fails.

    Returns:
        The command that shows the failure.

    Raises:
        OutputError: ``cannot-write``.
    """
    block = min(blocks, key=lambda b: len(splice.View(checker.b).slice(b.output, set(b.inputs))[0]))
    feeds, _, _, _ = checker.inputs_of(block)
    feeds = _one_row(block, feeds, checker)
    a = splice.cut(checker.a, block.inputs, block.output, feeds)
    b = splice.cut(checker.b, block.inputs, block.output, feeds)
    _declare_same_inputs(a, b)
    for part, place in ((a, checker.original.base_dir), (b, checker.b_dir)):
        if place is not None:
            onnx.load_external_data_for_model(part, str(place))
    command = (
        "omfuse diff original.onnx rewritten.onnx --inputs inputs.npz "
        f"--precision {report.precision}"
    )
    target = Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".omfuse-") as name:
            work = Path(name) / "reproducer"
            work.mkdir()
            onnx.save(a, work / "original.onnx")
            onnx.save(b, work / "rewritten.onnx")
            write_npz(work / "inputs.npz", feeds)
            text = f"block {block.name}, tensor {block.output}\n\n{command}\n"
            (work / "README.txt").write_text(text, encoding="utf-8")
            target.mkdir(exist_ok=True)
            for file in work.iterdir():
                shutil.move(str(file), target / file.name)
    except OSError as error:
        raise OutputError(
            "cannot-write", str(error), where=str(target), hint="choose another folder"
        ) from error
    return f"cd {target} && {command}"


def _declare_same_inputs(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Give both cuts the same inputs: one side may not read what the other computes from."""
    for source, target in ((a, b), (b, a)):
        have = {value.name for value in target.graph.input}
        target.graph.input.extend(v for v in source.graph.input if v.name not in have)


def _one_row(block: splice.Block, feeds: Mapping[str, Array], checker: Checker) -> dict[str, Array]:
    """Keep one batch row when the block still runs and fails with it."""
    batches = {array.shape[0] for array in feeds.values() if array.ndim >= 2 and array.shape[0] > 1}
    if len(batches) != 1:
        return dict(feeds)
    batch = batches.pop()
    for row in range(batch):
        smaller = {
            name: array[row : row + 1] if array.ndim >= 2 and array.shape[0] == batch else array
            for name, array in feeds.items()
        }
        try:
            model = splice.cut(checker.a, block.inputs, block.output, smaller)
            part = checker.part(model)
            try:
                golden = part.run(smaller)
                emulated, ran_in = part.emulated(smaller, golden, checker.precision)
            finally:
                part.close()
            got = checker.run_block(block, smaller)
        except OmfuseError:
            continue
        verdict = judge(
            block.output,
            golden[block.output],
            got,
            emulated[block.output],
            checker.precision,
            factors=BLOCK,
            emulated_in=ran_in,
        )
        if verdict.verdict == "fail":
            return smaller
    return dict(feeds)
