"""Move tensors between BNSD, BSND and BSH inside a lowering."""

from __future__ import annotations

from omfuse.host.nodes import NodeWriter


def split_heads(write: NodeWriter, name: str, heads: int) -> str:
    """Turn ``[B, S, N*D]`` into ``[B, S, N, D]``."""
    return write.add("Reshape", name, write.ints(0, 0, heads, -1))


def to_bnsd(write: NodeWriter, name: str, layout: str, heads: int) -> str:
    """Turn ``layout`` into ``[B, N, S, D]``."""
    if layout == "BNSD":
        return name
    if layout == "BSH":
        name = split_heads(write, name, heads)
    return write.add("Transpose", name, perm=[0, 2, 1, 3])


def to_bnds(write: NodeWriter, name: str, layout: str, heads: int) -> str:
    """Turn ``layout`` into ``[B, N, D, S]``, the right operand of Q.K^T, in one transpose."""
    if layout == "BSH":
        name = split_heads(write, name, heads)
    return write.add("Transpose", name, perm=[0, 1, 3, 2] if layout == "BNSD" else [0, 2, 3, 1])


def from_bnsd(write: NodeWriter, name: str, layout: str) -> str:
    """Turn ``[B, N, S, D]`` into ``layout``."""
    if layout == "BNSD":
        return name
    name = write.add("Transpose", name, perm=[0, 2, 1, 3])
    return name if layout == "BSND" else write.add("Reshape", name, write.ints(0, 0, -1))


def to_bsh(write: NodeWriter, name: str, layout: str) -> str:
    """Turn ``layout`` into ``[B, S, N*D]``."""
    if layout == "BSH":
        return name
    if layout == "BNSD":
        name = write.add("Transpose", name, perm=[0, 2, 1, 3])
    return write.add("Reshape", name, write.ints(0, 0, -1))


def from_bsh(write: NodeWriter, name: str, layout: str, heads: int) -> str:
    """Turn ``[B, S, N*D]`` into ``layout``."""
    if layout == "BSH":
        return name
    name = split_heads(write, name, heads)
    return name if layout == "BSND" else write.add("Transpose", name, perm=[0, 2, 1, 3])
