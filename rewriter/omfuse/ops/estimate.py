"""Estimate one attention on a chip: our kernel, tuning levels and unfused chains side by side.

Nothing here was measured on an NPU. The chains and levels are equations over the chip's published
numbers; our kernel's line counts what the emulated kernel really issues, clocked by a table of
instruction costs. Each line carries how far off it may be.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omfuse.errors import OmfuseError, UsageError
from omfuse.fuse.contract import CAUSAL, INNER_PRECISION
from omfuse.ops.chain import CHAINS, Case, chain_time
from omfuse.ops.chip import MACS_PER_CYCLE, Chip, load_chip
from omfuse.ops.fused_model import LEVELS, fused_time

DTYPES = ("float16", "bfloat16")
MASKS = ("none", "keys", "full")
MODEL = "a model: equations and counts, not measured on an NPU"
_PIPES = {
    "M": "cube",
    "V": "vector",
    "MTE1": "l1",
    "MTE2": "load",
    "MTE3": "store",
    "FIX": "cube-out",
    "S": "scalar",
}
MEMORIES = ("UB", "L1", "L0A", "L0B", "L0C")
_UNFUSED_ERROR = 0.50
_UNCALIBRATED = 0.35


@dataclass(frozen=True)
class Row:
    """One line: seconds, how far off they may be (share), what bounds it, traffic in bytes.

    ``utilisation`` is the share of the cube's fp16 peak, padded tiles counted as work; ``dram`` is
    traffic of tensors, ``l2`` of everything that moves between cores and L2.
    """

    name: str
    seconds: float
    error: float
    bound: str = ""
    utilisation: float = 0.0
    dram: float = 0.0
    l2: float = 0.0


@dataclass
class Estimate:
    """All lines of one case; ``counted`` says why there is none of our kernel, if so."""

    soc: str
    case: Case
    dtype: str
    rows: list[Row] = field(default_factory=list)
    counted: str = ""
    counters: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        best = self.best_fused()
        return {
            "soc": self.soc,
            "model": MODEL,
            "dtype": self.dtype,
            "case": asdict(self.case),
            "rows": [asdict(row) for row in self.rows],
            "counters": self.counters,
            "not_counted": self.counted or None,
            "speedup": {
                row.name: row.seconds / best.seconds for row in self.rows if row.name in CHAINS
            },
            "speedup_of": best.name,
        }

    def best_fused(self) -> Row:
        """Return the line that stands for our kernel: counted when there is one, else ``v1``."""
        named = {row.name: row for row in self.rows}
        return named.get("kernel", named["v1"])


def parse_shape(text: str) -> tuple[int, int, int, int, int]:
    """Read ``B,N,Sq,Skv,D``.

    Raises:
        UsageError: ``bad-shape``.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) != 5 or min(sizes) < 1:
        raise UsageError(
            "bad-shape",
            f"{text!r} is not B,N,Sq,Skv,D",
            where="--shape",
            hint="five positive sizes, such as 1,32,2048,2048,128",
        )
    return sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]


def estimate(
    soc: str,
    shape: tuple[int, int, int, int, int],
    kv_heads: int | None = None,
    *,
    causal: bool = False,
    mask: str = "none",
    dtype: str = "float16",
    inner_precision: str = "fp32",
) -> Estimate:
    """Estimate one attention.

    Args:
        soc: the chip.
        shape: B, N, Sq, Skv, D.
        kv_heads: heads of key and value, N by default.
        causal: keys up to the query's position only, aligned at the end (bottom right).
        mask: ``none``; ``keys``, a boolean mask ``[B, 1, 1, Skv]``; or ``full``, one
            ``[B, 1, Sq, Skv]``.
        dtype: ``float16`` or ``bfloat16``; both cost the same.
        inner_precision: ``fp32``, or ``fp16`` for scores that are fp16 between the cores of split
            chips (our kernel only).

    Raises:
        UsageError: ``unknown-soc``, ``unsupported-soc``, ``bad-shape``, ``bad-dtype``,
            ``bad-mask``, ``bad-precision``.
    """
    chip = load_chip(soc)
    batch, heads, q_len, kv_len, depth = shape
    shared = kv_heads or heads
    if shared < 1 or heads % shared:
        raise UsageError(
            "bad-shape", f"{heads} heads are no multiple of {shared}", where="--kv-heads"
        )
    if dtype not in DTYPES or (dtype == "bfloat16" and not chip.split):
        hint = "float16" if not chip.split else " or ".join(DTYPES)
        raise UsageError("bad-dtype", f"no kernel for {dtype} on {chip.name}", hint=hint)
    if mask not in MASKS:
        raise UsageError("bad-mask", f"no mask {mask!r}", hint=f"use one of {', '.join(MASKS)}")
    if inner_precision not in INNER_PRECISION:
        allowed = " or ".join(INNER_PRECISION)
        raise UsageError("bad-precision", f"no precision {inner_precision!r}", hint=allowed)
    case = Case(batch, heads, q_len, kv_len, depth, shared, causal, mask != "none")
    result = Estimate(chip.name, case, dtype)
    for chain in CHAINS:
        found = chain_time(case, chip, chain)
        result.rows.append(Row(chain, found.seconds, _UNFUSED_ERROR, "memory", dram=found.traffic))
    for level in LEVELS:
        fused = fused_time(case, chip, level)
        result.rows.append(
            Row(
                level,
                fused.seconds,
                _error(case, chip, level),
                fused.bound,
                fused.utilisation,
                fused.dram,
                fused.l2,
            )
        )
    _count(result, chip, 1 if mask == "keys" else q_len, inner_precision == "fp16")
    return result


def _error(case: Case, chip: Chip, level: str) -> float:
    """Return the share by which a level may be off.

    Only ``public`` at depth 128 and long queries on 910B2 was compared with published times: within
    20 % from 4096 keys on, 40 % below.
    """
    if not chip.split or case.depth < 128 or case.q_len < 1024 or level != "public":
        return _UNCALIBRATED
    return 0.20 if case.kv_len >= 4096 else 0.40


def _count(result: Estimate, chip: Chip, mask_rows: int, inner_half: bool) -> None:
    """Add the line of our kernel, or say why it is missing; ``mask_rows``: rows of a mask."""
    from omfuse.ops import emulator
    from omfuse.ops.emulator_abi import Problem

    case = result.case
    problem = Problem(
        batch=case.batch,
        heads=case.heads,
        kv_heads=case.kv_heads,
        q_len=case.q_len,
        kv_len=case.kv_len,
        depth=case.depth,
        value_depth=case.depth,
        window_left=-1,
        window_right=-1,
        dtype=DTYPES.index(result.dtype),
        bias_dtype=-1,
        sink_dtype=-1,
        mask_present=int(case.masked),
        inner_precision=int(inner_half),
        causal=CAUSAL.index("bottom_right" if case.causal else "none"),
        scale=case.depth**-0.5,
    )
    problem.mask_dims[:] = [case.batch, 1, mask_rows, case.kv_len]
    problem.bias_dims[:] = [1, 1, 1, 1]
    arch = "910b" if chip.split else "310p"
    try:
        counters = emulator.count(problem, arch, chip.platform)
        tiling, plan = emulator.plan(problem, arch, chip.platform)
    except OmfuseError as error:
        result.counted = error.message
        return
    dram = 2 * case.q_bytes + 2 * case.kv_bytes
    core, memory = counters.cycles / chip.clock, dram / chip.dram
    seconds = max(core, memory) + chip.launch_fused
    critical = dict(zip(emulator.PIPES, counters.critical, strict=True))
    busiest = max(critical, key=lambda name: critical[name])
    moved = [counters.tensor_read, counters.tensor_write]
    moved += [counters.workspace_read, counters.workspace_write]
    # The 16 columns of ones that sum the rows up are no work of the attention.
    padded = 2 * (-(-case.depth // 16) * 16)
    macs = counters.cube_macs * padded / (padded + 16)
    utilisation = macs / (MACS_PER_CYCLE * chip.cores * chip.clock * seconds)
    result.rows.append(
        Row(
            "kernel",
            seconds,
            _UNCALIBRATED,
            "dram" if memory > core else _PIPES[busiest],
            utilisation,
            dram,
            sum(moved),
        )
    )
    result.counters = {
        "cycles": counters.cycles,
        "cube_macs": counters.cube_macs,
        "cube_cores": counters.cube_cores,
        "block_rows": tiling.blockRows,
        "step_keys": tiling.stepColumns,
        "workspace_bytes": plan.workspace_bytes,
        "tensor_read": moved[0],
        "tensor_write": moved[1],
        "workspace_read": moved[2],
        "workspace_write": moved[3],
        "held_bytes": dict(zip(MEMORIES, counters.held, strict=True)),
        "busy_of_slowest_core": {_PIPES[name]: cycles for name, cycles in critical.items()},
    }
