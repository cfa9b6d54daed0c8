"""Realistic inputs for any ONNX model, checked by a run.

The graph says what an input means (:mod:`omfuse.diff.trace`), its name fills the gaps, and a run
in onnxruntime decides: when it fails, other sizes and other meanings are tried, a bounded number
of times, and what was tried is part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from omfuse.diff import dims as dimensions
from omfuse.diff import trace, values
from omfuse.diff.roles import Role, assign, is_float
from omfuse.errors import ModelError, OmfuseError
from omfuse.session_protocol import Array, Session

MAX_TRIES = 24
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class InputPlan:
    """How to make inputs of a model for any seed.

    Attributes:
        roles: what each input means.
        sizes: size of each symbolic dim.
        kinds: what each symbol is.
        padding: masks hide some keys.
        integer_cap: exclusive bound of integers without a known table.
        tried: what failed before this plan, one line each.
    """

    roles: tuple[Role, ...]
    sizes: Mapping[str, int]
    kinds: dimensions.Kinds
    padding: bool = True
    integer_cap: int | None = None
    tried: tuple[str, ...] = field(default=())

    def make(self, seed: int) -> dict[str, Array]:
        """Return the inputs of one seed; the same seed gives the same bytes."""
        return values.make(
            self.roles,
            self.sizes,
            seed,
            padding=self.padding,
            integer_cap=self.integer_cap,
        )

    def describe(self) -> str:
        """Return one line: sizes, and the meaning of each input."""
        meaning = ", ".join(f"{role.name}={role.kind}" for role in self.roles)
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"{meaning}; {sizes or 'static shapes'}"


def plan_inputs(model: onnx.ModelProto, dims: Mapping[str, int] | None = None) -> InputPlan:
    """Read the graph and plan its inputs, without running it.

    Args:
        model: the model; external weights need not be loaded.
        dims: sizes for symbolic dims; the rest are chosen.

    Raises:
        ModelError: ``unsupported-type``.
        UsageError: ``unknown-dim``, ``bad-dim``.
    """
    roles = tuple(assign(model, trace.index(model)))
    kinds = dimensions.classify(
        {role.name: role.dims for role in roles},
        {role.name for role in roles if is_float(role.dtype)},
        {role.name for role in roles if role.kind == "past"},
    )
    return InputPlan(roles, dimensions.chosen(kinds, dims), kinds)


def settle(
    plan: InputPlan, run: Run, fixed: Mapping[str, int] | None = None, seed: int = 0
) -> InputPlan:
    """Return a plan whose inputs run, the given one if it does.

    Args:
        plan: the first guess.
        run: runs the model once and raises :class:`OmfuseError` when it cannot.
        fixed: sizes the caller insists on.
        seed: the seed to try with.

    Raises:
        ModelError: ``no-inputs-found`` after ``MAX_TRIES`` guesses, saying what was tried.
        OmfuseError: what ``run`` says when its device is gone.
    """
    tried: list[str] = []
    seen: set[str] = set()
    hints: list[int] = []
    for words, guess in _guesses(plan, fixed or {}, hints):
        key = repr((guess.sizes, guess.padding, guess.integer_cap, guess.roles))
        if key in seen:
            continue
        seen.add(key)
        try:
            run(guess.make(seed))
        except OmfuseError as error:
            if error.final:
                raise
            tried.append(f"{words}: {error.message}")
            hints.extend(_table_bound(error.message))
        else:
            return replace(guess, tried=tuple(tried))
        if len(seen) >= MAX_TRIES:
            break
    raise ModelError(
        "no-inputs-found",
        f"none of {len(tried)} guesses at the inputs runs; first: {tried[0]}; last: {tried[-1]}",
        hint="give real inputs (run --input, diff --inputs), or sizes with --dim NAME=N; needed: "
        + ", ".join(f"{r.name} {r.dtype}[{','.join(d.text for d in r.dims)}]" for r in plan.roles),
    )


def _table_bound(message: str) -> list[int]:
    """Read the legal range from onnxruntime's message on an index outside a table."""
    found = re.search(r"inclusive range \[-?\d+,\s*(\d+)\]", message)
    return [int(found.group(1)) + 1] if found else []


def _guesses(
    plan: InputPlan, fixed: Mapping[str, int], hints: list[int]
) -> Iterator[tuple[str, InputPlan]]:
    yield "first guess", plan
    if hints:
        yield "smaller integers", _capped(plan, hints[-1])
    for words, sizes in dimensions.other_sizes(plan.kinds, plan.sizes):
        yield words, replace(plan, sizes={**sizes, **fixed})
        if len(hints) > 1 and hints[-1] < hints[0]:
            yield (
                f"{words}, smaller integers",
                _capped(replace(plan, sizes={**sizes, **fixed}), hints[-1]),
            )
    plain = replace(plan, padding=False)
    yield "masks that keep everything", plain
    yield "integers 0 and 1", _capped(plan, 2)
    flags = any(role.kind == "flag" for role in plan.roles)
    if flags:
        yield "flags as sizes", _capped(plain, 2)
    if plan.kinds.batch and not fixed:
        yield (
            "batch 1 and masks that keep everything",
            replace(plain, sizes={**plan.sizes, **dict.fromkeys(plan.kinds.batch, 1)}),
        )


def _capped(plan: InputPlan, top: int) -> InputPlan:
    roles = tuple(
        replace(role, limit=min(role.limit or top, top))
        if not is_float(role.dtype) and role.dtype.kind != "b"
        else role
        for role in plan.roles
    )
    return replace(plan, roles=roles, integer_cap=top)


def second_shape(plan: InputPlan, run: Run) -> InputPlan | None:
    """Return the plan with other legal sizes, or None when the model accepts only one."""
    for sizes in dimensions.second_sizes(plan.kinds, plan.sizes):
        guess = replace(plan, sizes=sizes)
        if dict(sizes) == dict(plan.sizes):
            continue
        try:
            run(guess.make(0))
        except OmfuseError:
            continue
        return guess
    return None


def is_half(model: onnx.ModelProto) -> bool:
    """Tell whether a model holds fp16 or bf16: such models may crash onnxruntime natively."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    graph = model.graph
    tensors = any(tensor.data_type in halves for tensor in graph.initializer)
    feeds = any(value.type.tensor_type.elem_type in halves for value in graph.input)
    return tensors or feeds


def open_original(
    model: onnx.ModelProto | str | Path,
    *,
    isolated: bool | None = None,
    base_dir: str | Path | None = None,
) -> Session:
    """Open a model as it is: onnxruntime without graph optimisation, apart when it holds fp16.

    Raises:
        OmfuseError: as :class:`omfuse.host.session.HostSession`.
    """
    from omfuse.host.session import HostSession

    if isolated is None:
        proto = (
            model
            if isinstance(model, onnx.ModelProto)
            else onnx.load(model, load_external_data=False)
        )
        isolated = is_half(proto)
    return HostSession(model, lowering="body", optimize=False, isolated=isolated, base_dir=base_dir)


def generate_inputs(
    model: onnx.ModelProto,
    seed: int,
    dims: dict[str, int] | None = None,
    *,
    check: bool = True,
    base_dir: str | Path | None = None,
) -> dict[str, Array]:
    """Make realistic inputs for a model.

    Args:
        model: the model.
        seed: seed of all random values.
        dims: sizes of symbolic dims.
        check: run the model once in onnxruntime and try other guesses when it fails.
        base_dir: folder of the model's external data, for the check.

    Returns:
        One array for each input that must be fed, dtype and shape as declared.

    Raises:
        ModelError: ``unsupported-type``, ``no-inputs-found`` (says what was tried).
        UsageError: ``unknown-dim``, ``bad-dim``.
    """
    plan = plan_inputs(model, dims)
    if not check:
        return plan.make(seed)
    with open_original(model, base_dir=base_dir) as session:
        return settle(plan, session.run, dims, seed).make(seed)


def same_bytes(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Tell whether two sets of inputs are identical to the bit."""
    return a.keys() == b.keys() and all(
        np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes() for name in a
    )
