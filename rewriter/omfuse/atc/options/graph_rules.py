"""The shape flags against the model: names, ranks, dims that it fixes or leaves open."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from omfuse.atc.options.problem import BrokenRuleError, RuleBreak
from omfuse.atc.options.shape_text import ShapeItem


def check_names(
    items: Sequence[ShapeItem],
    graph: Mapping[str, Sequence[int | str]] | None,
    nodes: Container[str] = (),
    flag: str = "input_shape",
) -> None:
    """Refuse a name that is no input of the model; that of a node has a code of its own."""
    if graph is None:
        return
    for item in items:
        if item.name and item.name not in graph:
            raise BrokenRuleError(
                "E10017" if item.name in nodes else "E10016",
                flag,
                f"the model has no input {item.name!r}",
                f"its inputs are {', '.join(graph)}",
            )


def check_against_graph(
    items: Sequence[ShapeItem],
    graph: Mapping[str, Sequence[int | str]] | None,
    flag: str = "input_shape",
) -> None:
    """Check the range form against the model: all inputs, and dims that it fixes lie inside."""
    if graph is None:
        return
    named = {item.name for item in items}
    # Only a scalar may be left out, and only where shapes are named.
    missing = [name for name, dims in graph.items() if name not in named and dims]
    if (len(items) != len(graph)) if not items[0].name else missing:
        raise BrokenRuleError(
            "E10048",
            flag,
            f"{len(items)} shapes for {len(graph)} inputs",
            f"one shape for each input: {', '.join(graph)}",
        )
    check_ranks(items, graph, "E10049", flag)
    for name, axis, have, want in _fixed_dims(items, graph):
        if not _covers(want, have):
            raise BrokenRuleError(
                "E10050",
                flag,
                f"axis {axis} of {name} is fixed to {have} in the model, not {want}",
                f"write {have}, or export that axis as dynamic",
            )


def check_ranks(
    items: Sequence[ShapeItem],
    graph: Mapping[str, Sequence[int | str]] | None,
    code: str,
    flag: str = "input_shape",
) -> None:
    """Check ranks; ATC names the fault in the range form only, elsewhere parsing just fails."""
    names = list(graph or ())
    for index, item in enumerate(items if graph else ()):
        name = item.name or names[index]
        rank = len(graph[name]) if graph else 0
        if rank != len(item.dims):
            raise BrokenRuleError(
                code,
                flag,
                f"{name} has rank {rank}, the shape has {len(item.dims)}",
                f"in the model it is [{', '.join(map(str, graph[name] if graph else ()))}]",
            )


def check_all_known(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> None:
    """Refuse a static compile that leaves an input of the model open."""
    named = {item.name for item in items}
    for name, dims in (graph or {}).items():
        if name not in named and not all(isinstance(size, int) for size in dims):
            raise BrokenRuleError(
                "E10001",
                "input_shape",
                f"the dims of {name} are open in the model and it is not listed",
                f"--shape {name}={','.join(map(str, dims))} with numbers",
            )


def check_all_listed(
    flag: str, items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> None:
    """Refuse gears where an input of the model is not listed."""
    named = {item.name for item in items}
    missing = [name for name in graph or () if name not in named]
    if missing:
        raise BrokenRuleError(
            "E10045",
            "input_shape",
            f"{flag} needs every input listed, {', '.join(missing)} is not",
            "list them all",
        )


def overridden_dims(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> list[RuleBreak]:
    """Warn where a static shape replaces a size that the model fixes: ATC takes it silently."""
    return [
        RuleBreak(
            "",
            "input_shape",
            f"axis {axis} of {name} is fixed to {have} in the model, {want} replaces it",
            "shapes written into the model may not follow; export that axis as dynamic",
            "warning",
        )
        for name, axis, have, want in _fixed_dims(items, graph or {})
        if not _covers(want, have)
    ]


def _fixed_dims(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]]
) -> Iterator[tuple[str, int, int, str]]:
    """Yield input, axis, size in the model and text of every dim that the model fixes."""
    names = list(graph)
    for index, item in enumerate(items if graph else ()):
        name = item.name or names[index]
        for axis, (have, want) in enumerate(zip(graph[name], item.dims, strict=True)):
            if isinstance(have, int):
                yield name, axis, have, want


def _covers(dim: str, value: int) -> bool:
    low, tilde, high = dim.partition("~")
    if dim == "-1":
        return True
    if not tilde:
        return int(low) == value
    return int(low) <= value and (high == "-1" or value <= int(high))
