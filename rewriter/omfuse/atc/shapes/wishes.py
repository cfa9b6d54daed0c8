"""What is asked of shapes: the texts ``NAME=SPEC`` read against the model's inputs.

``input_ids=1,128`` fixes an input, ``batch=1`` a symbolic dim, ``batch=1,4,8`` gives it gears,
``seq=1~512`` a range; ``batch,seq=1,64;4,128`` gives gears to several dims in step, and
``x=1,3,224,224;1,3,448,448`` to an input as whole shapes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omfuse.atc.options.problem import is_whole
from omfuse.errors import UsageError

Dim = int | str
Slot = tuple[str, int]  # input name, axis
_INT_MAX = 2**31 - 1


@dataclass
class ShapeWishes:
    """What was asked for: one value or range a slot, and gear groups over slots."""

    fixed: dict[Slot, str] = field(default_factory=dict)
    groups: list[tuple[list[list[Slot]], list[tuple[int, ...]]]] = field(default_factory=list)

    def slots(self) -> set[Slot]:
        """Return every axis that got a value or gears."""
        grouped = {s for dims, _ in self.groups for dim in dims for s in dim}
        return set(self.fixed) | grouped


def read_wish(wish: str, inputs: Mapping[str, Sequence[Dim | None]], asked: ShapeWishes) -> None:
    """Add one wish to ``asked``.

    Raises:
        UsageError: ``bad-shape``, ``unknown-shape-name``, ``fixed-dim``.
    """
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
        if not slots_of(symbol, inputs):
            raise _unknown_name(symbol, inputs)
    if len(symbols) > 1:
        gears = [_numbers(part, wish) for part in spec.split(";") if part.strip()]
        if any(len(gear) != len(symbols) for gear in gears):
            raise _bad(wish, f"each gear needs {len(symbols)} numbers")
        asked.groups.append(([slots_of(s, inputs) for s in symbols], gears))
        return
    slots = slots_of(name, inputs)
    if "~" in spec or spec == "-1":
        _check_range(spec, wish)
        asked.fixed.update(dict.fromkeys(slots, spec))
        return
    values = _numbers(spec.replace(";", ","), wish)
    if len(values) == 1:
        asked.fixed.update(dict.fromkeys(slots, str(values[0])))
    else:
        asked.groups.append(([slots], [(v,) for v in values]))


def check_once(wishes: Sequence[str], asked: ShapeWishes) -> None:
    """Refuse an axis that is given twice."""
    names = [wish_name(wish) for wish in wishes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _bad(twice, "it is given twice; several values of one dim go into one --shape")
    grouped = [slot for dims, _ in asked.groups for dim in dims for slot in dim]
    for name, axis in grouped:
        if (name, axis) in asked.fixed or grouped.count((name, axis)) > 1:
            raise _bad(f"{name}[{axis}]", f"axis {axis} of {name} has gears and another value")


def wish_name(wish: str) -> str:
    """Return what a wish is about: the input, the symbol, or several symbols."""
    # Names may hold `=` and `:`; a spec never does, so the last sign is the separator.
    return (wish.rpartition("=")[0] or wish.rpartition(":")[0]).strip()


def slots_of(name: str, inputs: Mapping[str, Sequence[Dim | None]]) -> list[Slot]:
    """Return the axes that carry a symbol."""
    return [(i, a) for i, dims in inputs.items() for a, dim in enumerate(dims) if dim == name]


def is_number(dim: Dim | None) -> bool:
    """Tell whether the model fixes a dim."""
    return isinstance(dim, int) and dim >= 0


def _read_input(name: str, spec: str, dims: Sequence[Dim | None], asked: ShapeWishes) -> None:
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
                hint=f"in the model it is [{', '.join(str(d or '?') for d in dims)}]",
            )
    moving = []
    for axis, dim in enumerate(dims):
        texts = [shape[axis] for shape in shapes]
        for text in texts:
            if "~" in text or text == "-1":
                _check_range(text, wish)
            elif len(_numbers(text, wish)) != 1:
                raise _bad(wish, f"{text!r} is no dim")
        if is_number(dim):
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
