"""Rows of a tensor that some key feeds: the others say nothing about a kernel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omfuse.diff.golden import Original
from omfuse.session_protocol import Array


def live_rows(
    original: Original, feeds: Mapping[str, Array], golden: Mapping[str, Array]
) -> dict[str, Array]:
    """Return, for outputs laid out by batch and query, the rows that some key feeds.

    Args:
        original: finds rows of its softmaxes in which every key is masked.
        feeds: the inputs.
        golden: tensors to return masks for, ``[B, Sq, ...]`` or ``[B, N, Sq, Dv]``.
    """
    found: dict[str, Array] = {}
    for dead in original.dead_rows(feeds):
        if not dead.any() or dead.all():
            continue
        for name, array in golden.items():
            rows = _rows_of(dead, array.shape)
            if rows is not None:
                found[name] = found.get(name, True) & ~rows
    return {name: rows for name, rows in found.items() if rows.any()}


def _rows_of(dead: Array, shape: tuple[int, ...]) -> Array | None:
    """Spread the dead rows of one softmax over a tensor's rows, None when they do not fit.

    ``dead`` is ``[B, N, Sq]`` or ``[B*N, Sq]``; the tensor ``[B, N, Sq, D]``, ``[B*N, Sq, D]``
    or ``[B, Sq, ...]``, where a query is dead when it is so in any head.
    """
    if dead.shape == shape[:-1]:
        return dead
    if dead.ndim not in (2, 3) or len(shape) < 3 or dead.shape[-1] != shape[1]:
        return None
    if dead.shape[0] % shape[0]:
        return None
    by_query = dead.reshape(shape[0], -1, shape[1]).any(axis=1)
    extra = (1,) * (len(shape) - 3)
    rows: Array = np.broadcast_to(by_query.reshape(*by_query.shape, *extra), shape[:-1])
    return rows
