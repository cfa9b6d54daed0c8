"""The language of lift rules: what one operator means inside attention.

A rule is a generator that looks at one node and yields what it means.  On the *scores* side the
engine walks from the softmax input up to the query-key contraction; on the *weights* side from the
softmax output down to the contraction with the value.  A rule may yield several readings (either
operand of an Add can be the scores); the engine tries them all.

The engine refuses a node whose attributes a rule has neither read nor declared irrelevant, so that
"forgot to look at the axis" cannot happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from omfuse.graph import shape_rules
from omfuse.graph.facts import Facts
from omfuse.graph.view import Node
from omfuse.match.declined import Declined
from omfuse.match.letters import Axes, Axis, Letters
from omfuse.match.state import Factor, Operand, Product, Scores, Term, Weights
from omfuse.match.values import complement, zero_or_one

Side = Literal["scores", "weights"]
Meaning = Any  # Scores, Product, Weights or WeightsProduct
Rule = Callable[[Any], Iterator[Meaning]]

_RULES: dict[tuple[str, str], list[Rule]] = {}

LARGE_NEGATIVE = -1e3  # a fill at or below this means "masked"


def lift(*ops: str, side: Side = "scores", elementwise: bool = True) -> Callable[[Rule], Rule]:
    """Register a rule for operators, named ``Op`` or ``domain::Op``.

    Args:
        ops: operator names.
        side: ``scores`` (between contraction and softmax) or ``weights`` (after the softmax).
        elementwise: an operator that ONNX cannot infer gives the broadcast shape of its inputs.
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            if elementwise and "::" in op:
                shape_rules.declare_elementwise(op)
            _RULES.setdefault((side, op), []).append(rule)
        return rule

    return register


@contextmanager
def scope() -> Iterator[None]:
    """Forget, at the end of the body, the rules that it registered."""
    saved = {key: list(rules) for key, rules in _RULES.items()}
    try:
        yield
    finally:
        _RULES.clear()
        _RULES.update(saved)


def rules_for(side: str, op: str) -> list[Rule]:
    """Return the rules of one side for an operator."""
    return _RULES.get((side, op), [])


class Step:
    """One node under the eyes of a rule."""

    def __init__(self, node: Node, facts: Facts) -> None:
        self.node = node
        self.facts = facts
        self._read: set[str] = set()

    def attr(self, name: str, default: Any = None) -> Any:
        """Read an attribute."""
        self._read.add(name)
        return self.node.attrs.get(name, default)

    def ignore(self, *names: str) -> None:
        """Declare attributes irrelevant to the meaning."""
        self._read.update(names)

    def unread(self) -> list[str]:
        """Return the attributes that no rule has looked at."""
        return sorted(set(self.node.attrs) - self._read)

    def has(self, index: int) -> bool:
        """Tell whether the optional input ``index`` is present."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def scalar(self, index: int) -> float | None:
        """Return the number that input ``index`` holds, known or computed from shapes."""
        return self.facts.scalar(self.node.inputs[index]) if self.has(index) else None

    def const(self, index: int) -> Any:
        """Return the constant content of input ``index``, or None."""
        return self.facts.const(self.node.inputs[index]) if self.has(index) else None

    def shape(self, index: int) -> Any:
        """Return the shape of input ``index``."""
        shape = self.facts.shape(self.node.inputs[index])
        if shape is None:
            raise self.decline("unknown-shape", f"the shape of {self.node.inputs[index]} is open")
        return shape

    def decline(self, code: str, reason: str, hint: str = "", attention: bool = True) -> Declined:
        """Build the refusal that a rule raises."""
        return Declined(code, reason, hint, attention=attention)


def broadcast_axes(shape: Sequence[Any], target: Axes, letters: Letters) -> Axes:
    """Return the letters of a tensor of ``shape`` that broadcasts against ``target``."""
    offset = len(target) - len(shape)
    if offset < 0:
        raise Declined("rank", "an operand has more axes than the scores")
    return tuple(
        () if size == 1 and letters.size(target[axis]) != 1 else target[axis]
        for axis, size in enumerate(shape, offset)
    )


class ScoresStep(Step):
    """A node on the way up from the softmax; ``state`` describes its output."""

    def __init__(self, node: Node, facts: Facts, state: Scores) -> None:
        super().__init__(node, facts)
        self.state = state

    def letters_of(self, index: int) -> Axes:
        """Return the letters of input ``index`` by broadcasting against the output."""
        return broadcast_axes(self.shape(index), self.state.axes, self.state.letters)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield (scores input, other input) for both orders of a binary node."""
        yield 0, 1
        yield 1, 0

    def up(self, index: int, **changes: Any) -> Scores:
        """Continue at input ``index``, whose letters follow by broadcasting."""
        if "axes" not in changes:
            changes["axes"] = self.letters_of(index)
        return replace(self.state, value=self.node.inputs[index], **changes)

    def scaled(self, index: int, factor: float) -> Scores:
        """Continue at input ``index``; everything above is multiplied by ``factor``."""
        return self.up(index, multiplier=self.state.multiplier * factor)

    def multiplied(self, index: int, other: int, divide: bool = False) -> Scores:
        """Continue at ``index``; everything above is multiplied by the tensor input ``other``."""
        factor = Factor(self.node.inputs[other], self.letters_of(other), divide)
        return self.up(index, factors=(*self.state.factors, factor))

    def added(self, index: int, other: int, sign: float = 1.0) -> Scores:
        """Continue at ``index``; input ``other`` is a bias."""
        if self.scalar(other) == 0.0:
            return self.up(index)
        axes = self.letters_of(other)
        key = set(self.state.letters.resolve(self.state.key))
        own = {a for axis in self.state.letters.resolve_all(axes) for a in axis}
        if not key & own and self._vanishes(other):
            return self.up(index)  # constant along the keys: softmax does not see it
        factor = sign * self.state.multiplier
        term = Term(self.node.inputs[other], axes, factor=factor, factors=self.state.factors)
        return self.up(index, terms=(*self.state.terms, term))

    def _vanishes(self, index: int) -> bool:
        """Tell whether input ``index``, equal for all keys, leaves the scores their precision.

        A huge one absorbs them (a row of -1e9 for a padded query makes its weights even).
        """
        number = self.scalar(index)
        if number is not None:
            if abs(number) >= -LARGE_NEGATIVE:
                raise Declined(
                    "absorbed-scores", f"{number:g} is added to every score and leaves none of it"
                )
            return True
        maker = self.facts.view.producer(self.node.inputs[index])
        while maker is not None and maker.op in ("Identity", "Cast", "Neg"):
            maker = self.facts.view.producer(maker.inputs[0])
        return maker is not None and maker.op in ("ReduceMax", "ReduceMean")

    def with_sink(self, index: int, sink: int) -> Scores:
        """Continue at ``index``; input ``sink`` is one extra logit behind the keys of each row."""
        state = self.state
        if not state.inner_key or state.sink is not None:
            raise self.decline("concat", "keys are joined and not cut again after the softmax")
        if state.terms or state.factors or state.multiplier != 1.0 or state.softcap:
            raise self.decline("sink", "the scores change after the sink was appended")
        axes = tuple(state.inner_key if axis == state.key else axis for axis in state.axes)
        outer = tuple(() if axis == state.key else axis for axis in state.axes)
        size = state.letters.size(state.inner_key)
        shape = self.shape(index)
        if len(shape) != len(axes) or shape[axes.index(state.inner_key)] != size:
            raise self.decline("concat", "the joined keys are not the ones that are kept")
        return replace(
            state,
            value=self.node.inputs[index],
            axes=axes,
            key=state.inner_key,
            sink=Operand(self.node.inputs[sink], outer),
        )

    def selected(self, index: int, condition: int, fill: float, keep: bool) -> Scores:
        """Continue at ``index``; where ``condition`` is not ``keep`` the score is ``fill``."""
        fill = fill * self.state.multiplier
        if self.state.factors or not fill <= LARGE_NEGATIVE:
            raise self.decline("finite-fill", f"masked scores are set to {fill:g}")
        term = Term(
            self.node.inputs[condition],
            self.letters_of(condition),
            selection=True,
            negate=not keep,
            fill=fill,
        )
        return self.up(index, terms=(*self.state.terms, term))

    def complemented(self, index: int, other: int) -> Scores | None:
        """Continue at ``index`` when ``x * keep + c * (1 - keep)`` selects; ``other`` is keep."""
        view, facts, state = self.facts.view, self.facts, self.state
        keep = self.node.inputs[other]
        if not state.terms or state.factors or state.terms[-1].selection:
            return None
        term = state.terms[-1]
        number = complement(term.value, keep, view, facts)
        if number is None or term.factors or not zero_or_one(keep, view, facts):
            return None
        fill = number * term.factor
        if not fill <= LARGE_NEGATIVE:
            return None
        selection = Term(keep, self.letters_of(other), selection=True, fill=fill)
        return self.up(index, terms=(*state.terms[:-1], selection))

    def contracted(
        self,
        a: str,
        b: str,
        out: str,
        factor: float = 1.0,
        inputs: tuple[int, int] = (0, 1),
    ) -> Product:
        """Read the node as ``einsum("a,b->out")`` times ``factor``: the query-key contraction."""
        state = self.state
        letters = state.letters
        if len(out) != len(state.axes):
            raise self.decline("rank", "the contraction and the scores differ in rank")
        known: dict[str, Axis] = dict(zip(out, state.axes, strict=True))
        operands = []
        for labels, index in zip((a, b), inputs, strict=True):
            shape = self.shape(index)
            if len(labels) != len(shape) or len(set(labels)) != len(labels):
                raise self.decline("contraction", "the contraction repeats or drops an index")
            axes: list[Axis] = []
            for label, size in zip(labels, shape, strict=True):
                if label not in known:
                    letters, known[label] = letters.fresh(size)
                one = size == 1 and letters.size(known[label]) != 1
                axes.append(() if one else known[label])
            operands.append(Operand(self.node.inputs[index], tuple(axes)))
        summed = [label for label in a if label not in out]
        if any(label not in b for label in summed) or any(
            label not in a and label not in out for label in b
        ):
            raise self.decline("contraction", "an index is summed on one side only")
        depth = tuple(atom for label in summed for atom in known[label])
        scores = replace(state, letters=letters, multiplier=state.multiplier * factor)
        first, second = operands
        free_a = tuple(known[x] for x in out if x in a and x not in b)
        free_b = tuple(known[x] for x in out if x in b and x not in a)
        key = set(letters.resolve(state.key))
        in_first = key & {x for axis in letters.resolve_all(first.axes) for x in axis}
        in_second = key & {x for axis in letters.resolve_all(second.axes) for x in axis}
        if in_first == key and not in_second:
            first, second, free_a = second, first, free_b
        elif not (in_second == key and not in_first):
            raise self.decline(
                "softmax-axis",
                "the softmax does not run over the keys of this contraction",
                attention=False,
            )
        return Product(scores, first, second, depth, free_a, self.node)


class WeightsStep(Step):
    """A node on the way down from the softmax; ``state`` describes its input ``index``."""

    def __init__(self, node: Node, facts: Facts, state: Weights, index: int) -> None:
        super().__init__(node, facts)
        self.state = state
        self.index = index

    def down(self, **changes: Any) -> Weights:
        """Continue at the node's first output, with the same letters unless given."""
        return replace(self.state, value=self.node.outputs[0], **changes)

    def without_last_key(self, first: int) -> Weights:
        """Continue behind a Slice that drops one key: the last, or the first (``first=1``)."""
        state = self.state
        size = state.letters.size(state.key)
        if state.outer_key or state.key not in state.axes:
            raise self.decline("weights-slice", "the weights are cut twice")
        letters, key = state.letters.fresh(size - 1)
        axes = tuple(key if axis == state.key else axis for axis in state.axes)
        return self.down(letters=letters, axes=axes, key=key, outer_key=state.key, sink_first=first)

    def slice_input(self, index: int) -> list[Any] | None:
        """Return the content of a Slice's starts, ends, axes or steps (1 to 4), if known."""
        name = ("", "starts", "ends", "axes", "steps")[index]
        if name in self.node.attrs:
            return list(self.attr(name))
        if not self.has(index):
            return None
        content = self.facts.content(self.node.inputs[index])
        return None if content is None else list(content.reshape(-1).tolist())

    def meets_key(self, axes: Axes) -> bool:
        """Tell whether any of ``axes`` runs over the keys."""
        key = set(self.state.letters.resolve(self.state.key))
        return any(key & set(axis) for axis in self.state.letters.resolve_all(axes))

    def letters_of(self, index: int) -> Axes:
        """Return the letters of another input by broadcasting against the weights."""
        return broadcast_axes(self.shape(index), self.state.axes, self.state.letters)

    def contracted(
        self, a: str, b: str, out: str, factor: float = 1.0, inputs: tuple[int, int] = (0, 1)
    ) -> tuple[Weights, Operand, Operand, float]:
        """Read the node as ``einsum("a,b->out")``: the contraction with the value."""
        state = self.state
        own, other = (a, b) if self.index == inputs[0] else (b, a)
        value_index = inputs[1] if self.index == inputs[0] else inputs[0]
        if len(own) != len(state.axes):
            raise self.decline("rank", "the contraction and the weights differ in rank")
        letters = state.letters
        known: dict[str, Axis] = dict(zip(own, state.axes, strict=True))
        shape = self.shape(value_index)
        if len(other) != len(shape) or len(set(other)) != len(other) or len(set(own)) != len(own):
            raise self.decline("contraction", "the contraction repeats or drops an index")
        axes: list[Axis] = []
        for label, size in zip(other, shape, strict=True):
            if label not in known or (known[label] == () and size != 1 and label in out):
                letters, known[label] = letters.fresh(size)
            one = size == 1 and letters.size(known[label]) != 1
            axes.append(() if one else known[label])
        summed = [label for label in own if label not in out]
        if any(label not in other for label in summed):
            raise self.decline("contraction", "an index of the weights is summed alone")
        if any(label not in own and label not in out for label in other):
            raise self.decline("contraction", "an index of the value is summed alone")
        contracted = {x for label in summed for x in letters.resolve(known[label])}
        if contracted != set(letters.resolve(state.key)):
            raise self.decline(
                "value-contraction",
                "the contraction after the softmax does not run over the softmax axis",
                attention=False,
            )
        value = Operand(self.node.inputs[value_index], tuple(axes))
        output = Operand(self.node.outputs[0], tuple(known[label] for label in out))
        return replace(state, letters=letters), value, output, factor
