"""Time of attention as a chain of operators: a model.

Each operator takes the longer of its arithmetic and its traffic, plus its launch. A tensor that
was just written is read from L2 as far as it fits. Three chains: ``naive`` is what an exporter
writes (transposed keys, scale, mask, casts around the softmax), ``atc`` what ATC should leave of it
(scale and mask in one operator), ``best`` the least a chain can be (scale and mask inside the
softmax). Not calibrated on a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from omfuse.ops.chip import Chip

CHAINS = ("naive", "atc", "best")
_HALF = 2
_SOFTMAX_CYCLES = 13.9  # a repeat of 64 elements, row maximum and sum included


@dataclass(frozen=True)
class Case:
    """One attention: shape, heads that keys and values have, causal or not, with a mask or not."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    depth: int
    kv_heads: int
    causal: bool = False
    masked: bool = False

    @property
    def scores(self) -> int:
        """Elements of the score matrix."""
        return self.batch * self.heads * self.q_len * self.kv_len

    @property
    def flops(self) -> float:
        """Flops of both products, without what a causal mask saves."""
        return 4.0 * self.scores * self.depth

    @property
    def q_bytes(self) -> int:
        """Bytes of query, and of the output."""
        return self.batch * self.heads * self.q_len * self.depth * _HALF

    @property
    def kv_bytes(self) -> int:
        """Bytes of key, and of value."""
        return self.batch * self.kv_heads * self.kv_len * self.depth * _HALF


@dataclass(frozen=True)
class ChainTime:
    """Seconds of a chain, and the bytes it moves."""

    seconds: float
    traffic: float


@dataclass(frozen=True)
class _Operator:
    compute: float
    launch: float
    tensors: tuple[tuple[float, float], ...]  # (bytes moved, bytes of the tensor they belong to)


def chain_time(case: Case, chip: Chip, chain: str) -> ChainTime:
    """Return time and traffic of one of :data:`CHAINS`."""
    seconds = traffic = 0.0
    for operator in _operators(case, chip, chain):
        memory = 0.0
        for moved, size in operator.tensors:
            hit = min(1.0, max(0.0, (1.2 * chip.l2_bytes - size) / (0.6 * chip.l2_bytes)))
            memory += moved * (hit / chip.l2 + (1 - hit) / chip.dram)
            traffic += moved
        seconds += max(operator.compute, memory) + operator.launch
    return ChainTime(seconds, traffic)


def _operators(case: Case, chip: Chip, chain: str) -> Iterator[_Operator]:
    half, single = case.scores * _HALF, case.scores * 4
    expanded = case.kv_bytes * case.heads // case.kv_heads
    grouped = case.kv_heads != case.heads
    if grouped:
        for _ in range(2):  # exported grouped attention repeats keys and values
            yield _vector(
                chip, expanded // _HALF, 1, (case.kv_bytes, case.kv_bytes), (expanded, expanded)
            )
    if chain == "naive":
        yield _vector(chip, expanded // _HALF, 2, (2 * expanded, expanded))
    operand, query = (case.kv_bytes, case.kv_bytes), (case.q_bytes, case.q_bytes)
    yield _matmul(case, chip, query, operand, (half, half))
    if chain != "best":
        yield _vector(chip, case.scores, 1, (2 * half, half))
    if chain == "naive":
        if case.masked or (case.causal and case.q_len > 1):
            yield _vector(chip, case.scores, 2, (2 * half, half))
        yield _vector(chip, case.scores, 1, (half + single, single))
        yield _vector(chip, case.scores, _SOFTMAX_CYCLES, (2 * single, single))
        yield _vector(chip, case.scores, 1, (half + single, single))
    else:
        yield _vector(chip, case.scores, _SOFTMAX_CYCLES, (2 * half, half))
    yield _matmul(case, chip, (half, half), operand, query)


def _vector(chip: Chip, elements: int, cycles: float, *tensors: tuple[float, float]) -> _Operator:
    compute = cycles * elements / 64 / (chip.vector_cores * chip.clock) * 1.15
    return _Operator(compute, chip.launch_vector, tensors)


def _matmul(case: Case, chip: Chip, *tensors: tuple[float, float]) -> _Operator:
    tiles = case.batch * case.heads * math.ceil(case.q_len / 128) * math.ceil(case.kv_len / 256)
    wave = math.ceil(tiles / chip.cores) * chip.cores / tiles
    efficiency = 0.1 + 0.6 * min(1.0, case.depth / 64)
    # The cube works on 128 rows whether they are there or not.
    rows = math.ceil(case.q_len / 128) * 128 / case.q_len
    compute = case.flops / 2 * rows / (chip.peak * efficiency) * wave
    return _Operator(compute, chip.launch_matrix, tensors)
