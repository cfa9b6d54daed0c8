"""What a lowering knows of one FlashAttention node: attributes, dtypes and shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from omfuse.fuse.contract import INPUTS, FlashAttentionAttrs

Dims = tuple[int | None, ...]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Value:
    """Element type (0 when unknown) and dims (None when the rank is unknown) of a tensor."""

    elem_type: int = 0
    dims: Dims | None = None


@dataclass(frozen=True)
class Site:
    """One FlashAttention node as a lowering sees it.

    Args:
        attrs: the attributes of the node.
        values: what is known of the inputs that are present, by contract name.
        has_lse: the second output is used.
        opset: version of the default domain in force where the node stands.
        no_kernel: why the C++ kernel cannot be used; empty when it can.
    """

    attrs: FlashAttentionAttrs
    values: tuple[tuple[str, Value], ...]
    has_lse: bool
    opset: int
    no_kernel: str = "not looked for"

    def has(self, name: str) -> bool:
        """Tell whether the optional input ``name`` is connected."""
        return any(known == name for known, _ in self.values)

    def value(self, name: str) -> Value:
        """Return what is known of an input; nothing when it is absent."""
        return dict(self.values).get(name, Value())

    @property
    def elem_type(self) -> int:
        """Element type of query, key and value; 0 when it is unknown."""
        return self.value("query").elem_type

    def length(self, name: str) -> int | None:
        """Return the sequence length of ``query`` or ``key``, None when it is dynamic."""
        dims = self.value(name).dims
        axis = 2 if self.attrs.layout == "BNSD" else 1
        return dims[axis] if dims is not None and len(dims) > axis else None

    def depth(self, name: str) -> int | None:
        """Return the depth of one head of ``query``, ``key`` or ``value``."""
        dims = self.value(name).dims
        if not dims or dims[-1] is None:
            return None
        heads = self.attrs.num_heads if name == "query" else self.attrs.num_kv_heads
        return dims[-1] // heads if self.attrs.layout == "BSH" else dims[-1]

    @property
    def batch(self) -> int | None:
        """Batch size, None when it is dynamic."""
        dims = self.value("query").dims
        return dims[0] if dims else None

    @property
    def score_bytes(self) -> int | None:
        """Bytes of one fp32 score matrix [B, N, Sq, Skv]; a dynamic batch counts as 1."""
        lengths = (self.length("query"), self.length("key"))
        if None in lengths:
            return None
        return 4 * (self.batch or 1) * self.attrs.num_heads * math.prod(x or 0 for x in lengths)

    @property
    def positional(self) -> list[str]:
        """Names of what narrows the keys or changes the scores, in contract order."""
        found = [name for name in INPUTS[3:] if self.has(name)]
        if self.attrs.softcap > 0:
            found.append("softcap")
        if self.attrs.causal != "none":
            found.append("causal")
        if max(self.attrs.window_left, self.attrs.window_right) >= 0:
            found.append("window")
        return found


def opset_of(imports: list[onnx.OperatorSetIdProto]) -> int:
    """Return the version of the default domain among opset imports."""
    return max((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), default=1)
