"""Choose the shape flags of a model from what is asked and what the model leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from omfuse.atc.options.problem import is_whole
from omfuse.atc.shapes.gears import plan_gears
from omfuse.atc.shapes.shape_plan import ShapePlan, input_shape_text
from omfuse.atc.shapes.wishes import (
    Dim,
    ShapeWishes,
    Slot,
    check_once,
    is_number,
    read_wish,
    slots_of,
)
from omfuse.errors import UsageError


def plan_shapes(
    inputs: Mapping[str, Sequence[Dim | None]], wishes: Sequence[str], aipp: bool = False
) -> ShapePlan:
    """Choose the shape flags for a model.

    Args:
        inputs: real graph inputs in order; a dim is a number, a symbol, or None.
        wishes: texts ``NAME=SPEC`` as above.
        aipp: whether ``insert_op_conf`` is given, which excludes ``dynamic_dims``.

    Raises:
        UsageError: ``bad-shape``, ``unknown-shape-name``, ``shape-needed`` (with a ready
            proposal), ``fixed-dim``, ``mixed-shape``.
    """
    asked = ShapeWishes()
    for wish in wishes:
        read_wish(wish, inputs, asked)
    check_once(wishes, asked)
    plan = _plan(inputs, asked, aipp)
    plan.reasons.extend(_remarks(inputs, asked, plan))
    return plan


def _remarks(
    inputs: Mapping[str, Sequence[Dim | None]], asked: ShapeWishes, plan: ShapePlan
) -> Iterator[str]:
    symbols = {d for dims in inputs.values() for d in dims if isinstance(d, str)}
    for symbol in sorted(symbols):
        values = {asked.fixed[s] for s in slots_of(symbol, inputs) if s in asked.fixed}
        if len(values) > 1:
            yield (
                f"{symbol} has several values, {' and '.join(sorted(values))}: "
                "the model says they are one size"
            )
    for name in inputs:
        if "-1" in name and plan.kind == "static" and plan.flags:
            yield (
                f"ATC takes the -1 in the name {name} for an open dim and builds a dynamic-shape "
                "model; rename that input before export"
            )


def _plan(inputs: Mapping[str, Sequence[Dim | None]], asked: ShapeWishes, aipp: bool) -> ShapePlan:
    open_slots = [
        (name, axis)
        for name, dims in inputs.items()
        for axis, dim in enumerate(dims)
        if not is_number(dim)
    ]
    missing = [slot for slot in open_slots if slot not in asked.slots()]
    if missing:
        raise _shape_needed(inputs, missing)
    shapes = {
        name: [_dim_text(name, axis, dim, asked) for axis, dim in enumerate(dims)]
        for name, dims in inputs.items()
    }
    ranged = any("~" in d or d == "-1" for dims in shapes.values() for d in dims if d)
    if asked.groups:
        if ranged:
            raise UsageError(
                "mixed-shape",
                "gears and ranges cannot be mixed in one model (ATC E10040)",
                where="--shape",
                hint="give the ranged dim gears as well, or a range to all of them",
            )
        return plan_gears(inputs, shapes, asked, aipp)
    filled = {name: [d or "?" for d in dims] for name, dims in shapes.items()}
    flags = {"input_shape": input_shape_text(filled)}
    if ranged:
        reason = "a dim has a range, so input_shape takes the range form: a dynamic-shape model"
        sizes = {n: tuple(int(d) if is_whole(d) else None for d in v) for n, v in filled.items()}
        return ShapePlan("range", flags, [reason], sizes)
    concrete = {n: tuple(int(d) for d in v) for n, v in filled.items()}
    if not open_slots:
        return ShapePlan(
            "static", {}, ["every dim of the model is fixed, no flag needed"], {**concrete}
        )
    reason = "every open dim got one value: input_shape, a static model"
    return ShapePlan("static", flags, [reason], {**concrete})


def _shape_needed(
    inputs: Mapping[str, Sequence[Dim | None]], missing: Sequence[Slot]
) -> UsageError:
    named = {inputs[n][a] for n, a in missing if isinstance(inputs[n][a], str)}
    unnamed = {n for n, a in missing if not isinstance(inputs[n][a], str)}
    words = [f"--shape '{symbol}=1'" for symbol in sorted(str(s) for s in named)]
    for name in inputs:
        if name in unnamed:
            dims = ",".join(str(d) if is_number(d) else "1" for d in inputs[name])
            words.append(f"--shape '{name}={dims}'")
    listed = ", ".join(
        f"{n}[{', '.join('?' if d is None else str(d) for d in inputs[n])}]"
        for n in dict.fromkeys(n for n, _ in missing)
    )
    return UsageError(
        "shape-needed",
        f"ATC needs a value for every open dim (ATC E10001): {listed}",
        where="--shape",
        hint=f"for example {' '.join(words)}; several values make gears, 1~512 a range",
    )


def _dim_text(name: str, axis: int, dim: Dim | None, asked: ShapeWishes) -> str | None:
    if is_number(dim):
        return str(dim)
    return asked.fixed.get((name, axis))  # None: a gear goes there
