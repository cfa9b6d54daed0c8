"""What has been understood so far on the way from the softmax to the two contractions."""

from __future__ import annotations

from dataclasses import dataclass

from omfuse.graph.view import Node
from omfuse.match.letters import Axes, Axis, Letters


@dataclass(frozen=True)
class Factor:
    """A tensor that multiplies (or divides) part of the scores."""

    value: str
    axes: Axes
    divide: bool = False


@dataclass(frozen=True)
class Term:
    """One additive bias or one boolean selection of the scores.

    A bias adds ``factor * product(factors) * value``.  A selection keeps the score where ``value``
    (inverted if ``negate``) is true and puts ``fill`` elsewhere; its dtype is bool, or another
    with only 0 and 1 in it.
    """

    value: str
    axes: Axes
    selection: bool = False
    factor: float = 1.0
    factors: tuple[Factor, ...] = ()
    negate: bool = False
    fill: float = 0.0


@dataclass(frozen=True)
class Scores:
    """The path from the softmax input up to ``value``; terms are listed from the softmax up."""

    value: str
    axes: Axes
    letters: Letters
    key: Axis
    multiplier: float = 1.0
    factors: tuple[Factor, ...] = ()
    terms: tuple[Term, ...] = ()
    softcap: float = 0.0
    nodes: tuple[Node, ...] = ()
    trail: tuple[tuple[str, Axes], ...] = ()
    sink_first: int = 0
    inner_key: Axis = ()  # the keys without the sink, when the softmax has one
    sink: Operand | None = None


@dataclass(frozen=True)
class Operand:
    """A value with letters, and the layout nodes between it and the contraction."""

    value: str
    axes: Axes


@dataclass(frozen=True)
class Product:
    """The contraction that makes the scores: ``multiplier * query . key``."""

    scores: Scores
    query: Operand
    key: Operand
    depth: Axis
    free: tuple[Axis, ...]
    node: Node


@dataclass(frozen=True)
class Weights:
    """The path from the softmax output down to ``value``."""

    value: str
    axes: Axes
    letters: Letters
    key: Axis
    outer_key: Axis = ()  # the softmax axis with the sink, once the sink has been cut off
    sink_first: int = 0
    nan_guard: bool = False
    factors: tuple[Factor, ...] = ()
    masks: tuple[Term, ...] = ()
    late_masks: tuple[Term, ...] = ()  # selections of the scores, found after the softmax
    nodes: tuple[Node, ...] = ()
    trail: tuple[tuple[str, Axes], ...] = ()


@dataclass(frozen=True)
class Attention:
    """A proven attention block: ``softmax_k(scores) . value``."""

    product: Product
    weights: Weights
    value: Operand
    output: Operand
    letters: Letters
    output_node: Node
    anchor: Node
    scale: float
    nodes: tuple[Node, ...]
    shape_readers: tuple[tuple[Node, Axes], ...] = ()
    exposed: tuple[str, ...] = ()  # interior values that others read: their path stays alive
