"""The chosen shape flags and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omfuse.atc.options.fields import AtcOptions


@dataclass(frozen=True)
class ShapePlan:
    """The chosen flags and why.

    Attributes:
        kind: ``static``, ``batch-gears``, ``dims-gears``, ``image-gears`` or ``range``.
        flags: ATC flag -> text.
        reasons: sentences for the user.
        concrete: input -> shape of the largest gear, None for a dim that stays open (a range).
        gears: the gears as whole shapes, one mapping of input -> shape each.
    """

    kind: str
    flags: dict[str, str]
    reasons: list[str]
    concrete: dict[str, tuple[int | None, ...]]
    gears: list[dict[str, tuple[int, ...]]] = field(default_factory=list)

    def apply(self, options: AtcOptions) -> AtcOptions:
        """Lay the shape flags over options."""
        return options.replace(**self.flags)


def input_shape_text(shapes: Mapping[str, Sequence[str]]) -> str:
    """Return the text of ``input_shape``."""
    return ";".join(f"{name}:{','.join(dims)}" for name, dims in shapes.items())
