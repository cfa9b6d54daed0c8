"""Letters through reshapes, and what is said where sizes do not fit."""

from __future__ import annotations

import pytest

from omfuse.graph.dims import Size, symbol, unknown
from omfuse.match.declined import Declined
from omfuse.match.letters import Letters

B, E, LOST = symbol("B"), symbol("E"), unknown("reshape.0")


def align(sizes: list[Size], shape: tuple[Size, ...]) -> list[int]:
    """Return how many letters each axis of ``shape`` takes."""
    letters, axes = Letters(), []
    for size in sizes:
        letters, axis = letters.fresh(size)
        axes.append(axis)
    return [len(axis) for axis in letters.align(tuple(axes), shape)[1]]


def test_letters_join_and_split() -> None:
    assert align([B, 4, 8], (4 * B, 8)) == [2, 1]
    assert align([4 * B, 8], (B, 4, 8)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "shape", "reason", "hint"),
    [
        ([4 * B, 8], (E, 4, 8), "mixes axes of sizes 4*B and E", "give it one name"),
        ([LOST, 8], (B, 8), "mixes axes of sizes ~reshape.0 and B", "not known"),
        ([B], (B, LOST), "cannot follow the axes into shape [B, ~reshape.0]", "not known"),
        ([B, 2], (B,), "cannot follow the axes into shape [B]", ""),
    ],
)
def test_what_does_not_fit_is_explained(
    sizes: list[Size], shape: tuple[Size, ...], reason: str, hint: str
) -> None:
    with pytest.raises(Declined) as caught:
        align(sizes, shape)
    assert reason in caught.value.reason
    assert hint in caught.value.hint
    assert bool(hint) == bool(caught.value.hint)
