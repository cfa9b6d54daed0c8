"""Kernel stores: compiled kernels one after another, and host libraries of dynamic models."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from omfuse.atc.om.layout import OmFile, Partition
from omfuse.atc.om.wire import Budget, WireError

_MAGIC = 0x5D776EFD
_ITEM = struct.Struct("<III")
_SO_ITEM = struct.Struct("<IHHII")
_MAX_NAME = 4096
_MACHINES = {0x1029: "AI Core", 0x3E: "x86_64", 0xB7: "aarch64"}


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel: name, bytes, and what machine its ELF is for (empty if no ELF)."""

    name: str
    size: int
    machine: str = ""


def write_kernels(kernels: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a kernel store."""
    out = []
    for name, binary in kernels:
        raw = name.encode()
        out += [_ITEM.pack(_MAGIC, len(raw), len(binary)), raw, binary]
    return b"".join(out)


def read_kernels(file: OmFile, part: Partition, budget: Budget) -> list[Kernel]:
    """List the kernels of a store; their code stays on disk.

    Raises:
        WireError: the store contradicts itself.
    """
    found: list[Kernel] = []
    at, end = part.start, part.start + part.size
    while at + _ITEM.size <= end:
        budget.take(4)
        magic, name_bytes, size = _ITEM.unpack(file.slice(at, _ITEM.size))
        if magic != _MAGIC:
            break  # padding behind the last kernel
        at += _ITEM.size
        if name_bytes > _MAX_NAME or name_bytes + size > end - at:
            raise WireError(f"kernel {len(found)} of the store is cut off")
        head = file.slice(at, name_bytes + min(size, 20))
        name = head[:name_bytes].decode("utf-8", errors="backslashreplace")
        found.append(Kernel(name, size, _machine(head[name_bytes:])))
        at += name_bytes + size
    return found


def _machine(head: bytes) -> str:
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return ""
    (number,) = struct.unpack_from("<H", head, 18)
    return _MACHINES.get(number, f"machine {number:#x}")


def read_libraries(file: OmFile, part: Partition, budget: Budget) -> list[Kernel]:
    """List the host libraries (tiling, prototypes) that a dynamic model carries.

    Raises:
        WireError: the list contradicts itself.
    """
    if part.size < 4:
        return []
    count = int.from_bytes(file.slice(part.start, 4), "little")
    if count * _SO_ITEM.size > part.size:
        raise WireError(f"{count} libraries do not fit their partition")
    found, at, end = [], part.start + 4, part.start + part.size
    for _ in range(count):
        budget.take(4)
        if at + _SO_ITEM.size > end:
            raise WireError("the list of libraries is cut off")
        _, name_bytes, _, vendor_bytes, size = _SO_ITEM.unpack(file.slice(at, _SO_ITEM.size))
        at += _SO_ITEM.size
        if name_bytes + vendor_bytes + size > end - at or vendor_bytes > _MAX_NAME:
            raise WireError("a library is cut off")
        names = file.slice(at, name_bytes + vendor_bytes)
        text = names[:name_bytes].decode("utf-8", errors="backslashreplace")
        vendor = names[name_bytes:].decode("utf-8", errors="backslashreplace")
        found.append(Kernel(f"{vendor}/{text}" if vendor else text, size))
        at += name_bytes + vendor_bytes + size
    return found
