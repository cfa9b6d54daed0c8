"""The FlashAttention node: names, inputs, attributes and their meaning.

Order of operations, normative for every implementation (function body, host lowering, kernel)::

    Z = scale * Q.K^T            scores, computed in fp32 unless inner_precision is fp16
    Z = softcap * tanh(Z / softcap)                          when softcap > 0
    Z = Z + attn_bias
    Z = -inf where a key is not kept: attn_mask false, outside causal or window, k >= kv_lengths
    append the column ``sink`` (one logit a head, no value)
    P = softmax(Z) in fp32, drop the sink column
    rows in which no key is kept: see ``masked_rows``
    output = P.V                                              in the dtype of query

Positions: with ``off = valid_keys - Sq`` for ``causal == "bottom_right"`` and 0 otherwise, where
``valid_keys`` is ``kv_lengths[b]`` if given and Skv if not:

* causal top_left or bottom_right keeps ``k <= q + off``
* ``window_left >= 0`` keeps ``k >= q + off - window_left``
* ``window_right >= 0`` keeps ``k <= q + off + window_right``

``masked_rows`` says what a row without any kept key gives: ``"nan"`` (what softmax of -inf gives),
``"zero"`` (guarded softmax; also where a
bias of -inf empties the row), ``"uniform"`` (the mean of all Skv values: what a large finite fill
gives in fp32).  With a sink, such a row is always zero.

Layouts: BNSD ``[B, N, S, D]``, BSND ``[B, S, N, D]``, BSH ``[B, S, N*D]``.  Query, key and value
share ``layout``; the output uses ``out_layout``.  Head h reads key/value head ``h * Nkv // N``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import onnx
from onnx import helper

from omfuse.errors import ModelError

DOMAIN = "omfuse"
DOMAIN_VERSION = 1
OP_TYPE = "FlashAttention"

LAYOUTS = ("BNSD", "BSND", "BSH")
CAUSAL = ("none", "top_left", "bottom_right")
MASKED_ROWS = ("nan", "zero", "uniform")
INNER_PRECISION = ("fp32", "fp16")

INPUTS = ("query", "key", "value", "attn_bias", "attn_mask", "sink", "kv_lengths")
OUTPUTS = ("output", "lse")


@dataclass(frozen=True)
class FlashAttentionAttrs:
    """Attributes of one FlashAttention node; see the module docstring for their meaning."""

    num_heads: int
    num_kv_heads: int
    scale: float
    layout: str = "BNSD"
    out_layout: str = "BNSD"
    softcap: float = 0.0
    causal: str = "none"
    window_left: int = -1
    window_right: int = -1
    masked_rows: str = "nan"
    inner_precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("layout", self.layout, LAYOUTS),
            ("out_layout", self.out_layout, LAYOUTS),
            ("causal", self.causal, CAUSAL),
            ("masked_rows", self.masked_rows, MASKED_ROWS),
            ("inner_precision", self.inner_precision, INNER_PRECISION),
        ):
            if value not in allowed:
                raise ModelError(
                    "bad-attribute",
                    f"FlashAttention attribute {name} is {value!r}",
                    hint=f"use one of {', '.join(allowed)}",
                )
        if self.num_heads < 1 or self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ModelError(
                "bad-attribute",
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as written to the node."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def is_flash_attention(node: onnx.NodeProto) -> bool:
    """Tell whether a node is ours."""
    return node.op_type == OP_TYPE and node.domain == DOMAIN


def read_attrs(node: onnx.NodeProto) -> FlashAttentionAttrs:
    """Read the attributes of a FlashAttention node.

    Raises:
        ModelError: ``bad-attribute`` for an unknown, missing or illegal attribute.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return attrs_from_mapping(found, where=node.name)


def attrs_from_mapping(found: Mapping[str, Any], where: str | None = None) -> FlashAttentionAttrs:
    """Build attributes from a mapping; ``out_layout`` defaults to ``layout``.

    Raises:
        ModelError: ``bad-attribute`` for an unknown, missing or illegal attribute.
    """
    known = {f.name for f in fields(FlashAttentionAttrs)}
    unknown = sorted(set(found) - known)
    missing = sorted({"num_heads", "scale"} - set(found))
    if unknown or missing:
        what = f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}"
        raise ModelError("bad-attribute", f"FlashAttention attributes: {what}", where=where)
    values = dict(found)
    values.setdefault("num_kv_heads", values["num_heads"])
    values.setdefault("out_layout", values.get("layout", "BNSD"))
    return FlashAttentionAttrs(**values)


def make_flash_attention(
    attrs: FlashAttentionAttrs,
    inputs: Sequence[str],
    output: str,
    name: str,
    softmax: str,
    output_of: str,
) -> onnx.NodeProto:
    """Build a node; trailing absent inputs ("") are dropped.

    Args:
        attrs: attributes.
        inputs: names in the order of ``INPUTS``.
        output: name of the result.
        name: node name.
        softmax: name of the softmax (or attention operator) of the original graph.
        output_of: the value of the original graph that the node computes.
    """
    names = list(inputs)
    while names and not names[-1]:
        names.pop()
    node = helper.make_node(OP_TYPE, names, [output], name=name, domain=DOMAIN, **attrs.as_dict())
    node.metadata_props.add(key="omfuse.softmax", value=softmax)
    node.metadata_props.add(key="omfuse.output_of", value=output_of)
    return node
