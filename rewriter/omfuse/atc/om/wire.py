"""Protocol buffers on the wire: a bounded reader of fields and a small writer.

Why not the protobuf package: an ``.om`` comes from anywhere, so every count, depth and length has
to be bounded here, and attributes that nobody asks for should cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MASK64 = (1 << 64) - 1
MAX_FIELDS = 20_000_000


class WireError(ValueError):
    """The bytes are no message of the expected kind."""


class Budget:
    """How many fields may still be read from one file.

    A field takes two bytes at least but an object in memory: without a limit a file of some
    megabytes could ask for gigabytes.
    """

    def __init__(self, limit: int = MAX_FIELDS) -> None:
        self.left = limit

    def take(self, count: int = 1) -> None:
        """Count fields.

        Raises:
            WireError: when there are more than allowed.
        """
        self.left -= count
        if self.left < 0:
            raise WireError("it holds more fields than any model needs")


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return an unsigned number and the position behind it."""
    value = shift = 0
    end = len(data)
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, at
        shift += 7
        if shift > 63:
            raise WireError("a number is longer than ten bytes")
    raise WireError("a number is cut off")


def fields(data: memoryview, budget: Budget) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield ``number, wire type, integer, bytes`` of each field.

    The integer holds varints and the raw bits of fixed sizes; the bytes hold delimited fields and
    fixed sizes, empty otherwise.

    Raises:
        WireError: for anything malformed.
    """
    at, end = 0, len(data)
    nothing = data[:0]
    while at < end:
        budget.take()
        key = data[at]
        # Most keys and lengths are one byte: worth a path of their own.
        if key < 0x80:
            at += 1
        else:
            key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0 or number > 0x1FFFFFFF:
            raise WireError(f"field number {number} is not allowed")
        if kind == VARINT:
            value, at = read_varint(data, at)
            yield number, kind, value, nothing
        elif kind == BYTES:
            length = data[at] if at < end else 0x80
            if length < 0x80:
                at += 1
            else:
                length, at = read_varint(data, at)
            if length > end - at:
                raise WireError(f"field {number} is cut off")
            yield number, kind, 0, data[at : at + length]
            at += length
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            if size > end - at:
                raise WireError(f"field {number} is cut off")
            raw = data[at : at + size]
            yield number, kind, int.from_bytes(raw, "little"), raw
            at += size
        else:
            raise WireError(f"wire type {kind} of field {number} is not used")


def signed(value: int) -> int:
    """Read the 64 bits of a varint as a signed number."""
    return value - (1 << 64) if value >> 63 else value


def integers(kind: int, value: int, raw: memoryview, budget: Budget) -> list[int]:
    """Return the numbers of a repeated int64 field, packed or single."""
    if kind == VARINT:
        return [signed(value)]
    if kind != BYTES:
        raise WireError("a list of integers has the wrong wire type")
    found, at = [], 0
    while at < len(raw):
        budget.take()
        number, at = read_varint(raw, at)
        found.append(signed(number))
    return found


def floats(kind: int, raw: memoryview, budget: Budget) -> list[float]:
    """Return the numbers of a repeated float field, packed or single."""
    if kind not in (BYTES, FIXED32) or len(raw) % 4:
        raise WireError("a list of floats has the wrong size")
    budget.take(len(raw) // 4)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def text(raw: memoryview) -> str:
    """Return bytes as text; bytes that are not UTF-8 stay visible as escapes."""
    return bytes(raw).decode("utf-8", errors="backslashreplace")


# ---- writing


def varint(value: int) -> bytes:
    """Encode a number; negative ones take ten bytes as int64 does."""
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put_int(number: int, value: int) -> bytes:
    """Encode an integer, enum or bool field; zero is left out as proto3 does."""
    return varint(number << 3) + varint(value) if value else b""


def put_some_int(number: int, value: int) -> bytes:
    """Encode a member of a oneof, where zero counts too."""
    return varint(number << 3) + varint(value)


def put_bytes(number: int, value: bytes) -> bytes:
    """Encode a delimited field, also when empty: for messages and members of a oneof."""
    return b"".join((varint(number << 3 | BYTES), varint(len(value)), value))


def put_text(number: int, value: str) -> bytes:
    """Encode a text; an empty one is left out."""
    return put_bytes(number, encode_text(value)) if value else b""


def put_texts(number: int, values: Iterable[str]) -> bytes:
    """Encode a repeated text field."""
    return b"".join(put_bytes(number, encode_text(value)) for value in values)


def encode_text(value: str) -> bytes:
    """Return the bytes of a name; ONNX names that are not UTF-8 keep theirs."""
    return value.encode("utf-8", errors="surrogateescape")


def put_float(number: int, value: float) -> bytes:
    """Encode a float, also when zero."""
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)


def put_ints(number: int, values: Iterable[int]) -> bytes:
    """Encode a packed list of integers; an empty one is left out."""
    packed = b"".join(map(varint, values))
    return put_bytes(number, packed) if packed else b""


def put_floats(number: int, values: Iterable[float]) -> bytes:
    """Encode a packed list of floats; an empty one is left out."""
    packed = b"".join(struct.pack("<f", value) for value in values)
    return put_bytes(number, packed) if packed else b""
