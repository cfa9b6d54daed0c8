"""Which lowering a FlashAttention node gets on the CPU, and why.

A table, tried from the top.  ``refuses`` guards correctness and always holds; ``pays`` guards
speed and is skipped when a lowering is asked for by name.  The thresholds come from
``benchmarks/host_speed.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import TensorProto

from omfuse.errors import UsageError
from omfuse.host import contrib, plain
from omfuse.host.nodes import NodeWriter
from omfuse.host.site import Site

LONG_SCORES = 32 << 20  # bytes of fp32 scores from which O(S) memory beats plain ops


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    name: str
    refuses: Callable[[Site], str | None]
    pays: Callable[[Site], str | None]  # the reason it is chosen, None when it does not pay
    build: Callable[[Site, NodeWriter], list[str]] | None  # None: the node stays as it is


def _long(site: Site) -> str | None:
    size = site.score_bytes
    if size is None or size < LONG_SCORES:
        return None
    return f"scores would take {size / 2**20:.0f} MiB"


def _mha_pays(site: Site) -> str | None:
    size = _long(site)
    return size and f"{size}, and the flash path of onnxruntime needs O(S)"


def _gqa_pays(site: Site) -> str | None:
    size = _long(site)
    return size and f"{size}, and onnxruntime skips the masked triangle only here"


def _attention_pays(site: Site) -> str | None:
    return "one operator instead of a chain, scores kept once"


def _always(site: Site) -> str | None:
    return "matmul, softmax, matmul: always exact"


def _refuses_nothing(site: Site) -> str | None:
    return None


def _kernel_refuses(site: Site) -> str | None:
    if site.no_kernel:
        return f"cannot be used: {site.no_kernel}"
    wanted = {"attn_mask": TensorProto.BOOL, "kv_lengths": TensorProto.INT32}
    for name, value in site.values:
        if value.elem_type not in (0, wanted.get(name, site.elem_type)):
            return f"takes {name} in another dtype"
    return None


def _kernel_pays(site: Site) -> str | None:
    return "C++ flash kernel, O(S) memory, masked blocks skipped"


RULES = (
    Rule("kernel", _kernel_refuses, _kernel_pays, None),
    Rule("mha", contrib.mha_refuses, _mha_pays, contrib.mha_build),
    Rule("gqa", contrib.gqa_refuses, _gqa_pays, contrib.gqa_build),
    Rule("attention", contrib.attention_refuses, _attention_pays, contrib.attention_build),
    Rule("plain", _refuses_nothing, _always, plain.build),
)

LOWERINGS = ("auto", *(rule.name for rule in RULES), "body")


@dataclass(frozen=True)
class Choice:
    """The rule chosen for a node and the reason, as shown to the user."""

    rule: Rule
    reason: str


def choose(site: Site, lowering: str) -> Choice:
    """Choose the lowering of a node.

    Args:
        site: the node.
        lowering: ``auto``, or the name of the wanted rule; ``plain`` replaces it where it refuses.

    Raises:
        UsageError: ``unknown-lowering``.
    """
    if lowering not in LOWERINGS:
        raise UsageError(
            "unknown-lowering",
            f"no lowering {lowering!r}",
            hint=f"use one of {', '.join(LOWERINGS)}",
        )
    if lowering != "auto":
        wanted = next(rule for rule in RULES if rule.name == lowering)
        refusal = wanted.refuses(site)
        if refusal is None:
            return Choice(wanted, "asked for")
        return Choice(RULES[-1], f"{lowering} {refusal}")
    for rule in RULES:
        reason = None if rule.refuses(site) else rule.pays(site)
        if reason:
            why_not = f" (no C++ kernel: {site.no_kernel})" if site.no_kernel else ""
            return Choice(rule, reason + why_not)
    raise AssertionError("the last rule always applies")
