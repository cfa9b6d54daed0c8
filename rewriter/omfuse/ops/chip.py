"""What the cost model needs to know of a chip, from its configuration.

Rates are bytes a core and cycle; the numbers of the platform files come from ``atc_configs``.
"""

from __future__ import annotations

from dataclasses import dataclass

from omfuse.atc.config import SocConfig, load_soc
from omfuse.errors import UsageError
from omfuse.ops.emulator_abi import Platform

MACS_PER_CYCLE = 4096  # 16 x 16 x 16 fp16 multiply-adds, every generation
# The platform files give the rate of the cores. The memory behind them caps it: 64 GB HBM near
# 1376 GB/s, the 32 GB of 910B4 half of it (an assumption, no file states it).
_MEMORY_CAP = {"ascend910b": 1376e9, "ascend910_93": 1376e9}
_MEMORY_CAP_OF = {"Ascend910B4": 688e9}
# Seconds to start one operator inside a compiled graph: vector, matrix, fused attention. Assumed;
# they decide small cases.
_LAUNCH = {True: (6e-6, 12e-6, 15e-6), False: (8e-6, 15e-6, 12e-6)}


@dataclass(frozen=True)
class Chip:
    """One chip: clocks in Hz, bytes, bytes a core and cycle, seconds."""

    name: str
    split: bool
    cores: int
    vector_cores: int
    clock: float
    l2_bytes: int
    dram: float
    l2_read: float
    l2_write: float
    launch_vector: float
    launch_matrix: float
    launch_fused: float
    platform: Platform

    @property
    def peak(self) -> float:
        """Peak fp16 flops a second."""
        return self.cores * 2 * MACS_PER_CYCLE * self.clock

    @property
    def l2(self) -> float:
        """Bytes a second that a chain of operators gets from L2."""
        return self.cores * self.clock * (self.l2_read + self.l2_write) / 2 * 0.55


def load_chip(soc: str) -> Chip:
    """Return the chip behind a soc_version.

    Raises:
        UsageError: ``unknown-soc``; ``unsupported-soc`` for a chip without our kernel.
    """
    config = load_soc(soc)
    if config.short not in ("ascend910b", "ascend910_93", "ascend310p"):
        raise UsageError(
            "unsupported-soc",
            f"the kernel is not written for {config.short}",
            where=soc,
            hint="910B, 910_93 and 310P chips have estimates",
        )
    split = config.short != "ascend310p"
    hardware = config.hardware
    clock = float(hardware["cube_mhz"]) * 1e6
    rate = hardware["ddr_bytes_per_cycle"] * config.cube_cores * clock
    cap = _MEMORY_CAP_OF.get(config.name, _MEMORY_CAP.get(config.short, rate))
    vector, matrix, fused = _LAUNCH[split]
    return Chip(
        name=config.name,
        split=split,
        cores=config.cube_cores,
        # Plain vector operators of 310P also run on its extra vector cores.
        vector_cores=config.vector_cores + (0 if split else config.cube_cores),
        clock=clock,
        l2_bytes=hardware["l2_bytes"],
        dram=min(rate, cap),
        l2_read=hardware["l2_read_bytes_per_cycle"],
        l2_write=hardware["l2_write_bytes_per_cycle"],
        launch_vector=vector,
        launch_matrix=matrix,
        launch_fused=fused,
        platform=_platform(config, split),
    )


def _platform(config: SocConfig, split: bool) -> Platform:
    sizes = [config.hardware[f"{name}_bytes"] for name in ("ub", "l1", "l0a", "l0b", "l0c", "l2")]
    vector = config.vector_cores if split else config.cube_cores
    return Platform(*sizes, config.cube_cores, vector, int(split))
