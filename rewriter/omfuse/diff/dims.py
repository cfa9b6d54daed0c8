"""Symbolic dimensions of model inputs: what each symbol is, and small legal sizes for it.

A symbol may be an expression over others (``P+S``, ``past_length + 1``, ``P_plus_1``); exporters
also leave it out, and then every such axis is a symbol of its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omfuse.errors import UsageError

_BATCH = re.compile(r"^(b|n|bs|bsz|nb|batch.*|.*batch(_?size)?)$", re.I)
_PAST = re.compile(r"(^p$|past|cache|^kv)", re.I)
_IMAGE = re.compile(r"^(h|w|height|width|.*(height|width))$", re.I)
_OPAQUE = re.compile(r"^s\d+$")  # what torch.export calls an axis that nobody named
_SEQUENCES = (11, 7, 13, 9, 10, 14, 15)
_PAST_SIZES = (5, 6)
# Sizes that models with a patch, a window or a convolution stem accept.
_ROUND = (16, 32, 8, 64, 4, 24, 224, 128)
_WAVE = (800, 1600, 3200, 16000)


@dataclass(frozen=True)
class Dim:
    """One axis: a fixed size, or an expression over symbols."""

    text: str

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols in the order they occur."""
        return tuple(_names(_parse(self.text)))

    def size(self, sizes: Mapping[str, int]) -> int:
        """Evaluate the axis."""
        return max(int(_evaluate(_parse(self.text), sizes)), 0)


def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _names(tree: ast.expr) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    if isinstance(tree, ast.BinOp):
        left, right = _evaluate(tree.left, sizes), _evaluate(tree.right, sizes)
        if isinstance(tree.op, ast.Add):
            return left + right
        if isinstance(tree.op, ast.Sub):
            return left - right
        if isinstance(tree.op, ast.Mult):
            return left * right
        if isinstance(tree.op, ast.FloorDiv | ast.Div):
            return left // max(right, 1)
    raise KeyError(ast.dump(tree))


def _is_expression(text: str) -> bool:
    try:
        tree = _parse(text)
        _evaluate(tree, dict.fromkeys(_names(tree), 4))
    except (SyntaxError, KeyError, ValueError):
        return False
    return True


def axis(value: int | None, param: str, owner: str, index: int) -> Dim:
    """Describe one axis of an input as declared in the model.

    Args:
        value: the declared size, None when symbolic.
        param: the declared symbol, empty when there is none.
        owner: the input's name, for axes without a symbol.
        index: the axis.
    """
    if value is not None and value >= 0:
        return Dim(str(value))
    text = re.sub(r"_plus_", "+", param.strip())
    if text and _is_expression(text):
        return Dim(text)
    bare = re.sub(r"\W", "_", text or f"{owner}_axis{index}")
    return Dim(bare if re.match(r"[A-Za-z_]", bare) else f"_{bare}")


@dataclass(frozen=True)
class Kinds:
    """What each symbol is, in the order of first use."""

    batch: tuple[str, ...]
    past: tuple[str, ...]
    image: tuple[str, ...]
    wave: tuple[str, ...]
    sequence: tuple[str, ...]

    def free(self) -> tuple[str, ...]:
        """Return all symbols but those of the batch."""
        return self.sequence + self.past + self.image + self.wave


def classify(shapes: Mapping[str, Sequence[Dim]], floats: set[str], caches: set[str]) -> Kinds:
    """Sort symbols by name, and by where they stand when the name says nothing.

    Args:
        shapes: axes of every input.
        floats: inputs with a floating-point dtype.
        caches: inputs that hold past keys or values, ``[B, N, P, D]``.
    """
    kinds: dict[str, str] = {}
    for name, dims in shapes.items():
        for index, dim in enumerate(dims):
            for symbol in dim.symbols():
                kind = _kind(symbol, index, name, dims, floats, caches)
                if kinds.get(symbol) in (None, "sequence"):
                    kinds[symbol] = kind
    pick = {k: tuple(s for s, kind in kinds.items() if kind == k) for k in Kinds.__annotations__}
    return Kinds(**pick)


def _kind(
    symbol: str, index: int, name: str, dims: Sequence[Dim], floats: set[str], caches: set[str]
) -> str:
    if _BATCH.match(symbol):
        return "batch"
    if _PAST.search(symbol) or (name in caches and index == len(dims) - 2):
        return "past"
    if _IMAGE.match(symbol) and name in floats and len(dims) >= 4:
        return "image"
    opaque = re.fullmatch(r"s\d+|_*\w+_axis\d+|unk.*|dyn.*|dim.*|d\d+", symbol, re.I)
    if index == 0 and len(dims) > 1 and (opaque or len(dims) >= 3):
        return "batch"
    if name in floats and name not in caches:
        if len(dims) == 4 and index >= 2 and dims[1].text in ("1", "3", "4"):
            return "image"
        if len(dims) == 2 and index == 1 and "mask" not in name and dims[0].symbols():
            return "wave"
    return "sequence"


def default_sizes(kinds: Kinds) -> dict[str, int]:
    """Return small sizes, distinct where the meaning differs."""
    sizes: dict[str, int] = dict.fromkeys(kinds.batch, 2)
    for pool, symbols in ((_SEQUENCES, kinds.sequence), (_PAST_SIZES, kinds.past)):
        named = [symbol for symbol in symbols if not _OPAQUE.match(symbol)]
        for number, symbol in enumerate(named):
            sizes[symbol] = pool[number % len(pool)]
        # Unnamed axes that must agree may still carry different names.
        sizes.update(dict.fromkeys(set(symbols) - set(named), pool[0]))
    sizes.update(dict.fromkeys(kinds.image, 32))
    sizes.update(dict.fromkeys(kinds.wave, 800))
    return sizes


def other_sizes(kinds: Kinds, base: Mapping[str, int]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield further guesses with a word on each; bounded."""
    seq = kinds.sequence
    if kinds.past and seq:
        yield "one new token", {**base, **dict.fromkeys(seq, 1)}
    for number in _ROUND:
        if seq or kinds.image:
            changed = dict.fromkeys(seq + kinds.image, number)
            yield f"every free length {number}", {**base, **changed}
    for number in _WAVE if kinds.wave else ():
        yield f"waveform length {number}", {**base, **dict.fromkeys(kinds.wave, number)}
    if len(seq) > 1:
        yield "one length for all sequences", {**base, **dict.fromkeys(seq, 12)}
    if kinds.wave:
        yield "waveform axis as a short sequence", {**base, **dict.fromkeys(kinds.wave, 11)}
    if kinds.batch:
        yield "batch 1", {**base, **dict.fromkeys(kinds.batch, 1)}
        yield (
            "batch 1, length 16",
            {
                **base,
                **dict.fromkeys(kinds.batch, 1),
                **dict.fromkeys(kinds.free(), 16),
            },
        )


def second_sizes(kinds: Kinds, base: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield other sizes a dynamic model may accept, most different first."""
    if not base:
        return
    grown = dict(base)
    for symbol in kinds.sequence + kinds.past:
        grown[symbol] = base[symbol] + 3 if base[symbol] > 1 else base[symbol]
    for symbol in kinds.image + kinds.wave:
        grown[symbol] = base[symbol] * 2
    batch = {symbol: base[symbol] + 1 for symbol in kinds.batch}
    yield {**grown, **batch}
    yield grown
    doubled = {s: 2 * base[s] for s in kinds.sequence + kinds.past + kinds.image if base[s] > 1}
    yield {**base, **batch, **doubled}
    yield {**base, **batch}


def chosen(kinds: Kinds, wanted: Mapping[str, int] | None) -> dict[str, int]:
    """Return the default sizes with the caller's own in place.

    Raises:
        UsageError: ``unknown-dim`` for a symbol that no input has.
    """
    sizes = default_sizes(kinds)
    for name, value in (wanted or {}).items():
        if name not in sizes:
            raise UsageError(
                "unknown-dim",
                f"no input has a symbolic dim {name!r}",
                hint=f"the symbols are: {', '.join(sizes) or 'none, every dim is fixed'}",
            )
        if value < 1:
            raise UsageError("bad-dim", f"dim {name} is {value}", hint="give a positive size")
        sizes[name] = value
    return sizes
