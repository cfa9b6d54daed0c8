"""Arrays for the roles of inputs: seeded, realistic, never uniform noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omfuse.diff.roles import SMALL_INTEGERS, Role, is_float
from omfuse.session_protocol import Array

MASK_FILL = -1e4  # fits fp16, and -1e4 is what most exporters of additive masks write
MAX_TIMESTEP = 1000


def make(
    roles: Sequence[Role],
    sizes: Mapping[str, int],
    seed: int,
    *,
    padding: bool = True,
    integer_cap: int | None = None,
) -> dict[str, Array]:
    """Fill every input.

    Args:
        roles: what each input means.
        sizes: size of each symbol.
        seed: the same seed gives the same bytes on every platform.
        padding: false for masks that keep every key.
        integer_cap: exclusive upper bound for integers whose table is not known.
    """
    shapes = {role.name: tuple(dim.size(sizes) for dim in role.dims) for role in roles}
    past = next((shapes[r.name][-2] for r in roles if r.kind == "past" and len(r.dims) > 2), 0)
    lengths = [shapes[r.name][1] for r in roles if r.kind == "tokens" and len(r.dims) == 2]
    made = {}
    for number, role in enumerate(roles):
        rng = np.random.default_rng([seed, number])
        shape = shapes[role.name]
        if role.kind == "mask":
            new = lengths[0] if lengths else 0
            array = _mask(role, shape, rng, padding, new)
        else:
            array = _other(role, shape, rng, padding, past, lengths, integer_cap)
        made[role.name] = np.ascontiguousarray(array).astype(role.dtype)
    return made


def _other(
    role: Role,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    padding: bool,
    past: int,
    lengths: Sequence[int],
    integer_cap: int | None,
) -> Array:
    top = role.limit or integer_cap or SMALL_INTEGERS
    if role.kind == "additive_mask":
        keep = _dense_keep(shape, rng) if padding else np.ones(shape, bool)
        return np.where(keep, 0.0, MASK_FILL)
    if role.kind == "tokens":
        return rng.integers(0, top, shape)
    if role.kind == "positions":
        return _positions(role, shape, rng, past, top)
    if role.kind == "timestep":
        return rng.integers(1, min(role.limit or MAX_TIMESTEP, MAX_TIMESTEP), shape)
    if role.kind == "lengths":
        longest = max(lengths, default=SMALL_INTEGERS)
        return rng.integers(max(longest // 2, 1), longest + 1, shape)
    if role.kind == "size":
        return np.full(shape, 4)
    if role.kind == "flag":
        return np.zeros(shape, bool)
    if not is_float(role.dtype):
        return rng.integers(0, top, shape)
    return rng.standard_normal(shape)


def _positions(
    role: Role, shape: tuple[int, ...], rng: np.random.Generator, past: int, top: int
) -> Array:
    if is_float(role.dtype) or (len(shape) >= 2 and shape[-1] in (2, 3, 4) and shape[-2] > 4):
        return rng.integers(0, min(top, SMALL_INTEGERS), shape)  # coordinates
    line = np.arange(shape[-1] if shape else 1) + past
    if role.limit is not None:
        line = line % role.limit
    return np.broadcast_to(line, shape) if shape else line[0]


def _mask(
    role: Role, shape: tuple[int, ...], rng: np.random.Generator, padding: bool, new: int
) -> Array:
    if not padding:
        keep = np.ones(shape, bool)
    elif len(shape) <= 2 or (len(shape) in (3, 4) and shape[-2] == 1):
        keep = _padding_keep(role, shape, rng, new)
    else:
        keep = _dense_keep(shape, rng)
    return ~keep if role.drop else keep


def _padding_keep(role: Role, shape: tuple[int, ...], rng: np.random.Generator, new: int) -> Array:
    """Pad each row by another amount: the first not at all when we know what one means."""
    keep = np.ones(shape, bool)
    length = shape[-1] if shape else 0
    if length < 2:
        return keep
    longest = max(length // 2, 1)
    if role.left:  # the new tokens themselves stay visible
        longest = max(min(longest, length - max(new, 1)), 0)
    rows: Array = keep.reshape(-1, length)
    for number, row in enumerate(rows):
        spare = number == 0 and len(rows) > 1 and (role.sure or not role.drop)
        cut = 0 if spare or longest == 0 else int(rng.integers(1, longest + 1))
        if cut and role.left:
            row[:cut] = False
        elif cut:
            row[length - cut :] = False
    return keep


def _dense_keep(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Drop about a third of the keys at random, and keep at least one in each row."""
    keep: Array = rng.random(shape) > 0.3
    if shape and shape[-1] > 1:
        rows: Array = keep.reshape(-1, shape[-1])
        rows[:, 0] = True
        full = rows.all(axis=1)
        rows[full, -1] = False
        if len(shape) >= 2 and shape[-1] == shape[-2]:  # every query sees itself
            square: Any = keep.reshape(-1, shape[-2], shape[-1])
            spot = np.arange(1, shape[-1])
            square[:, spot, spot] = True
    return keep
