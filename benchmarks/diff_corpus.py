"""Does `omfuse diff` pass every right rewrite of a corpus and fail every wrong one?

    python -m benchmarks.diff_corpus --corpus CORPUS [--every 5] [--outputs-only]

Each model is rewritten, and its last FlashAttention node is then made wrong in one way at a time.
A mistake that cannot be seen (a mask that masks nothing, say) is told apart by running both models
on the same inputs: a mutant whose outputs are bit-equal to the right rewrite is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from benchmarks.corpus import load_cases
from benchmarks.worker import Worker
from onnx import helper

Result = dict[str, Any]


def _last(model: onnx.ModelProto) -> onnx.NodeProto | None:
    found = [n for n in model.graph.node if n.domain == "omfuse" and n.op_type == "FlashAttention"]
    return found[-1] if found else None


def _attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _scale(factor: float) -> Callable[[onnx.NodeProto], bool]:
    def change(node: onnx.NodeProto) -> bool:
        scale = next(a.f for a in node.attribute if a.name == "scale")
        _attribute(node, "scale", scale * factor)
        return True

    return change


def _without(index: int) -> Callable[[onnx.NodeProto], bool]:
    def change(node: onnx.NodeProto) -> bool:
        if len(node.input) <= index or not node.input[index]:
            return False
        node.input[index] = ""
        return True

    return change


def _not_causal(node: onnx.NodeProto) -> bool:
    causal = next((a.s for a in node.attribute if a.name == "causal"), b"none")
    if causal == b"none":
        return False
    _attribute(node, "causal", "none")
    return True


def _swapped(node: onnx.NodeProto) -> bool:
    """Give the key where the query belongs: only where both have one shape."""
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return node.input[0] != node.input[1]


MISTAKES: dict[str, Callable[[onnx.NodeProto], bool]] = {
    "scale +2 %": _scale(1.02),
    "scale +10 %": _scale(1.1),
    "bias dropped": _without(3),
    "mask dropped": _without(4),
    "causal dropped": _not_causal,
    "query and key swapped": _swapped,
}


def check(path: str, localise: bool) -> Result:
    """Verdict of the right rewrite and of each mistake: `pass`, `fail`, `unseen` or an error."""
    import numpy as np

    import omfuse
    from omfuse.diff import diff
    from omfuse.diff.inputs import generate_inputs
    from omfuse.host.session import HostSession

    result = omfuse.rewrite(path)
    if not result.fused:
        return {}
    options = {"session_options": {"base_dir": Path(path).parent}, "cache": False}

    def verdict(model: onnx.ModelProto) -> str:
        return diff(path, model, localise=localise, second_shape=False, **options).verdict

    answers = {"right": verdict(result.model)}
    for name, change in MISTAKES.items():
        wrong = onnx.ModelProto()
        wrong.CopyFrom(result.model)
        node = _last(wrong)
        if node is None or not change(node):
            continue
        try:
            answers[name] = verdict(wrong)
        except Exception as error:  # the mistake makes a model that cannot run
            answers[name] = f"error {type(error).__name__}"
            continue
        if answers[name] == "pass":
            feeds = generate_inputs(result.model)
            outputs = []
            for model in (result.model, wrong):
                with HostSession(model, base_dir=Path(path).parent) as session:
                    outputs.append(session.run(feeds))
            if all(np.array_equal(outputs[0][k], outputs[1][k], True) for k in outputs[0]):
                answers[name] = "unseen"
    return answers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose id contains this text")
    parser.add_argument("--every", type=int, default=1, help="each n-th case only")
    parser.add_argument("--outputs-only", action="store_true", help="do not look at single blocks")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    lines: dict[str, Result] = {}
    with Worker(check) as worker:
        for case in load_cases(options.corpus, options.only)[:: options.every]:
            status, answer = worker.call(case["path"], not options.outputs_only, timeout=300)
            lines[case["id"]] = answer if status == "ok" else {"right": f"error {answer}"[:200]}
            print(case["id"], lines[case["id"]], file=sys.stderr)
    table = {
        name: dict(Counter(line[name].split()[0] for line in lines.values() if name in line))
        for name in ("right", *MISTAKES)
    }
    if options.json:
        print(json.dumps({"schema": "omfuse.diff-corpus/1", "table": table, "lines": lines}))
    else:
        print("| rewrite | pass | fail | not visible | does not run |\n|---|---|---|---|---|")
        for name, counts in table.items():
            cells = [str(counts.get(k, 0)) for k in ("pass", "fail", "unseen", "error")]
            print(f"| {name} | {' | '.join(cells)} |")
    wrong = sum(counts.get("pass", 0) for name, counts in table.items() if name != "right")
    return 1 if wrong or table["right"].get("fail", 0) else 0


if __name__ == "__main__":
    sys.exit(main())
