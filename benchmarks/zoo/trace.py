"""Counts the true attention blocks of a torch model by data flow, not by looking at its graph.

Each call of the forward pass is watched below autograd. Scores are what comes out of a contraction
of two computed tensors and passes only through elementwise, view and concatenation calls. A
softmax of scores makes probabilities. A contraction that consumes probabilities along an axis on
which they still sum to one (or to zero, for a row whose keys are all masked) is a block. A softmax
that never ends like this, or never began with a contraction, is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

_VIEWS = {
    "view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "unsqueeze",
    "squeeze", "clone", "slice", "select", "alias", "detach", "_to_copy", "split",
    "split_with_sizes", "unbind", "contiguous", "_reshape_alias", "lift_fresh", "as_strided",
    "unsafe_split", "chunk",
}  # fmt: skip
_ELEMENTWISE = {
    "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "where", "masked_fill",
    "masked_fill_", "tanh", "maximum", "clamp", "clamp_min", "cat", "constant_pad_nd", "neg",
    "nan_to_num", "copy_", "gather", "index_put", "index_put_",
}  # fmt: skip
_SOFTMAX = {"_softmax", "_safe_softmax"}
# call name -> positions of the two contracted operands and the axes that are summed
_CONTRACTIONS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "bmm": ((0, 1), (-1, -2)),
    "mm": ((0, 1), (-1, -2)),
    "baddbmm": ((1, 2), (-1, -2)),
    "addmm": ((1, 2), (-1, -2)),
}


@dataclass
class _Mark:
    weight: bool = False
    scores: bool = False
    softmaxes: frozenset[int] = frozenset()


@dataclass
class Trace:
    """What one forward pass showed."""

    softmaxes: int = 0
    blocks: set[int] = field(default_factory=set)
    unnormalised: set[int] = field(default_factory=set)


class _Watcher(TorchDispatchMode):
    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.trace = Trace()
        self._marks: dict[int, tuple[torch.Tensor, _Mark]] = {}
        for tensor in weights:
            self._set(tensor, _Mark(weight=True))

    def _get(self, value: Any) -> _Mark:
        entry = self._marks.get(id(value))
        return entry[1] if entry else _Mark()

    def _set(self, value: Any, mark: _Mark) -> None:
        # The tensor is kept alive, so that its id stays its own.
        self._marks[id(value)] = (value, mark)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _SOFTMAX:
            self._softmax(args, result)
        elif name in _CONTRACTIONS:
            self._contraction(name, args, result)
        elif name in _VIEWS or name in _ELEMENTWISE:
            self._pass_on(name, args, result)
        return result

    def _softmax(self, args: tuple[Any, ...], result: torch.Tensor) -> None:
        index = self.trace.softmaxes
        self.trace.softmaxes += 1
        if self._get(args[0]).scores:
            self._set(result, _Mark(softmaxes=frozenset({index})))

    def _contraction(self, name: str, args: tuple[Any, ...], result: torch.Tensor) -> None:
        positions, axes = _CONTRACTIONS[name]
        operands = [args[p] for p in positions]
        for operand, axis in zip(operands, axes, strict=True):
            softmaxes = self._get(operand).softmaxes
            if not softmaxes:
                continue
            sums = operand.detach().to(torch.float32).sum(axis)
            one, zero = (sums - 1).abs() < 2e-2, sums.abs() < 1e-6
            if bool((one | zero | sums.isnan()).all()) and bool(one.any()):
                self.trace.blocks |= softmaxes
            else:
                self.trace.unnormalised |= softmaxes
        plain = name in ("mm", "addmm") and any(self._get(o).weight for o in operands)
        if not plain:
            self._set(result, _Mark(scores=True))

    def _pass_on(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        sources = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
        marks = [self._get(s) for s in sources if isinstance(s, torch.Tensor)]
        mark = _Mark(
            weight=name in _VIEWS and any(m.weight for m in marks),
            scores=any(m.scores for m in marks),
            softmaxes=frozenset().union(*(m.softmaxes for m in marks)),
        )
        if not (mark.weight or mark.scores or mark.softmaxes):
            return
        for tensor in result if isinstance(result, list | tuple) else [result]:
            self._set(tensor, mark)


def count_blocks(
    model: torch.nn.Module, forward: Callable[[], Any], math_only: bool = True
) -> Trace:
    """Run `forward` once and count; fused kernels are replaced by torch's plain arithmetic."""
    weights = [*model.parameters(), *model.buffers()]
    backend = sdpa_kernel(SDPBackend.MATH) if math_only else contextlib.nullcontext()
    with torch.no_grad(), backend, _Watcher(weights) as watcher:
        forward()
    return watcher.trace
