"""Messages between a session and its worker process: one JSON header, then raw array bytes.

No pickle: a frame can carry numbers and text, never code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from omfuse.host.tensors import named_dtype
from omfuse.session_protocol import Array

_LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write one frame; string arrays travel inside the header."""
    described: list[dict[str, Any]] = []
    payload: list[Array] = []
    for name, array in arrays.items():
        entry: dict[str, Any] = {
            "name": name,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
        }
        if array.dtype == object:
            entry["strings"] = [str(item) for item in array.ravel()]
        else:
            payload.append(np.ascontiguousarray(array))
        described.append(entry)
    head = json.dumps({**header, "arrays": described}).encode()
    stream.write(_LENGTH.pack(len(head)))
    stream.write(head)
    for array in payload:
        stream.write(array.view(np.uint8).data if array.size else b"")
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one frame.

    Raises:
        EOFError: the other side is gone.
    """
    head = json.loads(_exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]))
    arrays: dict[str, Array] = {}
    for entry in head.pop("arrays"):
        shape, dtype = tuple(entry["shape"]), named_dtype(entry["dtype"])
        if "strings" in entry:
            arrays[entry["name"]] = np.array(entry["strings"], dtype=object).reshape(shape)
            continue
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raw = np.frombuffer(_exactly(stream, size), np.uint8)
        arrays[entry["name"]] = raw.view(dtype).reshape(shape)
    return head, arrays


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other process closed the connection")
        done += count
    return data
