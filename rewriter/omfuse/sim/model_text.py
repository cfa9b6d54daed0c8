"""What the simulated library is told of a model: lines of text, see ``Parse`` in ``acl/models.cc``.

Needs no onnx: an old board can drive the library with a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from omfuse.sim.payload import Payload, TensorSpec


def describe(payload: Payload) -> str:
    """Return what the library needs to know of a model, one fact a line."""
    lines = [
        f"mode\t{payload.mode}",
        f"soc\t{plain(payload.soc)}",
        f"size\t{payload.work_size}\t{payload.weight_size}",
    ]
    lines += ["input" + _tensor_line(spec) for spec in payload.inputs]
    lines += ["output" + _tensor_line(spec) for spec in payload.outputs]
    for index, gear in enumerate(payload.gears):
        shown: Sequence[int] = gear
        if payload.mode == "dims":  # the call names all dims of all inputs
            shown = [size for dims in payload.gear_inputs[index] for size in dims]
        lines.append(f"gear\t{_dims(shown)}")
        lines.append("\t".join(["gearin", *map(_dims, payload.gear_inputs[index])]))
        lines.append("\t".join(["gearout", *map(_dims, payload.gear_outputs[index])]))
    if payload.gears:
        lines.append(f"gearnumbers\t{len(payload.gears[0])}")
    return "\n".join(lines)


def _tensor_line(spec: TensorSpec) -> str:
    ranges = ",".join(f"{low}~{high}" for low, high in spec.ranges)
    fields = (plain(spec.name), spec.acl_dtype, spec.acl_format, spec.size, _dims(spec.dims))
    return "\t" + "\t".join(map(str, fields)) + "\t" + ranges


def _dims(sizes: Sequence[int]) -> str:
    return ",".join(str(size) for size in sizes)


def encode(text: str) -> bytes:
    """Return the bytes of a text that may hold names of any bytes."""
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="replace")


def plain(text: str) -> str:
    """Return a text that fits in a field: without tabs and line breaks."""
    return " ".join(text.split())
