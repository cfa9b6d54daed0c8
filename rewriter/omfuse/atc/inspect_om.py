"""Check a fresh .om: header and partition table must agree with the size of the file.

Cheap on purpose, so that it runs after every compile: 256 bytes of header and the partition table.
Layout: ModelFileHeader of graph-engine and its two table forms, seen in real files of CANN 8.0.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from omfuse.errors import ModelError

MAGIC = 0x444F4D49  # "IMOD" in little endian
HEADER_BYTES = 256
_MAX_PARTITIONS = 4096


def describe_om(path: Path) -> dict[str, Any]:
    """Read header and partition table of an .om.

    Returns:
        ``bytes``, ``name``, ``models``, ``unknown_shape``, ``platform`` and ``partitions``, a list
        of type number and size.

    Raises:
        ModelError: ``not-om``, ``om-encrypted`` or ``om-truncated``.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
        if len(head) < HEADER_BYTES or struct.unpack_from("<I", head)[0] != MAGIC:
            raise ModelError("not-om", "the file has no .om header", where=str(path))
        if head[80]:
            raise ModelError("om-encrypted", "the .om is encrypted", where=str(path))
        (length,) = struct.unpack_from("<Q", head, 184)
        large = length != 0
        if not large:
            (length,) = struct.unpack_from("<I", head, 76)
        if HEADER_BYTES + length > size:
            raise _truncated(path, f"{HEADER_BYTES + length} bytes announced, {size} there")
        partitions = _read_table(stream.read(8 + 24 * _MAX_PARTITIONS), large, path, size)
    return {
        "bytes": size,
        "name": head[84:116].split(b"\0")[0].decode("utf-8", errors="replace"),
        "models": max(1, struct.unpack_from("<I", head, 156)[0]),
        "unknown_shape": bool(head[193]),
        "platform": head[160:180].split(b"\0")[0].decode("utf-8", errors="replace"),
        "partitions": partitions,
    }


def _read_table(data: bytes, large: bool, path: Path, size: int) -> list[dict[str, int]]:
    start, form = (8, "<IIQQ") if large else (4, "<III")
    step = struct.calcsize(form)
    count = struct.unpack_from("<I", data)[0] if len(data) >= start else 0
    if not 1 <= count <= _MAX_PARTITIONS or len(data) < start + count * step:
        raise _truncated(path, f"its partition table lists {count} parts")
    body = HEADER_BYTES + start + count * step
    found = []
    for index in range(count):
        fields = struct.unpack_from(form, data, start + index * step)
        kind, offset, length = fields[0], fields[-2], fields[-1]
        if body + offset + length > size:
            raise _truncated(path, f"partition {kind} ends behind the file")
        found.append({"type": kind, "bytes": length})
    return found


def _truncated(path: Path, why: str) -> ModelError:
    return ModelError("om-truncated", f"the .om is damaged: {why}", where=str(path))
