"""What a simulated ``.om`` holds beside the real layout, so that the simulated device can run it.

It is marked twice and stored once: the header field ``userdefineinfo`` (bytes 120 to 151)
starts with :data:`MARK`, the model attribute ``omfuse_simulated`` is true, and a partition of type
:data:`PARTITION` holds the bytes of :meth:`Payload.to_bytes`.  The number is far from those of
graph-engine (0 to 26), so no real file has it.

Encoding: the eight bytes ``OMFSIM1`` and a zero, u64 length of a JSON text, the JSON text,
then the blobs one after another; the JSON lists name and length of each blob.  Little endian.
Standard library only and Python 3.8 syntax, because boards ask :func:`is_simulated` too.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from omfuse.errors import ModelError

MARK = b"omfuse-simulated"
MARK_OFFSET = 120
MARK_FIELD = 32
PARTITION = 0x6F6D6673
ATTRIBUTE = "omfuse_simulated"
MODES = ("static", "batch", "image", "dims", "dynamic")

_MAGIC = b"OMFSIM1\0"
_MAX_JSON = 64 * 1024 * 1024
_MODEL_BLOB = "model.onnx"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the loaded model shows it.

    Attributes:
        name: name in the .om: the ONNX name for inputs, ``node:index:tensor`` for outputs.
        onnx_name: tensor name in the stored ONNX model.
        dtype: numpy or ml_dtypes name at the interface, such as ``float16`` or ``bfloat16``.
        onnx_dtype: name inside the stored model; differs after ``output_type`` or
            ``input_fp16_nodes``, then the device converts.
        acl_dtype: aclDataType number.
        acl_format: aclFormat number, 0 NCHW, 2 ND, 30 NCDHW.
        dims: sizes, -1 where open.
        ranges: smallest and largest size of each dim in mode ``dynamic`` (largest -1 when
            unbounded), empty in the other modes.
        size: bytes of the largest form; 0 when unbounded.
    """

    name: str
    onnx_name: str
    dtype: str
    onnx_dtype: str
    acl_dtype: int
    acl_format: int
    dims: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...] = ()
    size: int = 0


@dataclass(frozen=True)
class AttentionRecord:
    """One fused attention of the model: node, GE type, kernel and task that stand for it."""

    node: str
    op_type: str
    kernel: str
    task: int
    origin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Payload:
    """A simulated model.

    Attributes:
        soc: soc_version of the compile.
        mode: ``static``; gears as ``batch``, ``image`` or ``dims``; ``dynamic`` for shape ranges
            and fully open shapes.
        inputs: real inputs in order, without the shape input that gear models get at the end
            (``ascend_mbatch_shape_data``).
        outputs: in graph order.
        gears: the numbers of each gear as given: one for batch, height and width for image, one
            for each -1 for dims.
        gear_inputs: for each gear, dims of every input.
        gear_outputs: for each gear, dims of every output.
        model: the ATC form, serialized; FlashAttention is in the default domain.
        external: weight files beside the model by location.
        command: the ATC command line.
        precision: ``precision_mode`` or ``precision_mode_v2`` in force.
        attention: fused attention found.
        work_size: bytes of work memory to ask for.
        weight_size: bytes of weight memory to ask for.
        opset: opset of the default domain.
    """

    soc: str
    mode: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: bytes
    gears: tuple[tuple[int, ...], ...] = ()
    gear_inputs: tuple[tuple[tuple[int, ...], ...], ...] = ()
    gear_outputs: tuple[tuple[tuple[int, ...], ...], ...] = ()
    external: dict[str, bytes] = field(default_factory=dict)
    command: str = ""
    precision: str = "force_fp16"
    attention: tuple[AttentionRecord, ...] = ()
    work_size: int = 0
    weight_size: int = 0
    opset: int = 0

    def to_bytes(self) -> bytes:
        """Return the bytes of the partition."""
        return b"".join(self.pieces())

    def pieces(self) -> list[bytes]:
        """Return the bytes of the partition in pieces, so that large weights are not copied."""
        record = asdict(self)
        del record["model"], record["external"]
        blobs = [(_MODEL_BLOB, self.model), *sorted(self.external.items())]
        record["blobs"] = [[name, len(data)] for name, data in blobs]
        text = json.dumps(record, separators=(",", ":")).encode("utf-8")
        head = _MAGIC + struct.pack("<Q", len(text)) + text
        return [head, *(data for _, data in blobs)]

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Payload:
        """Read the bytes of the partition.

        Raises:
            ModelError: ``bad-payload`` when they are damaged.
        """
        view = memoryview(data)
        if len(view) < 16 or bytes(view[:8]) != _MAGIC:
            raise _bad("it has no magic")
        (length,) = struct.unpack_from("<Q", view, 8)
        if length > min(_MAX_JSON, len(view) - 16):
            raise _bad("its description is cut off")
        try:
            record = json.loads(bytes(view[16 : 16 + length]).decode("utf-8"))
            blobs = _split(view[16 + length :], record.pop("blobs"))
            return cls._from_record(record, blobs)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _bad(f"its description is not understood: {error}") from error

    @classmethod
    def _from_record(cls, record: dict[str, Any], blobs: dict[str, bytes]) -> Payload:
        if record["mode"] not in MODES:
            raise ValueError("mode {!r}".format(record["mode"]))
        values = dict(record)
        for name in ("inputs", "outputs"):
            values[name] = tuple(_tensor(item) for item in record[name])
        values["attention"] = tuple(
            AttentionRecord(**{**item, "origin": tuple(item["origin"])})
            for item in record["attention"]
        )
        for name in ("gears", "gear_inputs", "gear_outputs"):
            values[name] = _tuples(record[name])
        model = blobs.pop(_MODEL_BLOB)
        return cls(model=model, external=blobs, **values)


def _tensor(item: dict[str, Any]) -> TensorSpec:
    values = dict(item)
    values["dims"], values["ranges"] = _tuples(item["dims"]), _tuples(item["ranges"])
    return TensorSpec(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else int(value)


def _split(view: memoryview, listed: list[list[Any]]) -> dict[str, bytes]:
    blobs, at = {}, 0
    for name, length in listed:
        if not isinstance(length, int) or not 0 <= length <= len(view) - at:
            raise ValueError(f"blob {name!r} is cut off")
        blobs[str(name)] = bytes(view[at : at + length])
        at += length
    return blobs


def _bad(why: str) -> ModelError:
    return ModelError(
        "bad-payload",
        "the simulated part of the .om is damaged: " + why,
        hint="compile again with --device sim",
    )


def is_simulated(source: str | os.PathLike[str] | bytes | memoryview) -> bool:
    """Tell from the header alone whether an .om is simulated.

    Args:
        source: path of the file, or its first 256 bytes or more.
    """
    if isinstance(source, (bytes, memoryview)):
        head = bytes(source[:256])
    else:
        with Path(source).open("rb") as stream:
            head = stream.read(256)
    return head[:4] == b"IMOD" and head[MARK_OFFSET:].startswith(MARK)


def load_payload(path: str | os.PathLike[str]) -> Payload:
    """Read the payload of a simulated .om file.

    Raises:
        ModelError: ``not-om``, ``not-simulated`` (a real .om), ``bad-payload``.
    """
    with Path(path).open("rb") as stream:
        return _from_stream(stream, str(path))


def payload_of_bytes(data: bytes | memoryview) -> Payload:
    """Read the payload of a simulated .om that is in memory; errors as :func:`load_payload`."""
    import io

    return _from_stream(io.BytesIO(data), "memory")


def _from_stream(stream: BinaryIO, where: str) -> Payload:
    head = stream.read(256)
    if len(head) < 256 or head[:4] != b"IMOD":
        raise ModelError("not-om", "the file has no .om header", where=where)
    if not is_simulated(head):
        raise ModelError(
            "not-simulated",
            "this .om is for a real chip, the simulated device runs simulated ones only",
            where=where,
            hint="run it on a board with --device ascend, or compile with --device sim",
        )
    count = struct.unpack("<II", stream.read(8).ljust(8, b"\0"))[0]
    if not 1 <= count <= 64:
        raise _bad(f"its partition table lists {count} parts")
    table = stream.read(24 * count).ljust(24 * count, b"\0")
    base = 256 + 8 + 24 * count
    for index in range(count):
        kind, _, offset, length = struct.unpack_from("<IIQQ", table, 24 * index)
        if kind == PARTITION:
            end = stream.seek(0, os.SEEK_END)
            if base + offset + length > end:
                raise _bad("it is cut off")
            stream.seek(base + offset)
            return Payload.from_bytes(stream.read(length))
    raise _bad("there is no such partition")
