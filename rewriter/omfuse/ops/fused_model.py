"""Time of a fused attention kernel at three levels of tuning: a model.

``public`` is what published kernels reach and fits their published times on 910B2 (within 20 %
from 4096 keys on); ``v1`` is a first kernel with folded scale and cheap reductions; ``target`` the
tuned plan. The unit of work is a tile: 128 query rows by 128 keys of one head. Pipes of split cores
overlap, so a tile takes as long as its busiest pipe; a coupled core has one vector unit, which also
carries the copies out of the cube.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from omfuse.ops.chain import Case
from omfuse.ops.chip import MACS_PER_CYCLE, Chip

LEVELS = ("public", "v1", "target")
_SPLIT_KV = 5e-6  # seconds to combine the parts of a split KV range
_REPEATS = 128 * 128 // 64  # of a tile, fp32


@dataclass(frozen=True)
class _Level:
    cycles: float  # vector cycles a repeat of scores
    step: int  # keys of a softmax step
    rows: int  # query rows of a task on split cores
    efficiency: float  # of the busiest pipe, split cores
    overlap: float  # of cube and vector on coupled cores
    heads_coupled: float  # cycles of instruction starts a tile, coupled cores


_LEVELS = {
    "public": _Level(10.6, 1024, 128, 0.82, 0.30, 472),
    "v1": _Level(7.3, 512, 128, 0.82, 0.60, 438),
    "target": _Level(6.8, 512, 256, 0.85, 0.75, 420),
}
_STARTS_SPLIT = 260  # cycles of instruction starts a tile: about nine of 28
_MASK_CYCLES = 2.0  # a repeat: one more operation of two tensors


@dataclass(frozen=True)
class FusedTime:
    """Seconds, what bounds it, share of the cube's peak, bytes by path (of a whole run)."""

    seconds: float
    bound: str
    utilisation: float
    dram: float
    l2: float
    tile_cycles: float


def fused_time(case: Case, chip: Chip, level: str) -> FusedTime:
    """Return the time of a kernel at one of :data:`LEVELS`."""
    known = _LEVELS[level]
    group = case.heads // case.kv_heads
    packed = case.q_len * group <= 128
    length = case.q_len * group if packed else case.q_len
    heads = case.batch * (case.kv_heads if packed else case.heads)
    rows = known.rows if chip.split else 128
    if heads * math.ceil(length / rows) < chip.cores:
        rows = 128
    rows = min(rows, math.ceil(length / 16) * 16)
    blocks = _blocks(case, length, rows, packed)
    parts = _parts(case, chip, heads * len(blocks))
    tiles = heads * sum(blocks)
    tile, bound, l2 = _tile(case, chip, known, rows)
    task = sum(blocks) / len(blocks) / parts
    load = _load(heads * len(blocks) * parts, task, chip.cores)
    scale = rows / 128
    keys = task / scale
    fill = scale * max(min(2 * known.step / 128, keys / 2), min(4.0, 2 * keys))
    core = (load + fill) * tile / chip.clock
    dram_bytes = 2 * case.q_bytes + 2 * case.kv_bytes
    memory = dram_bytes / chip.dram
    if memory > core:
        bound = "dram"
    seconds = max(core, memory) + chip.launch_fused + (_SPLIT_KV if parts > 1 else 0)
    cube = tiles * 128 * 128 * 2 * case.depth / MACS_PER_CYCLE
    utilisation = cube / (chip.cores * chip.clock * seconds)
    return FusedTime(seconds, bound, utilisation, dram_bytes, tiles * l2, tile)


def _blocks(case: Case, length: int, rows: int, packed: bool) -> list[float]:
    """Return the tiles of each block of query rows of a head."""
    found = []
    for block in range(math.ceil(length / rows)):
        keys = case.kv_len
        if case.causal and not packed:
            last = min(length, (block + 1) * rows)
            keys = min(keys, max(1, last + case.kv_len - length))
        found.append(rows / 128 * math.ceil(keys / 128))
    return found


def _parts(case: Case, chip: Chip, tasks: int) -> int:
    """Return into how many parts the KV range is split, to give idle cores work."""
    if not chip.split or tasks > 0.5 * chip.cores or case.kv_len < 2048:
        return 1
    return max(1, min(chip.cores // tasks, math.ceil(case.kv_len / 512)))


def _load(tasks: int, task: float, cores: int) -> float:
    """Return the tiles of the slowest core: whole tasks when there are few of them."""
    share = tasks / cores
    return task * (math.ceil(share) if share <= 4 else share + 0.5)


def _tile(case: Case, chip: Chip, level: _Level, rows: int) -> tuple[float, str, float]:
    depth = math.ceil(case.depth / 16) * 16
    per_step = 128 / level.step
    cube = 128 * 128 * 2 * depth / MACS_PER_CYCLE
    cycles = level.cycles + (_MASK_CYCLES if case.masked else 0)
    update = 4 * 128 * depth / 64 * per_step  # of the output, once a step
    parts = 128 * depth * 4 * per_step
    keys = 128 * 2 * depth * 2 * 128 / rows
    scores = 64 * 1024
    if not chip.split:
        copies = (scores + 128 * depth * 4) / 512
        vector = 0.62 * (cycles * _REPEATS + update) + level.heads_coupled + copies
        shorter, longer = sorted((cube, vector))
        total = longer + (1 - level.overlap) * shorter + 32 * 1024 / 256
        return total / 0.92, "cube" if cube > vector else "vector", keys + 128 * depth * 2
    mask = 128 * 128 if case.masked else 0
    read = keys + scores // 2 + scores + parts + mask
    write = scores + scores // 2 + parts
    pipes = {
        "cube": cube,
        "vector": cycles * _REPEATS / 2 + update / 2 + _STARTS_SPLIT,
        "l2-read": read / chip.l2_read,
        "l2-write": write / chip.l2_write,
        "l1": 2 * (128 * depth * 2 / 128) + (128 * depth * 2 + 128 * 128 * 2) / 256,
    }
    bound = max(pipes, key=lambda name: pipes[name])
    return pipes[bound] / level.efficiency, bound, read + write
