"""What a comparison says: cases, verdicts of outputs and blocks, and their JSON form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omfuse.diff.blocks import BlockResult
from omfuse.diff.verdict import TensorVerdict
from omfuse.session_protocol import Array

Tell = Callable[[str], None]
VERDICTS = {"pass": 0, "unsupported": 1, "fail": 2}  # best first


@dataclass
class Case:
    """One set of inputs and what both sides made of it."""

    label: str
    feeds: Mapping[str, Array]
    verdicts: list[TensorVerdict] = field(default_factory=list)
    outputs: Mapping[str, Array] = field(default_factory=dict)  # the worst case only
    golden: Mapping[str, Array] = field(default_factory=dict)  # the worst case only

    @property
    def ratio(self) -> float:
        """Return the largest ratio to a limit."""
        return max((verdict.ratio for verdict in self.verdicts), default=0.0)


@dataclass
class DiffReport:
    """The answer.

    Attributes:
        verdict: ``pass``, ``fail`` or ``unsupported``.
        a: label of the golden side.
        b: label of the judged side.
        device: where b ran.
        precision: what b is held to.
        outputs: the worst verdict of each output over all cases.
        seeds: seeds used, or none for given inputs.
        inputs: how the inputs were made.
        inputs_sha256: hash of the inputs of the first case.
        replay: command that repeats the comparison.
        cases: every case, with its inputs.
        blocks: per-block results, see :mod:`omfuse.diff.localise`.
        culprits: blocks to which a failure was traced.
        notes: what the reader should know.
    """

    verdict: str
    a: str
    b: str
    device: str
    precision: str
    outputs: list[TensorVerdict]
    seeds: list[int]
    inputs: str
    inputs_sha256: str
    replay: str
    cases: list[Case]
    blocks: list[BlockResult] = field(default_factory=list)
    culprits: list[str] = field(default_factory=list)
    bisection: list[Any] = field(default_factory=list)
    tensors: list[TensorVerdict] = field(default_factory=list)
    reproducer: str | None = None
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Tell whether every output is within its budget."""
        return self.verdict == "pass"

    def worst_case(self) -> Case:
        """Return the inputs with the largest ratio to a limit."""
        return max(self.cases, key=lambda case: case.ratio)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, schema ``omfuse.diff/1``."""
        document: dict[str, Any] = _plain(
            {
                "schema": "omfuse.diff/1",
                "verdict": self.verdict,
                "a": self.a,
                "b": self.b,
                "device": self.device,
                "precision": self.precision,
                "outputs": [output.as_dict() for output in self.outputs],
                "seeds": self.seeds,
                "cases": [
                    {
                        "inputs": case.label,
                        "verdict": worst_of(case.verdicts),
                        "ratio": case.ratio,
                    }
                    for case in self.cases
                ],
                "inputs": self.inputs,
                "inputs_sha256": self.inputs_sha256,
                "blocks": [block.as_dict() for block in self.blocks],
                "culprits": self.culprits,
                "tensors": [tensor.as_dict() for tensor in self.tensors],
                "bisection": self.bisection,
                "reproducer": self.reproducer,
                "notes": self.notes,
                "replay": self.replay,
            }
        )
        return document


def _plain(value: Any) -> Any:
    """Make a value strict JSON: infinities and NaN become strings."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    return value


def worst_of(verdicts: Sequence[TensorVerdict]) -> str:
    """Return the worst of some verdicts, ``pass`` when there are none."""
    return max((v.verdict for v in verdicts), key=lambda v: VERDICTS[v], default="pass")


@dataclass(frozen=True)
class Wants:
    """What to do beside the verdict on the outputs."""

    localise: bool
    bisect: bool
    reduce: str | Path | None
    second_shape: bool
    dead_rows: str = "report"
    tensors: bool = False
