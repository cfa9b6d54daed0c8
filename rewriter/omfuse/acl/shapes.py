"""Check what is fed, and choose the shape of a run: no ACL here, only sentences and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfuse.acl.describe import Description, Dims, Tensor
from omfuse.errors import UsageError
from omfuse.session_protocol import from_bits

_SHOWN = 12  # gears in a sentence


@dataclass(frozen=True)
class Choice:
    """The shape of one run.

    Attributes:
        dims: dims of each input, in order.
        gear: the gear to set, None when the model has none.
    """

    dims: tuple[Dims, ...]
    gear: Dims | None = None

    @property
    def key(self) -> tuple[Dims, ...]:
        """What equal shapes share."""
        return self.dims


def symbols(described: Description) -> dict[str, tuple[int | str, ...]]:
    """Return the shapes to show: an int, or a name where the size is chosen at run time."""
    shown: dict[str, tuple[int | str, ...]] = {}
    for tensor in described.inputs:
        open_axes = [axis for axis, size in enumerate(tensor.dims) if size < 0]
        named: dict[int, str] = {}
        for place, axis in enumerate(open_axes):
            if described.mode == "batch":
                named[axis] = "batch"
            elif described.mode == "image" and len(open_axes) == 2:
                named[axis] = ("height", "width")[place]
            else:
                named[axis] = f"{tensor.name}.{axis}"
        shown[tensor.name] = tuple(named.get(axis, size) for axis, size in enumerate(tensor.dims))
    return shown


def check_names(described: Description, given: Iterable[str], bound: Iterable[str] = ()) -> None:
    """Refuse unknown and missing inputs.

    Raises:
        UsageError: ``bad-feed``.
    """
    names = [tensor.name for tensor in described.inputs]
    given, bound = list(given), set(bound)
    needs = ", ".join(_wanted(tensor) for tensor in described.inputs)
    for name in given:
        if name not in names:
            raise UsageError(
                "bad-feed", f"no input is called {name!r}", hint=f"the model takes {needs}"
            )
    for name in names:
        if name not in given and name not in bound:
            raise UsageError(
                "bad-feed", f"input {name!r} is missing", hint=f"the model takes {needs}"
            )


def as_array(tensor: Tensor, value: Any) -> np.ndarray[Any, Any]:
    """Return a C-contiguous array of the right dtype and rank.

    The bits of a bfloat16 or fp8 input, as ``.npy`` files give them, are taken as such.

    Raises:
        UsageError: ``bad-feed`` naming what is needed and what came.
    """
    array = from_bits(np.asarray(value), tensor.dtype)
    if array.dtype != tensor.dtype and array.dtype.newbyteorder("=") == tensor.dtype:
        array = array.astype(tensor.dtype)  # the other byte order
    if array.dtype != tensor.dtype:
        how = f"{tensor.dtype.name!r}"
        if tensor.dtype.kind == "V":
            how = f"ml_dtypes.{tensor.dtype.name}"
        raise UsageError(
            "bad-feed",
            f"input {tensor.name!r} takes {tensor.dtype.name}, got {array.dtype.name}",
            hint=f"convert it: array.astype({how})",
        )
    if array.ndim != len(tensor.dims):
        raise UsageError(
            "bad-feed",
            f"input {tensor.name!r} has {len(tensor.dims)} dims {_text(tensor.dims)}, "
            f"got {_text(array.shape)}",
            hint="reshape it",
        )
    for axis, (size, wanted) in enumerate(zip(array.shape, tensor.dims)):
        if wanted >= 0 and size != wanted:
            raise UsageError(
                "bad-shape",
                f"input {tensor.name!r} {_text(array.shape)}: dim {axis} must be {wanted}",
                hint=f"the model takes {_wanted(tensor)}",
            )
    # Not ascontiguousarray: that makes a vector of a scalar.
    return array if array.flags.c_contiguous else np.array(array, order="C")


def check_target(name: str, dtype: Any, dims: Dims, array: Any) -> np.ndarray[Any, Any]:
    """Return an array into which an output can be copied as it lies in memory.

    Raises:
        UsageError: ``bad-out``.
    """
    given = type(array).__name__
    if isinstance(array, np.ndarray):
        given = f"{array.dtype.name}{list(array.shape)}"
        same = array.dtype == dtype and array.shape == tuple(dims)
        if same and array.flags.c_contiguous and array.flags.writeable:
            return array
        if same:
            given += ", not contiguous" if array.flags.writeable else ", read-only"
    raise UsageError(
        "bad-out",
        f"output {name!r} is {np.dtype(dtype).name}{list(dims)}, the array given for it is {given}",
        hint="give a writeable C-contiguous array of that dtype and shape",
    )


def check_binding(
    described: Description,
    made: int,
    name: str,
    bound: Mapping[int, int],
) -> int:
    """Return the index of the input that an output may become.

    Args:
        described: the model.
        made: position of the output.
        name: name of the input.
        bound: output -> input, bound already.

    Raises:
        UsageError: ``bad-feed``, ``bad-binding``.
    """
    names = [tensor.name for tensor in described.inputs]
    if name not in names:
        raise UsageError(
            "bad-feed", f"no input is called {name!r}", hint=f"there are {', '.join(names)}"
        )
    source, target = described.outputs[made], described.inputs[names.index(name)]
    same = described.mode == "dynamic" or source.size == target.size
    if source.code != target.code or len(source.dims) != len(target.dims) or not same:
        raise UsageError(
            "bad-binding",
            f"output {source.name!r} {source.dtype.name}{list(source.dims)} cannot become input "
            f"{name!r} {target.dtype.name}{list(target.dims)}",
            hint="dtype and size must agree",
        )
    if any((one == made) != (fed == target.index) for one, fed in bound.items()):
        raise UsageError(
            "bad-binding",
            f"output {source.name!r} or input {name!r} is bound already",
            hint="an output becomes one input, an input comes from one output",
        )
    return target.index


def choose(described: Description, dims: Sequence[Dims]) -> Choice:
    """Choose the gear, or check the ranges.

    Args:
        described: the model.
        dims: dims of each input; they fit where the model fixes them.

    Raises:
        UsageError: ``bad-shape`` listing the valid choices.
    """
    found = tuple(tuple(int(size) for size in one) for one in dims)
    if described.mode == "static":
        return Choice(found)
    if described.mode == "dynamic":
        for tensor, one in zip(described.inputs, found):
            _check_range(tensor, one)
        return Choice(found)
    if described.mode == "dims":
        gear = tuple(size for one in found for size in one)
        _check_gear(described, gear, found)
        return Choice(found, gear)
    numbers = [
        [size for size, wanted in zip(one, tensor.dims) if wanted < 0]
        for tensor, one in zip(described.inputs, found)
    ]
    open_sizes = [tuple(one) for one in numbers if one]
    if described.mode == "batch":
        open_sizes = [(size,) for one in open_sizes for size in one]
    if len(set(open_sizes)) != 1:
        raise UsageError(
            "bad-shape",
            f"the inputs disagree on the {_KIND[described.mode]}: {_each(described, found)}",
            hint=f"compiled are {gears_text(described)}",
        )
    gear = open_sizes[0]
    _check_gear(described, gear, found)
    return Choice(found, gear)


_KIND = {"batch": "batch", "image": "image size", "dims": "dims"}


def _check_gear(described: Description, gear: Dims, found: Sequence[Dims]) -> None:
    if gear not in described.gears:
        raise UsageError(
            "bad-shape",
            f"no gear was compiled for {_each(described, found)}",
            hint=f"compiled are {gears_text(described)}",
        )


def _check_range(tensor: Tensor, dims: Dims) -> None:
    for axis, (size, (low, high)) in enumerate(zip(dims, tensor.ranges)):
        if tensor.dims[axis] < 0 and (size < low or (high >= 0 and size > high)):
            allowed = f"{low} or more" if high < 0 else f"in {low}~{high}"
            raise UsageError(
                "bad-shape",
                f"input {tensor.name!r} {_text(dims)}: dim {axis} must be {allowed}",
                hint="compile the model with a wider --shape to allow it",
            )


def gears_text(described: Description) -> str:
    """Return the compiled gears in words."""
    if described.mode == "batch":
        return "batch " + ", ".join(str(gear[0]) for gear in described.gears[:_SHOWN])
    if described.mode == "image":
        sizes = [f"{gear[0]}x{gear[1]}" for gear in described.gears[:_SHOWN]]
        return "height x width " + ", ".join(sizes)
    shown = []
    for gear in described.gears[:_SHOWN]:
        parts, at = [], 0
        for tensor in described.inputs:
            parts.append(f"{tensor.name} {_text(gear[at : at + len(tensor.dims)])}")
            at += len(tensor.dims)
        shown.append(" with ".join(parts))
    more = len(described.gears) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _each(described: Description, found: Sequence[Dims]) -> str:
    return ", ".join(f"{t.name} {_text(d)}" for t, d in zip(described.inputs, found))


def _wanted(tensor: Tensor) -> str:
    sizes = []
    for axis, size in enumerate(tensor.dims):
        if size >= 0 or axis >= len(tensor.ranges):
            sizes.append(str(size) if size >= 0 else "?")
        else:
            low, high = tensor.ranges[axis]
            sizes.append(f"{low}~{'' if high < 0 else high}")
    return f"{tensor.name} {tensor.dtype.name}[{','.join(sizes)}]"


def _text(dims: Iterable[int]) -> str:
    return "[" + ",".join(str(size) for size in dims) + "]"
