"""Decide what each model input means, from how the graph uses it and then from its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from omfuse.diff.dims import Dim, axis
from omfuse.diff.trace import GraphIndex, Uses, trace
from omfuse.errors import ModelError

_MASK = re.compile(r"(mask|(^|_)pad(ding)?($|_)|^m$)", re.I)
_POSITION = re.compile(r"(pos(ition)?(_?ids?)?($|[_.])|cache_position|_coords?$)", re.I)
_PAST = re.compile(r"(past|cache|^pk$|^pv$)", re.I)
_TIME = re.compile(r"(timestep|^t$|^time$|sigma|noise_level)", re.I)
_LENGTH = re.compile(r"(len(gth)?s?$|lens_|num_tokens)", re.I)
_BIAS = re.compile(r"(bias|alibi|rel_pos)", re.I)
SMALL_INTEGERS = 8


@dataclass(frozen=True)
class Role:
    """One input and what to feed it.

    Attributes:
        name: input name.
        dtype: numpy dtype (bfloat16 from ml_dtypes).
        dims: axes.
        kind: ``tokens``, ``mask``, ``additive_mask``, ``bias``, ``positions``, ``timestep``,
            ``past``, ``lengths``, ``size``, ``flag``, ``activation``.
        limit: exclusive upper bound of integers, None when unknown.
        drop: for masks, true when a true value drops a key.
        sure: the graph, not only the name, says so.
        left: for masks, padding on the left (decoders with a cache).
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[Dim, ...]
    kind: str
    limit: int | None = None
    drop: bool = False
    sure: bool = False
    left: bool = False


def numpy_dtype(elem_type: int, name: str) -> np.dtype[Any]:
    """Return the numpy dtype of an ONNX element type.

    Raises:
        ModelError: ``unsupported-type`` for strings and packed low-bit types.
    """
    if elem_type == onnx.TensorProto.BFLOAT16:
        import ml_dtypes

        half: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return half
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)) if elem_type else None
    if dtype is None or dtype.kind not in "fiub":
        raise ModelError(
            "unsupported-type",
            f"input {name} has ONNX element type {elem_type}",
            hint="give its values with --inputs",
        )
    return dtype


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell floats, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def declared(model: onnx.ModelProto) -> list[tuple[str, np.dtype[Any], tuple[Dim, ...]]]:
    """Return name, dtype and axes of every input that must be fed.

    Raises:
        ModelError: ``unsupported-type`` for sequences, maps and strings.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise ModelError(
                "unsupported-type",
                f"input {value.name} is not a tensor",
                hint="only dense tensors can be generated and compared",
            )
        tensor = value.type.tensor_type
        dims = tuple(
            axis(d.dim_value if d.HasField("dim_value") else None, d.dim_param, value.name, i)
            for i, d in enumerate(tensor.shape.dim)
        )
        found.append((value.name, numpy_dtype(tensor.elem_type, value.name), dims))
    return found


def assign(model: onnx.ModelProto, graph: GraphIndex) -> list[Role]:
    """Give every input its role."""
    roles = [_role(name, dtype, dims, trace(graph, name)) for name, dtype, dims in declared(model)]
    caches = [role for role in roles if role.kind == "past"]
    if caches:
        roles = [replace(role, left=True) if role.kind == "mask" else role for role in roles]
        roles = _tie_masks(roles, caches)
    return roles


def _role(name: str, dtype: np.dtype[Any], dims: tuple[Dim, ...], uses: Uses) -> Role:
    role = Role(name, dtype, dims, "activation", uses.table)
    if is_float(dtype):
        return _float_role(role, uses)
    if dtype.kind == "b":
        if not dims or all(dim.text == "1" for dim in dims):
            return replace(role, kind="flag")
        return _mask(role, uses)
    return _integer_role(role, uses)


def _mask(role: Role, uses: Uses) -> Role:
    drop, sure = uses.drops > uses.keeps, uses.drops != uses.keeps
    if not sure and re.search(r"pad", role.name, re.I) and role.dtype.kind == "b":
        drop = True
    return replace(role, kind="mask", drop=drop, sure=sure)


def _float_role(role: Role, uses: Uses) -> Role:
    name, rank = role.name, len(role.dims)
    if _MASK.search(name) and uses.logic:
        return _mask(role, uses)
    if uses.to_softmax and not uses.matmul:
        heads = rank == 4 and role.dims[1].text != "1"  # one a head: a position bias
        masked = _MASK.search(name) or not (heads or _BIAS.search(name))
        kind = "additive_mask" if masked and rank >= 2 else "bias"
        return replace(role, kind=kind, sure=True)
    if _MASK.search(name):
        return replace(role, kind="additive_mask") if rank == 4 else _mask(role, uses)
    if _TIME.search(name) and rank <= 1:
        return replace(role, kind="timestep")
    if uses.wave and not _PAST.search(name):
        return replace(role, kind="timestep" if rank <= 1 else "positions", sure=True)
    if _POSITION.search(name) or re.search(r"_ids$", name):
        return replace(role, kind="positions")
    if rank in (3, 4) and (_PAST.search(name) or (rank == 4 and uses.joined in (2, -2))):
        return replace(role, kind="past")
    return role


def _integer_role(role: Role, uses: Uses) -> Role:
    name, rank = role.name, len(role.dims)
    if _MASK.search(name) or (uses.logic and (uses.drops or uses.keeps) and uses.table is None):
        return _mask(role, uses)
    if _POSITION.search(name):
        return replace(role, kind="positions")
    if _TIME.search(name) and rank <= 1:
        return replace(role, kind="timestep")
    if rank <= 1 and (_LENGTH.search(name) or (uses.length and uses.table is None)):
        return replace(role, kind="lengths")
    if uses.table is not None:
        return replace(role, kind="tokens", sure=True)
    if uses.wave:
        return replace(role, kind="timestep" if rank <= 1 else "positions", sure=True)
    if rank <= 1 and uses.shape:
        return replace(role, kind="size")
    return replace(role, kind="tokens")


def _tie_masks(roles: Sequence[Role], caches: Sequence[Role]) -> list[Role]:
    """Make the key axis of a mask the sum of cache and new tokens when its symbol is its own."""
    past = next((r.dims[-2] for r in caches if len(r.dims) >= 3), None)
    tokens = next((r.dims[1] for r in roles if r.kind == "tokens" and len(r.dims) == 2), None)
    if past is None or tokens is None:
        return list(roles)
    shared: dict[str, int] = {}
    for role in roles:
        if role.kind not in ("mask", "additive_mask"):
            for dim in role.dims:
                for symbol in dim.symbols():
                    shared[symbol] = shared.get(symbol, 0) + 1
    tied = []
    for role in roles:
        last = role.dims[-1] if role.dims else None
        own = last is not None and last.symbols() and not any(s in shared for s in last.symbols())
        if role.kind in ("mask", "additive_mask") and own:
            total = Dim(f"({past.text})+({tokens.text})")
            role = replace(role, dims=(*role.dims[:-1], total))
        tied.append(role)
    return tied
