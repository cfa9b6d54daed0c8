"""Legal sizes for the inputs of a model, for those that nobody gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from omfuse.acl.describe import Description, Dims
from omfuse.acl.shapes import gears_text, symbols
from omfuse.errors import UsageError


def default_dims(
    described: Description, sizes: Mapping[str, int], open_size: int = 8
) -> dict[str, Dims]:
    """Return legal dims of all inputs, for example for random inputs.

    Args:
        described: the model.
        sizes: sizes that are settled, by the names of :func:`symbols`.
        open_size: wanted for dims that are open; a range may force another.

    Raises:
        UsageError: ``bad-shape`` when no gear has these sizes, ``unknown-dim``.
    """
    named = symbols(described)
    known = {symbol for shape in named.values() for symbol in shape if isinstance(symbol, str)}
    unknown = sorted(set(sizes) - known)
    if unknown:
        raise UsageError(
            "unknown-dim",
            f"no size is called {unknown[0]!r}",
            hint=f"there are {', '.join(sorted(known))}" if known else "the shapes are fixed",
        )
    for choice in _all_sizes(described, named, open_size):
        if all(choice[name] == size for name, size in sizes.items()) or not described.gears:
            choice.update(sizes)
            return {
                name: tuple(choice[s] if isinstance(s, str) else s for s in shape)
                for name, shape in named.items()
            }
    wanted = ", ".join(f"{name}={size}" for name, size in sizes.items())
    raise UsageError(
        "bad-shape", f"no gear has {wanted}", hint=f"compiled are {gears_text(described)}"
    )


def _all_sizes(
    described: Description, named: Mapping[str, tuple[int | str, ...]], open_size: int
) -> Iterable[dict[str, int]]:
    """Yield the sizes of each gear, or the one default of other models."""
    if not described.gears:
        sizes = {}
        for tensor in described.inputs:
            for axis, symbol in enumerate(named[tensor.name]):
                low, high = tensor.ranges[axis] if axis < len(tensor.ranges) else (1, -1)
                wanted = max(low, open_size if axis else 1)
                if isinstance(symbol, str):
                    sizes[symbol] = wanted if high < 0 else min(wanted, high)
        yield sizes
        return
    flat = [symbol for tensor in described.inputs for symbol in named[tensor.name]]
    for gear in described.gears:
        numbers: Sequence[int] = gear
        names: Sequence[int | str] = flat
        if described.mode != "dims":
            names = ["batch"] if described.mode == "batch" else ["height", "width"]
        yield {name: size for name, size in zip(names, numbers) if isinstance(name, str)}
