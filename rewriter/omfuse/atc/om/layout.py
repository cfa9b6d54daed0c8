"""The frame of an ``.om``: 256 bytes of header, a partition table, and the partitions.

``ModelFileHeader`` and both table forms of graph-engine: with ``model_length`` set the table has
64-bit offsets, without it the older one has 32-bit offsets.  Offsets count from the end of the
table, in bundles from its start.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from omfuse.errors import ModelError
from omfuse.sim.payload import PARTITION

MAGIC = 0x444F4D49  # "IMOD" in little endian
HEADER_BYTES = 256
VERSION = 0x20000000
MAX_PARTITIONS = 4096
_ZIP_MAGIC = b"PK\x03\x04"

MODEL_DEF, WEIGHTS_DATA, TASK_INFO, TBE_KERNELS, CUST_AICPU_KERNELS, SO_BINS = range(6)
FLOW_MODEL, FLOW_SUBMODEL, MODEL_INOUT_INFO = 6, 7, 8
TILING_DATA = 12
BUNDLE_MODEL_INFO, BUNDLE_MODEL_VAR_INFO, CUSTOM_OPS = 24, 25, 26

NAMES = {
    MODEL_DEF: "MODEL_DEF",
    WEIGHTS_DATA: "WEIGHTS_DATA",
    TASK_INFO: "TASK_INFO",
    TBE_KERNELS: "TBE_KERNELS",
    CUST_AICPU_KERNELS: "CUST_AICPU_KERNELS",
    SO_BINS: "SO_BINS",
    FLOW_MODEL: "FLOW_MODEL",
    FLOW_SUBMODEL: "FLOW_SUBMODEL",
    MODEL_INOUT_INFO: "MODEL_INOUT_INFO",
    9: "STATIC_TASK_DESC",
    10: "DYNAMIC_TASK_DESC",
    11: "TASK_PARAM",
    TILING_DATA: "TILING_DATA",
    20: "PRE_MODEL_DESC",
    21: "PRE_MODEL_SQE",
    22: "PRE_KERNEL_ARGS",
    23: "PRE_MODEL_DESC_EXTEND",
    BUNDLE_MODEL_INFO: "BUNDLE_MODEL_INFO",
    BUNDLE_MODEL_VAR_INFO: "BUNDLE_MODEL_VAR_INFO",
    CUSTOM_OPS: "CUSTOM_OPS",
    PARTITION: "SIMULATION",
}
MODEL_TYPES = {0: "ir", 1: "standard", 2: "tiny", 3: "flow", 4: "lite", 5: "bundle"}
_BUNDLE, _FLOW = 5, 3

_HEADER = struct.Struct("<III64sIBBBB32sI32sII20sB3xQBB62s")
assert _HEADER.size == HEADER_BYTES


@dataclass(frozen=True)
class Header:
    """The fixed header; texts are cut at their first zero byte."""

    length: int
    name: str = ""
    version: int = VERSION
    large: bool = True
    encrypted: bool = False
    model_type: int = 0
    generated_online: bool = False
    ops: int = 0
    user_info: bytes = b""
    ir_version: int = 2
    models: int = 1
    platform: str = ""
    check_os_cpu: bool = False
    unknown_shape: bool = False

    def to_bytes(self) -> bytes:
        """Return the 256 bytes."""
        return _HEADER.pack(
            MAGIC,
            HEADER_BYTES,
            self.version,
            b"",
            0 if self.large else self.length,
            self.encrypted,
            0,
            self.model_type,
            self.generated_online,
            self.name.encode()[:31],
            self.ops,
            self.user_info[:32],
            self.ir_version,
            self.models,
            self.platform.encode()[:19],
            0,
            self.length if self.large else 0,
            self.check_os_cpu,
            self.unknown_shape,
            b"",
        )


@dataclass(frozen=True)
class Partition:
    """One part of the file: where it starts from the beginning of the file, and its bytes."""

    kind: int
    start: int
    size: int

    @property
    def name(self) -> str:
        """The name of its type, or the number of an unknown one."""
        return NAMES.get(self.kind, f"type {self.kind}")


def is_om(path: Path) -> bool:
    """Tell by the first bytes whether a file is an ``.om``, whatever its name."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == struct.pack("<I", MAGIC)
    except OSError:
        return False


class OmFile:
    """An open ``.om``: header, and the tables of its models; partitions are read when asked for.

    Args:
        path: the file.

    Raises:
        ModelError: ``not-om``, ``om2``, ``om-encrypted`` or ``om-truncated``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._stream: BinaryIO = self.path.open("rb")
        except OSError as error:
            what = f"cannot read: {error.strerror}"
            raise ModelError("no-model", what, str(path), "correct the path") from None
        try:
            self.size = self.path.stat().st_size
            self.header = self._read_header()
            if self.header.encrypted:
                raise ModelError(
                    "om-encrypted",
                    "the .om is encrypted",
                    where=str(self.path),
                    hint="ask its maker for the plain file; nothing else in it can be read",
                )
            if HEADER_BYTES + self.header.length > self.size:
                announced = HEADER_BYTES + self.header.length
                raise self.damaged(f"{announced} bytes announced, {self.size} there")
            self.tables = self._read_tables()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> OmFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def damaged(self, why: str) -> ModelError:
        """Return the error for a file that contradicts itself."""
        return ModelError(
            "om-truncated",
            f"the .om is damaged: {why}",
            where=str(self.path),
            hint="copy or compile it again",
        )

    def _read_header(self) -> Header:
        head = self._stream.read(HEADER_BYTES)
        if head.startswith(_ZIP_MAGIC):
            raise ModelError(
                "om2",
                "this is an OM2 package, which omfuse does not read",
                where=str(self.path),
                hint="compile with mode 0",
            )
        if len(head) < HEADER_BYTES or struct.unpack_from("<I", head)[0] != MAGIC:
            pointer = head.startswith(b"version https://git-lfs")
            hint = "git lfs pull" if pointer else "it is no .om, or was cut off; copy it again"
            raise ModelError("not-om", "the file has no .om header", str(self.path), hint)
        values = _HEADER.unpack(head)
        (_, _, version, _, old, encrypted, _, kind, mode, name, ops, user, ir, models) = values[:14]
        platform, _, length, check, unknown, _ = values[14:]
        return Header(
            length=length or old,
            name=_text(name),
            version=version,
            large=length != 0,
            encrypted=bool(encrypted),
            model_type=kind,
            generated_online=bool(mode),
            ops=ops,
            user_info=user,
            ir_version=ir,
            models=max(1, models),
            platform=_text(platform),
            check_os_cpu=bool(check),
            unknown_shape=bool(unknown),
        )

    def _read_tables(self) -> list[list[Partition]]:
        """Read one table a model: several models follow one another."""
        tables, at = [], HEADER_BYTES
        end = min(self.size, HEADER_BYTES + self.header.length)
        count = 1 if self.header.model_type in (_BUNDLE, _FLOW) else self.header.models
        for _ in range(min(count, MAX_PARTITIONS)):
            table, at = self._read_table(at, end)
            tables.append(table)
        return tables

    def _read_table(self, at: int, end: int) -> tuple[list[Partition], int]:
        start, form = (8, "<IIQQ") if self.header.large else (4, "<III")
        step = struct.calcsize(form)
        self._stream.seek(at)
        head = self._stream.read(min(start, max(0, end - at)))
        count = struct.unpack_from("<I", head)[0] if len(head) == start else 0
        if not 1 <= count <= MAX_PARTITIONS or at + start + count * step > end:
            raise self.damaged(f"its partition table lists {count} parts")
        data = self._stream.read(count * step)
        if len(data) < count * step:
            raise self.damaged("its partition table is cut off")
        base = at if self.header.model_type == _BUNDLE else at + start + count * step
        found, last = [], at + start + count * step
        for fields in struct.iter_unpack(form, data):
            part = Partition(fields[0], base + fields[-2], fields[-1])
            if part.start + part.size > end:
                raise self.damaged(f"partition {part.name} ends behind the file")
            found.append(part)
            last = max(last, part.start + part.size)
        return found, last

    def read(self, part: Partition, limit: int) -> memoryview:
        """Return the bytes of a partition.

        Raises:
            ModelError: ``om-too-large`` above ``limit`` bytes, ``om-truncated``.
        """
        if part.size > limit:
            raise ModelError(
                "om-too-large",
                f"partition {part.name} has {part.size} bytes, more than the {limit} that are read",
                where=str(self.path),
            )
        return memoryview(self.slice(part.start, part.size))

    def slice(self, start: int, size: int) -> bytes:
        """Return bytes at a place of the file.

        Raises:
            ModelError: ``om-truncated`` when the file ends before.
        """
        self._stream.seek(start)
        data = self._stream.read(size)
        if len(data) < size:
            raise self.damaged("it ends early")
        return data

    def find(self, kind: int, model: int = 0) -> Partition | None:
        """Return the first partition of a type in one of the models."""
        return next((part for part in self.tables[model] if part.kind == kind), None)

    def partitions(self) -> Iterator[Partition]:
        """Yield the partitions of all models."""
        for table in self.tables:
            yield from table


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", errors="backslashreplace")


def table_bytes(parts: Sequence[tuple[int, int]], large: bool = True) -> bytes:
    """Return the table for parts given as ``type, size`` that follow one another."""
    head = struct.pack("<II", len(parts), 0) if large else struct.pack("<I", len(parts))
    rows, offset = [], 0
    for kind, size in parts:
        row = (kind, 0, offset, size) if large else (kind, offset, size)
        rows.append(struct.pack("<IIQQ" if large else "<III", *row))
        offset += size
    return head + b"".join(rows)
