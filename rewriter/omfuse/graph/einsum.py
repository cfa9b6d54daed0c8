"""Einsum equations written out: an index for every axis of every operand and of the result."""

from __future__ import annotations

import string
from collections.abc import Sequence


def spelled(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the indices of the operands and of the result, without dots.

    Where the equation names no result, it holds the axes of the dots and then, in alphabetical
    order, the indices that occur once (ONNX, Einsum).

    Args:
        equation: as in the operator's attribute, such as ``...qd,...kd->...qk``.
        ranks: number of axes of each operand.

    Raises:
        ValueError: the equation does not fit the operands.
    """
    left, arrow, out = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    widths = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    if any(width < 0 or (width and "..." not in p) for width, p in zip(widths, parts, strict=True)):
        raise ValueError(f"{equation} does not fit operands of {list(ranks)} axes")
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    dots = "".join(unused[: max(widths)])
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        out = "..." + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    spelt = [
        part.replace("...", dots[len(dots) - width :])
        for part, width in zip(parts, widths, strict=True)
    ]
    return spelt, out.replace("...", dots)
