"""What a chip should gain from each fused attention: equations, never a measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import onnx

from omfuse.errors import OmfuseError
from omfuse.fuse.contract import FlashAttentionAttrs, is_flash_attention, read_attrs
from omfuse.graph.view import graph_views
from omfuse.ops.chain import Case, chain_time
from omfuse.ops.chip import load_chip
from omfuse.ops.fused_model import fused_time

UNFUSED, FUSED = "best", "v1"  # the shortest chain of operators against the first kernel


def estimates(
    fused: Path, attention: Sequence[Mapping[str, Any]], soc: str
) -> list[dict[str, Any]]:
    """Estimate the attention of a compiled model, one row a distinct size.

    Args:
        fused: the rewritten ``.onnx``.
        attention: entries ``attention`` of the ``.om``'s description, with shapes.
        soc: the chip.

    Returns:
        Rows with ``case`` (B, N, Sq, Skv, D), ``blocks``, and seconds ``unfused`` and ``fused`` of
        one block; empty for chips without our kernel and where sizes are open.
    """
    try:
        chip = load_chip(soc)
    except OmfuseError:
        return []
    nodes = _attributes(fused)
    cases: Counter[Case] = Counter()
    for entry in attention:
        attrs = next((nodes[name] for name in entry["origin"] if name in nodes), None)
        if attrs is not None:
            case = _case(attrs, [shape for _, shape in entry["inputs"]])
            if case is not None:
                cases[case] += 1
    return [
        {
            "case": list(astuple(case)[:5]),
            "causal": case.causal,
            "masked": case.masked,
            "blocks": count,
            "unfused": chain_time(case, chip, UNFUSED).seconds,
            "fused": fused_time(case, chip, FUSED).seconds,
        }
        for case, count in cases.items()
    ]


def _attributes(fused: Path) -> dict[str, FlashAttentionAttrs]:
    model = onnx.load(fused, load_external_data=False)
    return {
        node.name: read_attrs(node.proto)
        for view in graph_views(model)
        for node in view.nodes
        if is_flash_attention(node.proto)
    }


def _case(attrs: FlashAttentionAttrs, shapes: Sequence[Sequence[int]]) -> Case | None:
    query, key = shapes[0], shapes[1]
    axis = 2 if attrs.layout == "BNSD" else 1
    if len(query) <= axis or len(key) <= axis:
        return None
    depth = query[-1] // attrs.num_heads if attrs.layout == "BSH" else query[-1]
    sizes = (query[0], attrs.num_heads, query[axis], key[axis], depth)
    if min(sizes) < 1:
        return None
    return Case(*sizes, attrs.num_kv_heads, attrs.causal != "none", len(shapes) > 3)
