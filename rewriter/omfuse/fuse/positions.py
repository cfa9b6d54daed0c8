"""Turn proven bands into the node's causal and window attributes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omfuse.graph.dims import Size
from omfuse.graph.facts import Facts
from omfuse.match.bands import Band, Conjunct, band_of, conjuncts
from omfuse.match.letters import Axis, Letters
from omfuse.match.state import Term


@dataclass(frozen=True)
class Positions:
    """The node's attributes; see ``omfuse.fuse.contract``."""

    causal: str = "none"
    window_left: int = -1
    window_right: int = -1


def split_masks(
    masks: list[Term], query: Axis, key: Axis, letters: Letters, facts: Facts
) -> tuple[Positions, list[Term]]:
    """Move what is proven about positions out of the masks.

    Returns:
        The attributes, and the masks that remain, as selections.
    """
    rest: list[Term] = []
    bands: list[tuple[Band, Term]] = []
    for mask in masks:
        for item in conjuncts(mask.value, mask.axes, mask.negate, letters, facts):
            if facts.scalar(item.value) == float(not item.negate):
                continue  # keeps everything
            term = replace(mask, value=item.value, axes=item.axes, negate=item.negate)
            band = _band(item, query, key, letters, facts)
            if band is None:
                rest.append(term)
            else:
                bands.append((band, term))
    offset = letters.size(key) - letters.size(query)
    positions = Positions()
    for band, term in bands:  # an upper bound first: it settles the alignment
        after = _with_high(positions, band.high, offset) if band.high is not None else positions
        if after is None:
            rest.append(term)
        else:
            positions = after
    kept: list[Term] = []
    for band, term in bands:
        if band.low is None or term in rest:
            continue
        after = _with_low(positions, band.low, offset)
        if after is None:
            kept.append(term)
        else:
            positions = after
    return positions, [*rest, *kept]


def _band(item: Conjunct, query: Axis, key: Axis, letters: Letters, facts: Facts) -> Band | None:
    if not query or not key:
        return None
    return band_of(item, query, key, letters, facts)


def _with_high(now: Positions, high: Size, offset: Size) -> Positions | None:
    if now.causal != "none" or now.window_right >= 0:
        return None
    if high == 0:
        return replace(now, causal="top_left")
    if high == offset:
        return replace(now, causal="bottom_right")
    if isinstance(high, int) and high > 0:
        return replace(now, window_right=high)
    return None


def _with_low(now: Positions, low: Size, offset: Size) -> Positions | None:
    if now.window_left >= 0:
        return None
    reach = (offset if now.causal == "bottom_right" else 0) - low
    if isinstance(reach, int) and reach >= 0:
        return replace(now, window_left=reach)
    return None
