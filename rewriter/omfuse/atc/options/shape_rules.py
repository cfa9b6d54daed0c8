"""Which reading of the shape flags applies, and the rules between them.

Written from graph-engine 9.2 ``option_utils.cc`` and ``multi_batch_options.cc``.  The same text is
read here as ATC reads it, including that a plain ``-1`` anywhere in ``input_shape`` (even in a
name) turns the shape into a range.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.gear_rules import check_gears
from omfuse.atc.options.graph_rules import (
    check_against_graph,
    check_all_known,
    check_all_listed,
    check_names,
    check_ranks,
    overridden_dims,
)
from omfuse.atc.options.problem import BrokenRuleError, RuleBreak
from omfuse.atc.options.shape_text import (
    check_range_flag,
    check_range_text,
    check_static,
    split_items,
)

DYNAMIC = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims", "input_shape_range")


def check_shapes(
    options: AtcOptions,
    graph: Mapping[str, Sequence[int | str]] | None = None,
    soc: str = "",
    nodes: Container[str] = (),
) -> list[RuleBreak]:
    """Check every shape flag.

    Args:
        options: the flags.
        graph: the model's real inputs with their shapes, None when no model is at hand.
        soc: soc_version, for the number of gears.
        nodes: names of the model's nodes, which are told from unknown names.
    """
    try:
        return _check(options, graph, soc, nodes)
    except BrokenRuleError as broken:
        return [broken.rule]


def _check(
    options: AtcOptions,
    graph: Mapping[str, Sequence[int | str]] | None,
    soc: str,
    nodes: Container[str],
) -> list[RuleBreak]:
    """Raise the first broken rule; return what is only a warning."""
    given = [name for name in DYNAMIC if getattr(options, name) is not None]
    if len(given) > 1:
        raise BrokenRuleError(
            "E10009", given[0], f"{given[0]} and {given[1]} exclude one another", "keep one of them"
        )
    gear_flag = given[0] if given and given[0] != "input_shape_range" else None
    if options.input_hint_shape is not None and gear_flag:
        raise BrokenRuleError("E10001", "input_hint_shape", f"it does not go with {gear_flag}")
    if gear_flag and not (options.input_shape or "").strip():
        raise BrokenRuleError(
            "E10004",
            "input_shape",
            f"{gear_flag} needs input_shape",
            "list every input, with -1 where the gears go",
        )
    if options.input_shape_range is not None:
        flag = "input_shape_range"
        items = check_range_flag(options.input_shape_range)
        check_names(items, graph, nodes, flag)
        check_against_graph(items, graph, flag)
        return []
    text = options.input_shape
    if text is None:
        check_all_known([], graph)
        return []
    if gear_flag:
        items = split_items(text)
        check_gears(gear_flag, str(getattr(options, gear_flag)), items, options, soc)
        check_names(items, graph, nodes)
        check_ranks(items, graph, "E19999")
        check_all_listed(gear_flag, items, graph)
        return []
    if "~" in text or "-1" in text:
        items = check_range_text(text)
        check_names(items, graph, nodes)
        check_against_graph(items, graph)
        return []
    items = split_items(text)
    check_static(items, text)
    check_names(items, graph, nodes)
    check_ranks(items, graph, "E19999")
    check_all_known(items, graph)
    return overridden_dims(items, graph)
