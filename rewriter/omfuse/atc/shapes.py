"""Shapes by intent: what the user says about inputs and dims becomes the right ATC flags.

``input_ids=1,128`` fixes an input, ``batch=1`` a symbolic dim, ``batch=1,4,8`` gives it gears,
``seq=1~512`` a range; ``batch,seq=1,64;4,128`` gives gears to several dims in step, and
``x=1,3,224,224;1,3,448,448`` to an input as whole shapes.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from omfuse.atc.options import AtcOptions
from omfuse.atc.problem import is_whole
from omfuse.errors import UsageError

Dim = int | str
Slot = tuple[str, int]  # input name, axis
_INT_MAX = 2**31 - 1


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


@dataclass
class _Wishes:
    """What was asked for: one value or range a slot, and gear groups over slots."""

    fixed: dict[Slot, str] = field(default_factory=dict)
    groups: list[tuple[list[list[Slot]], list[tuple[int, ...]]]] = field(default_factory=list)

    def slots(self) -> set[Slot]:
        grouped = {s for dims, _ in self.groups for dim in dims for s in dim}
        return set(self.fixed) | grouped


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
    asked = _Wishes()
    for wish in wishes:
        _read_wish(wish, inputs, asked)
    _check_once(wishes, asked)
    plan = _plan(inputs, asked, aipp)
    plan.reasons.extend(_remarks(inputs, asked, plan))
    return plan


def _remarks(
    inputs: Mapping[str, Sequence[Dim | None]], asked: _Wishes, plan: ShapePlan
) -> Iterator[str]:
    symbols = {d for dims in inputs.values() for d in dims if isinstance(d, str)}
    for symbol in sorted(symbols):
        values = {asked.fixed[s] for s in _slots_of(symbol, inputs) if s in asked.fixed}
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


def _plan(inputs: Mapping[str, Sequence[Dim | None]], asked: _Wishes, aipp: bool) -> ShapePlan:
    open_slots = [
        (name, axis)
        for name, dims in inputs.items()
        for axis, dim in enumerate(dims)
        if not _is_number(dim)
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
        return _plan_gears(inputs, shapes, asked, aipp)
    filled = {name: [d or "?" for d in dims] for name, dims in shapes.items()}
    flags = {"input_shape": _join(filled)}
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


def _is_number(dim: Dim | None) -> bool:
    return isinstance(dim, int) and dim >= 0


def _slots_of(name: str, inputs: Mapping[str, Sequence[Dim | None]]) -> list[Slot]:
    return [(i, a) for i, dims in inputs.items() for a, dim in enumerate(dims) if dim == name]


def wish_name(wish: str) -> str:
    """Return what a wish is about: the input, the symbol, or several symbols."""
    # Names may hold `=` and `:`; a spec never does, so the last sign is the separator.
    return (wish.rpartition("=")[0] or wish.rpartition(":")[0]).strip()


def _check_once(wishes: Sequence[str], asked: _Wishes) -> None:
    names = [wish_name(wish) for wish in wishes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _bad(twice, "it is given twice; several values of one dim go into one --shape")
    grouped = [slot for dims, _ in asked.groups for dim in dims for slot in dim]
    for name, axis in grouped:
        if (name, axis) in asked.fixed or grouped.count((name, axis)) > 1:
            raise _bad(f"{name}[{axis}]", f"axis {axis} of {name} has gears and another value")


def _read_wish(wish: str, inputs: Mapping[str, Sequence[Dim | None]], asked: _Wishes) -> None:
    name, sep, spec = wish.rpartition("=")
    if not sep:
        name, sep, spec = wish.rpartition(":")
    name, spec = name.strip(), spec.strip()
    if not sep or not name:
        raise UsageError(
            "bad-shape",
            f"{wish!r} is not NAME=SHAPE",
            where="--shape",
            hint="--shape input_ids=1,128   --shape batch=1,4,8   --shape 'seq=1~512'",
        )
    if name in inputs:
        _read_input(name, spec, inputs[name], asked)
        return
    symbols = [n.strip() for n in name.split(",")]
    for symbol in symbols:
        if not _slots_of(symbol, inputs):
            raise _unknown_name(symbol, inputs)
    if len(symbols) > 1:
        gears = [_numbers(part, wish) for part in spec.split(";") if part.strip()]
        if any(len(gear) != len(symbols) for gear in gears):
            raise _bad(wish, f"each gear needs {len(symbols)} numbers")
        asked.groups.append(([_slots_of(s, inputs) for s in symbols], gears))
        return
    slots = _slots_of(name, inputs)
    if "~" in spec or spec == "-1":
        _check_range(spec, wish)
        asked.fixed.update(dict.fromkeys(slots, spec))
        return
    values = _numbers(spec.replace(";", ","), wish)
    if len(values) == 1:
        asked.fixed.update(dict.fromkeys(slots, str(values[0])))
    else:
        asked.groups.append(([slots], [(v,) for v in values]))


def _read_input(name: str, spec: str, dims: Sequence[Dim | None], asked: _Wishes) -> None:
    wish = f"{name}={spec}"
    shapes = [
        [w.strip() for w in part.split(",")] if part.strip() else [] for part in spec.split(";")
    ]
    for shape in shapes:
        if len(shape) != len(dims):
            raise UsageError(
                "bad-shape",
                f"{name} has rank {len(dims)}, the shape has {len(shape)} dims (ATC E10049)",
                where=f"--shape {wish}",
                hint=f"in the model it is [{', '.join(str(d) for d in dims)}]",
            )
    moving = []
    for axis, dim in enumerate(dims):
        texts = [shape[axis] for shape in shapes]
        for text in texts:
            if "~" in text or text == "-1":
                _check_range(text, wish)
            elif len(_numbers(text, wish)) != 1:
                raise _bad(wish, f"{text!r} is no dim")
        if _is_number(dim):
            if any(not _admits(text, int(dim or 0)) for text in texts):
                raise UsageError(
                    "fixed-dim",
                    f"axis {axis} of {name} is fixed to {dim} in the model",
                    where=f"--shape {wish}",
                    hint="export that axis as dynamic, or give the model's value",
                )
        elif len(set(texts)) == 1:
            asked.fixed[(name, axis)] = texts[0]
        else:
            moving.append(axis)
    if moving:
        gears = [tuple(int(shape[axis]) for axis in moving) for shape in shapes]
        asked.groups.append(([[(name, axis)] for axis in moving], gears))


def _admits(text: str, value: int) -> bool:
    low, tilde, high = text.partition("~")
    if text == "-1":
        return True
    return int(low) == value if not tilde else int(low) <= value <= int(high)


def _numbers(text: str, wish: str) -> tuple[int, ...]:
    words = [w.strip() for w in text.split(",") if w.strip()]
    if not words or not all(is_whole(w) for w in words):
        raise _bad(wish, f"{text!r} holds something that is not a number")
    values = tuple(int(w) for w in words)
    if min(values) < 1 or max(values) > _INT_MAX:
        raise _bad(wish, "dims are 1 to 2147483647 (ATC E10011, E10013)")
    return values


def _check_range(text: str, wish: str) -> None:
    low, tilde, high = text.partition("~")
    if text == "-1":
        return
    if not tilde or not is_whole(low) or not is_whole(high) or int(low) > int(high):
        raise _bad(wish, f"{text!r} is no range (ATC E10048)")
    if int(high) > _INT_MAX:
        raise _bad(wish, "dims are at most 2147483647 (ATC E10013)")


def _bad(wish: str, why: str) -> UsageError:
    return UsageError(
        "bad-shape",
        why,
        where=f"--shape {wish}",
        hint="numbers 1,128   gears 1,4,8   range 1~512   gears in step batch,seq=1,64;4,128",
    )


def _unknown_name(name: str, inputs: Mapping[str, Sequence[Dim | None]]) -> UsageError:
    symbols = {d for dims in inputs.values() for d in dims if isinstance(d, str)}
    known = [*inputs, *sorted(symbols)]
    near = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        "unknown-shape-name",
        f"{name!r} is neither an input nor a symbolic dim of the model (ATC E10016)",
        where=f"--shape {name}",
        hint=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(known)}",
    )


def _shape_needed(
    inputs: Mapping[str, Sequence[Dim | None]], missing: Sequence[Slot]
) -> UsageError:
    named = {inputs[n][a] for n, a in missing if isinstance(inputs[n][a], str)}
    unnamed = {n for n, a in missing if not isinstance(inputs[n][a], str)}
    words = [f"--shape '{symbol}=1'" for symbol in sorted(str(s) for s in named)]
    for name in inputs:
        if name in unnamed:
            dims = ",".join(str(d) if _is_number(d) else "1" for d in inputs[name])
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


def _dim_text(name: str, axis: int, dim: Dim | None, asked: _Wishes) -> str | None:
    if _is_number(dim):
        return str(dim)
    return asked.fixed.get((name, axis))  # None: a gear goes there


def _join(shapes: Mapping[str, Sequence[str]]) -> str:
    return ";".join(f"{name}:{','.join(dims)}" for name, dims in shapes.items())


def _plan_gears(
    inputs: Mapping[str, Sequence[Dim | None]],
    shapes: Mapping[str, Sequence[str | None]],
    asked: _Wishes,
    aipp: bool,
) -> ShapePlan:
    combos: list[dict[Slot, int]] = []
    for choice in itertools.product(*(gears for _, gears in asked.groups)):
        values: dict[Slot, int] = {}
        for (dims, _), gear in zip(asked.groups, choice, strict=True):
            for slots, number in zip(dims, gear, strict=True):
                values.update(dict.fromkeys(slots, number))
        if values not in combos:
            combos.append(values)
    holes = [
        (name, axis) for name, dims in shapes.items() for axis, d in enumerate(dims) if d is None
    ]
    text = _join({n: [d or "-1" for d in dims] for n, dims in shapes.items()})
    whole = [
        {
            name: tuple(int(d) if d else values[(name, axis)] for axis, d in enumerate(dims))
            for name, dims in shapes.items()
        }
        for values in combos
    ]
    biggest = max(whole, key=lambda gear: sum(_volume(shape) for shape in gear.values()))
    concrete: dict[str, tuple[int | None, ...]] = {**biggest}
    if len(combos) == 1:
        return ShapePlan(
            "static",
            {"input_shape": _join({n: [str(d) for d in s] for n, s in whole[0].items()})},
            ["only one gear: input_shape, a static model"],
            concrete,
        )
    flags = {"input_shape": text}
    same = all(len({values[slot] for slot in holes}) == 1 for values in combos)
    rank0 = [name for name, dims in inputs.items() if not dims]
    images = {name for name, _ in holes}
    if same and all(axis == 0 for _, axis in holes) and not rank0:
        flags["dynamic_batch_size"] = ",".join(str(values[holes[0]]) for values in combos)
        kind = "batch-gears"
        reason = "only axis 0 varies, and together: dynamic_batch_size"
    elif (
        aipp
        and len(images) == 1
        and [a for _, a in holes] == [2, 3]
        and len(shapes[holes[0][0]]) == 4
    ):
        flags["dynamic_image_size"] = ";".join(
            f"{values[holes[0]]},{values[holes[1]]}" for values in combos
        )
        flags["input_format"] = "NCHW"
        kind, reason = (
            "image-gears",
            "H and W vary and AIPP excludes dynamic_dims: dynamic_image_size",
        )
    else:
        flags["dynamic_dims"] = ";".join(
            ",".join(str(values[slot]) for slot in holes) for values in combos
        )
        flags["input_format"] = "ND"
        kind = "dims-gears"
        reason = (
            f"{len(holes)} dims vary, not only axis 0: dynamic_dims, one number for each -1 in the "
            "order of input_shape (needs input_format=ND)"
        )
    reasons = [reason, f"{len(combos)} gears; each is built, so build time grows with their number"]
    if len(asked.groups) > 1:
        reasons.append("separate dims were combined each with each; `a,b=1,64;4,128` goes in step")
    return ShapePlan(kind, flags, reasons, concrete, whole)


def _volume(shape: Sequence[int]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total
