"""The table of API calls in custom_ops/README.md is complete and has nothing else."""

from __future__ import annotations

import re

from omfuse.ops import emulator

KERNEL = emulator.SOURCES / "flash_attention" / "op_kernel"
NOT_CALLS = {"TPosition", "HardEvent", "RoundMode", "BlockMode", "IsSameType"}


def called() -> set[str]:
    """Return the names of AscendC that the kernel uses, parameter structs left out."""
    text = "".join(path.read_text("utf-8") for path in KERNEL.iterdir() if path.suffix != ".txt")
    names = set(re.findall(r"AscendC::([A-Z]\w+)", text))
    return {n for n in names - NOT_CALLS if not re.search(r"Params(V220)?$|^CFG_", n)}


def test_table_lists_every_call() -> None:
    readme = (emulator.SOURCES / "README.md").read_text("utf-8")
    table = readme.split("## API in use")[1].split("## The emulation")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    listed -= {"Nd2NzParams"}
    assert listed == called()
