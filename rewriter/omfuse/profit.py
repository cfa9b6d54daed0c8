"""Does a fused node pay on a target?  Separate from matching: a guard gives a reason or nothing.

The thresholds are the ``[guards]`` of ``atc_configs/`` and come from an analytic model of the
chips, not from a device.  Sizes that are open are not judged.
"""

from __future__ import annotations

from onnx import TensorProto

from omfuse.atc.config import SocConfig, load_soc
from omfuse.fuse.lower import Fusion
from omfuse.fusing import Guard
from omfuse.graph.dims import product

MAX_HEAD_DIM = 256  # of our kernel


def guard(soc: str) -> Guard:
    """Return the guard of a SoC.

    Raises:
        UsageError: ``unknown-soc`` with near names.
    """
    config = load_soc(soc)
    return lambda fusion: unprofitable(fusion, config)


def unprofitable(fusion: Fusion, soc: SocConfig) -> str | None:
    """Return why a block should stay unfused on ``soc``, or None."""
    if fusion.dtype == TensorProto.BFLOAT16 and not soc.bf16:
        return f"{soc.name} has no bf16"
    sizes = fusion.sizes
    if sizes is None:
        return None
    for depth in (sizes.depth, sizes.value):
        if isinstance(depth, int) and depth > MAX_HEAD_DIM:
            return f"head size {depth} is above {MAX_HEAD_DIM}, the most that the kernel takes"
    depth, keys = sizes.depth, sizes.key
    if isinstance(depth, int) and isinstance(keys, int) and depth >= 4 * keys:
        return f"head size {depth} against {keys} keys: the scores are small beside the operands"
    scores = product([sizes.batch, sizes.heads, sizes.query, keys])
    least = int(soc.guards.get("min_scores", 0))
    if isinstance(scores, int) and scores < least:
        return f"{scores} scores a run; below {least} a fused node saves little on {soc.name}"
    shortest = int(soc.guards.get("min_kv_length", 0))
    if isinstance(keys, int) and keys < shortest and sizes.query != 1:
        return f"{keys} keys; below {shortest} a fused node saves little on {soc.name}"
    return None
