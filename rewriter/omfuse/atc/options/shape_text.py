"""The grammar of ATC's shape flags: items, fixed dims, ranges.

Written from graph-engine 9.2 ``option_utils.cc``; the codes are those with which ATC stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omfuse.atc.options.problem import BrokenRuleError, is_whole

_INT_MAX = 2**31 - 1


@dataclass(frozen=True)
class ShapeItem:
    """One item of ``input_shape``: a name (empty in the form by position) and its dim texts."""

    name: str
    dims: tuple[str, ...]


def split_items(text: str, flag: str = "input_shape") -> list[ShapeItem]:
    """Split ``n1:d,d;n2:d,d`` on ``;`` and each item on its last ``:``."""
    items = []
    for part in text.split(";"):
        if not part.strip():
            continue
        name, colon, dims = part.rpartition(":")
        if not colon:
            name = ""
        words = tuple(d.strip() for d in dims.split(",")) if dims.strip() else ()
        items.append(ShapeItem(name.strip(), words))
    if not items:
        raise BrokenRuleError("E10004", flag, "the value is empty", "name:dim,dim;name:dim,dim")
    return items


def check_static(items: Sequence[ShapeItem], text: str) -> None:
    """Check the form in which every dim is a number."""
    for item in items:
        if not item.name:
            raise BrokenRuleError(
                "E10002",
                "input_shape",
                f"no input name before `:` in {text!r}",
                "name:dim,dim;name:dim,dim",
            )
        for dim in item.dims:
            static_dim(item, dim)


def static_dim(item: ShapeItem, dim: str) -> None:
    """Check one dim that must be a positive number."""
    where = f"dim {dim!r} of {item.name}"
    if "." in dim:
        raise BrokenRuleError(
            "E10002", "input_shape", f"{where} is not an integer", "use whole numbers"
        )
    sign, digits = (dim[:1], dim[1:]) if dim[:1] in "+-" and dim else ("", dim)
    if is_whole(digits[:1]) and not is_whole(digits):
        raise BrokenRuleError(
            "E10002",
            "input_shape",
            f"{where} has letters after the number",
            "write the value of the symbol, or a range such as 1~512",
        )
    if not is_whole(digits):
        raise BrokenRuleError(
            "E10014",
            "input_shape",
            f"{where} is not a number",
            "write the value of the symbol, or a range such as 1~512",
        )
    if int(digits) > _INT_MAX:
        raise BrokenRuleError("E10013", "input_shape", f"{where} is out of range")
    if sign == "-" or int(digits) == 0:
        raise BrokenRuleError(
            "E10011",
            "input_shape",
            f"{where} is not positive",
            "ATC takes dims of 1 and more; use 1~N for a dim that varies",
        )


def check_range_text(text: str) -> list[ShapeItem]:
    """Check and return ``input_shape`` in the form that holds ranges."""
    items = split_items(text)
    check_all_named(items, "input_shape")
    for item in items:
        for dim in item.dims:
            check_range_dim(dim, "input_shape")
    return items


def check_all_named(items: Sequence[ShapeItem], flag: str) -> None:
    """Refuse shapes of which some are named and some go by position."""
    if len({bool(item.name) for item in items}) > 1:
        raise BrokenRuleError(
            "E10048", flag, "some inputs are named and some are not", "name all inputs or none"
        )


def check_range_dim(dim: str, flag: str) -> None:
    """Check one dim of the range form: ``8``, ``-1`` or ``1~512``."""
    low, tilde, high = dim.partition("~")
    if dim == "-1" or (not tilde and is_whole(low)):
        return
    if not tilde or not is_whole(low) or not (is_whole(high) or high == "-1"):
        raise BrokenRuleError("E10048", flag, f"{dim!r} is no dim of a range", "use 8, -1 or 1~512")
    if high != "-1" and int(low) > int(high):
        raise BrokenRuleError("E10048", flag, f"the range {dim} is upside down", f"{high}~{low}")


def check_range_flag(text: str) -> list[ShapeItem]:
    """Check and return the deprecated flag ``input_shape_range``."""
    if not text.strip():
        raise BrokenRuleError("E10004", "input_shape_range", "the value is empty", "drop it")
    items = []
    for part in text.split(";"):
        if not part.strip():
            continue
        name, _, dims = part.rpartition(":")
        dims = dims.strip()
        if not (dims.startswith("[") and dims.endswith("]")):
            raise BrokenRuleError(
                "E10048",
                "input_shape_range",
                f"{part!r} has no [dims]",
                "name:[1~8,3,-1]; better: drop it and put the range into input_shape",
            )
        words = tuple(dim.strip() for dim in dims[1:-1].split(",") if dim.strip())
        for dim in words:
            check_range_dim(dim, "input_shape_range")
        items.append(ShapeItem(name.strip(), words))
    check_all_named(items, "input_shape_range")
    return items
