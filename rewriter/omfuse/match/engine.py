"""Walk from one softmax to its two contractions and prove that they form attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omfuse.graph.facts import Facts
from omfuse.graph.view import GraphView, Node
from omfuse.match.anchors import Anchor
from omfuse.match.declined import Declined
from omfuse.match.letters import Axes, Axis, Letters
from omfuse.match.rules import ScoresStep, Step, WeightsStep, rules_for
from omfuse.match.state import Attention, Operand, Product, Scores, Term, Weights

MAX_STEPS = 64  # a score chain is never this long; bounds hostile graphs
MAX_READINGS = 256


class Search:
    """One attempt to understand one anchor; remembers the deepest refusal."""

    def __init__(self, view: GraphView, facts: Facts, anchor: Anchor) -> None:
        self.view = view
        self.facts = facts
        self.anchor = anchor
        self.deepest: Declined | None = None
        self._readings = 0

    def run(self) -> list[Attention]:
        """Return every valid reading of the anchor, or raise the deepest refusal.

        Raises:
            Declined: why the softmax is not (provably) attention.
        """
        shape = self.facts.shape(self.anchor.scores)
        if shape is None:
            raise Declined("unknown-shape", "the shape of the softmax input is unknown")
        letters, axes = Letters().fresh_axes(shape)
        if len(self.anchor.axes) == 1 and shape[self.anchor.axes[0]] == 1:
            letters, single = letters.single()
            last = self.anchor.axes[0]
            axes = (*axes[:last], single, *axes[last + 1 :])
        key: Axis = tuple(atom for axis in self.anchor.axes for atom in axes[axis])
        if not key:
            raise Declined("softmax-axis", "the softmax runs over one element", attention=False)
        start = Scores(self.anchor.scores, axes, letters, key)
        found: list[Attention] = []
        for weights, value, output, factor, node in self._down(
            Weights(self.anchor.weights, axes, letters, key), 0
        ):
            inner = weights.key if weights.outer_key else ()
            scores = replace(
                start,
                letters=weights.letters,
                inner_key=inner,
                sink_first=weights.sink_first,
                terms=weights.late_masks,
            )
            for product in self._up(scores, 0):
                try:
                    found.append(self._block(product, weights, value, output, factor, node))
                except Declined as declined:
                    self._note(declined, 1000, node)
        if not found:
            raise self.deepest or Declined("no-contraction", "nothing follows", attention=False)
        return found

    def _note(self, declined: Declined, depth: int, node: Node) -> None:
        declined.depth, declined.node = depth, node.name
        if self.deepest is None or depth > self.deepest.depth:
            self.deepest = declined

    def _apply(self, side: str, step_maker: Any, node: Node, depth: int) -> Iterator[Any]:
        self._readings += 1
        if depth > MAX_STEPS or self._readings > MAX_READINGS:
            self._note(Declined("too-deep", "the search was cut off"), depth, node)
            return
        rules = rules_for(side, node.op)
        if not rules:
            where = (
                "between the query-key product and the softmax"
                if side == "scores"
                else "between the softmax and the product with the value"
            )
            self._note(
                Declined(
                    f"op-{side}",
                    f"operator {node.op} stands {where}",
                    "write a lift rule for it, or move it out of the attention",
                    attention=side == "scores",
                ),
                depth,
                node,
            )
            return
        for rule in rules:
            step: Step = step_maker()
            try:
                for meaning in rule(step):
                    unread = step.unread()
                    if unread:
                        raise Declined("unread-attribute", f"attributes {unread} were not read")
                    yield meaning
            except Declined as declined:
                self._note(declined, depth, node)

    def _up(self, state: Scores, depth: int) -> Iterator[Product]:
        node = self.view.producer(state.value)
        if node is None:
            self._note(
                Declined(
                    "no-product",
                    f"the scores come from {state.value}, not from a product",
                    attention=False,
                ),
                depth,
                self.anchor.node,
            )
            return

        def make() -> ScoresStep:
            return ScoresStep(node, self.facts, state)

        for meaning in self._apply("scores", make, node, depth):
            if isinstance(meaning, Product):
                yield meaning
            else:
                onward = replace(
                    meaning,
                    nodes=(*meaning.nodes, node),
                    trail=(*state.trail, (state.value, state.axes)),
                )
                yield from self._up(onward, depth + 1)

    def _down(self, state: Weights, depth: int) -> Iterator[Any]:
        readers = [
            node
            for node in self.view.consumers(state.value)
            if node.op not in ("IsNaN", "Shape") and node not in self.anchor.nodes
        ]
        if not readers:
            self._note(
                Declined("no-contraction", "nothing reads the weights", attention=False),
                depth,
                self.anchor.node,
            )
        for node in readers:
            yield from self._down_into(node, state, depth)

    def _down_into(self, node: Node, state: Weights, depth: int) -> Iterator[Any]:
        index = node.inputs.index(state.value) if state.value in node.inputs else -1
        if index < 0:
            self._note(Declined("subgraph", "a subgraph reads the weights"), depth, node)
            return

        def make() -> WeightsStep:
            return WeightsStep(node, self.facts, state, index)

        for meaning in self._apply("weights", make, node, depth):
            if isinstance(meaning, Weights):
                onward = replace(
                    meaning,
                    nodes=(*meaning.nodes, node),
                    trail=(*state.trail, (state.value, state.axes)),
                )
                yield from self._down(onward, depth + 1)
            else:
                weights, value, output, factor = meaning
                yield weights, value, output, factor, node

    def _block(
        self,
        product: Product,
        weights: Weights,
        value: Operand,
        output: Operand,
        factor: float,
        node: Node,
    ) -> Attention:
        letters = product.scores.letters
        classify(product, value, output, letters, product.scores.key)
        if weights.outer_key and product.scores.sink is None:
            raise Declined("weights-slice", "a key is dropped after the softmax")
        if self.anchor.normaliser is not None:
            output, node = self._normalised(weights, output)
        if factor != 1.0:
            raise Declined("value-factor", "the product with the value has a factor")
        self._check_dynamic(product.query, product.key, value)
        self._check_second_select(weights, product.scores)
        self._check_late_masks(weights, product.scores)
        scores = product.scores
        nodes = (*self.anchor.nodes, *scores.nodes, product.node, *weights.nodes, node)
        block = Attention(
            product,
            weights,
            value,
            output,
            letters,
            node,
            self.anchor.node,
            scores.multiplier,
            tuple({id(n): n for n in nodes}.values()),
            self._shape_readers(scores, weights),
        )
        return replace(block, exposed=self._exposed(block))

    def _normalised(self, weights: Weights, output: Operand) -> tuple[Operand, Node]:
        """Move the division by the row sum, which stands after the product, into the softmax."""
        node = self.anchor.node
        if node.inputs[0] != output.value:
            raise Declined("late-sum", "the row sum divides something else than the product")
        letters = weights.letters
        key = letters.resolve(weights.key)
        sums = [
            () if letters.resolve(axis) == key else letters.resolve(axis) for axis in weights.axes
        ]
        out = list(letters.resolve_all(output.axes))
        pad = len(out) - len(sums)
        if pad < 0 or any(a and a != b for a, b in zip(sums, out[pad:], strict=True)):
            raise Declined("late-sum", "the row sum does not stand along the rows of the product")
        return Operand(node.outputs[0], output.axes), node

    def _shape_readers(self, scores: Scores, weights: Weights) -> tuple[tuple[Node, Axes], ...]:
        """Return the Shape nodes that read interior values; their sizes are known otherwise."""
        found = []
        trail = (*scores.trail, (scores.value, scores.axes), *weights.trail)
        trail = (*trail, (weights.value, weights.axes))
        for value, axes in trail:
            for reader in self.view.consumers(value):
                if reader.op == "Shape" and not set(reader.attrs):
                    found.append((reader, axes))
        return tuple(found)

    def _check_dynamic(self, query: Operand, key: Operand, value: Operand) -> None:
        constant = [self._is_constant(x.value) for x in (query, key, value)]
        if constant[0] and len([axis for axis in query.axes if axis]) <= 1:
            raise Declined(
                "pooling",
                "the query is one constant vector: pooling, not attention",
                attention=False,
            )
        if constant[1] or constant[2]:
            flat = all(
                len([axis for axis in operand.axes if axis]) <= 2 for operand in (key, value)
            )
            if constant[1] != constant[2] or flat:
                raise Declined(
                    "prototype",
                    "the keys or values are weights: a softmax layer, not attention",
                    attention=False,
                )

    def _is_constant(self, value: str) -> bool:
        seen = 0
        while seen < MAX_STEPS:
            if self.facts.initializer(value) is not None:
                return True
            node = self.view.producer(value)
            if node is None:
                return False
            if node.op == "Constant":
                return True
            if node.op not in (
                "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity", "Expand",
            ):  # fmt: skip
                return False
            value = node.inputs[0]
            seen += 1
        return False

    def _check_second_select(self, weights: Weights, scores: Scores) -> None:
        """Require that weights zeroed after the softmax are the ones masked before it.

        Raises:
            Declined: ``weights-select``.
        """
        before = {self._condition(term) for term in scores.terms if term.selection}
        for mask in weights.masks:
            if self._condition(mask) not in before or len(before) > 1:
                raise Declined(
                    "weights-select", "the weights are zeroed by another mask than the scores"
                )

    def _check_late_masks(self, weights: Weights, scores: Scores) -> None:
        """Refuse a mask after the softmax where a row masked before it is uniform.

        Raises:
            Declined: ``weights-mask``.
        """
        early = scores.terms[len(weights.late_masks) :]
        if weights.late_masks and any(t.selection and math.isfinite(t.fill) for t in early):
            raise Declined("weights-mask", "the weights are masked again after the softmax")

    def _condition(self, term: Term) -> tuple[str, bool]:
        """Return the origin of a condition behind casts, and whether it is inverted."""
        value, negate = term.value, term.negate
        for _ in range(MAX_STEPS):
            node = self.view.producer(value)
            if node is None or node.op not in ("Cast", "Identity", "Not"):
                break
            negate ^= node.op == "Not"
            value = node.inputs[0]
        constant = self.facts.const(value)
        if constant is not None:
            return f"{constant.shape}{constant.astype(bool).tobytes().hex()}", negate
        return value, negate

    def _exposed(self, block: Attention) -> tuple[str, ...]:
        """Return interior values that are graph outputs or read from outside the block."""
        inside = {id(node) for node in block.nodes}
        inside |= {id(node) for node, _ in block.shape_readers}
        found = []
        for node in block.nodes:
            for value in node.outputs:
                if not value or value == block.output.value:
                    continue
                readers = self.view.consumers(value)
                if self.view.is_output(value) or any(id(r) not in inside for r in readers):
                    found.append(value)
        return tuple(found)


def classify(
    product: Product, value: Operand, output: Operand, letters: Letters, key: Axis
) -> None:
    """Prove that the index letters fall into the classes of attention.

    Raises:
        Declined: naming the letter that is out of place.
    """

    def atoms(operand: Operand) -> list[int]:
        return [x for axis in letters.resolve_all(operand.axes) for x in axis]

    k = set(letters.resolve(key))
    d = set(letters.resolve(product.depth))
    query, keys, values, out = map(atoms, (product.query, product.key, value, output))
    if any(len(set(x)) != len(x) for x in (query, keys, values, out)):
        raise Declined("letters", "an index appears twice in one operand")
    if not d <= set(query) or not d <= set(keys):
        raise Declined("letters", "the depth index is missing from query or key")
    if k & set(query) or not k <= set(values):
        raise Declined("letters", "the key index is out of place", attention=False)
    if d & set(values) or d & set(out) or k & set(out):
        raise Declined("letters", "query-key depth or key index survives", attention=False)
    if set(values) - k - set(out):
        raise Declined("letters", "an index of the value is lost", attention=False)
