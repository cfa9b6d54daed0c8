"""Symbolic dimensions: integer polynomials over named symbols.

A dimension is a Python ``int`` when it is known and a :class:`Dim` when it is not.  Arithmetic
stays exact; a division that is not exact becomes a new symbol named after its operands, so that
two equal expressions stay equal.
"""

from __future__ import annotations

from typing import Union

Size = Union[int, "Dim"]
Monomial = tuple[str, ...]


class Dim:
    """A polynomial such as ``B*H + 2`` with at least one symbol; immutable and hashable."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms = terms
        self._hash = hash(frozenset(terms.items()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __repr__(self) -> str:
        text = ""
        for symbols, factor in sorted(self.terms.items(), key=lambda term: (term[1] < 0, term[0])):
            names = [] if abs(factor) == 1 and symbols else [str(abs(factor))]
            sign = "-" if factor < 0 else "+" if text else ""
            text += sign + "*".join([*names, *symbols])
        return text

    def __add__(self, other: Size) -> Size:
        terms = dict(self.terms)
        for symbols, factor in _terms(other).items():
            terms[symbols] = terms.get(symbols, 0) + factor
        return _simplify(terms)

    __radd__ = __add__

    def __neg__(self) -> Size:
        return _simplify({symbols: -factor for symbols, factor in self.terms.items()})

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: Size) -> Size:
        return -self + other

    def __mul__(self, other: Size) -> Size:
        terms: dict[Monomial, int] = {}
        for left, left_factor in self.terms.items():
            for right, right_factor in _terms(other).items():
                symbols = tuple(sorted(left + right))
                terms[symbols] = terms.get(symbols, 0) + left_factor * right_factor
        return _simplify(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        return divide(self, other)

    def __rfloordiv__(self, other: Size) -> Size:
        return divide(other, self)


def symbol(name: str) -> Dim:
    """Return the dimension that is one symbol."""
    return Dim({(name,): 1})


def unknown(name: str) -> Dim:
    """Return a dimension of which nothing is known, to be replaced by any that is equal."""
    return symbol(f"~{name}")


def _terms(size: Size) -> dict[Monomial, int]:
    if isinstance(size, Dim):
        return size.terms
    if int(size) != size:
        raise TypeError(f"{size} is not a whole number")
    return {(): int(size)}


def _simplify(terms: dict[Monomial, int]) -> Size:
    kept = {symbols: factor for symbols, factor in terms.items() if factor}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Dim(kept)


def _remove(symbols: Monomial, part: Monomial) -> Monomial | None:
    left = list(symbols)
    for name in part:
        if name not in left:
            return None
        left.remove(name)
    return tuple(left)


def exact_quotient(a: Size, b: Size) -> Size | None:
    """Return ``a / b`` when it is exact for all values of the symbols, else None."""
    if b == 1:
        return a
    if a == b:
        return 1
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    top, bottom = _terms(a), _terms(b)
    if len(bottom) == 1:
        ((part, divisor),) = bottom.items()
        result: dict[Monomial, int] = {}
        for symbols, factor in top.items():
            rest = _remove(symbols, part)
            if rest is None or not divisor or factor % divisor:
                return None
            result[rest] = factor // divisor
        return _simplify(result)
    # Several terms: the quotient can only be the monomial that maps the leading terms.
    lead_a, lead_b = max(top), max(bottom)
    rest = _remove(lead_a, lead_b)
    if rest is None or top[lead_a] % bottom[lead_b]:
        return None
    guess = _simplify({rest: top[lead_a] // bottom[lead_b]})
    return guess if guess * b == a else None


def divide(a: Size, b: Size) -> Size:
    """Return floor division: exact when provable, else a symbol named after the operands."""
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return symbol(f"({a!r}//{b!r})")


def remainder(a: Size, b: Size) -> Size:
    """Return ``a % b`` with the sign of ``b``: 0 when provable, else a symbol named after both."""
    return 0 if exact_quotient(a, b) is not None else symbol(f"({a!r}%{b!r})")


def is_negative(size: object) -> bool:
    """Tell whether a position is negative whatever its symbols stand for: counted from the end."""
    if isinstance(size, Dim):
        return all(factor < 0 for factor in size.terms.values())
    return isinstance(size, int) and size < 0


def product(sizes: tuple[Size, ...] | list[Size]) -> Size:
    """Multiply sizes."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def broadcast(a: Size, b: Size) -> Size:
    """Return the broadcast of two dimensions.

    An unknown against a known non-one is the known; of two unknowns that differ in name, which
    must be equal unless one is 1, :func:`preferred` chooses.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int):
        return a
    if isinstance(b, int):
        return b
    return preferred(a, b)


def preferred(a: Dim, b: Dim) -> Dim:
    """Return the more telling of two equal sizes, the first if neither is.

    Names of the inputs come before unnamed sizes of theirs, both before what was made up later.
    """
    return min((a, b), key=lambda size: ("~" in repr(size), "?" in repr(size)))
