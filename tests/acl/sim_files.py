"""Small simulated .om files, written by hand: header, partition table, payload."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from omfuse.acl.constants import acl_dtype
from omfuse.sim.payload import MARK, MARK_OFFSET, PARTITION, Payload, TensorSpec

FLOAT = TensorProto.FLOAT


def om_bytes(payload: bytes, *, simulated: bool = True) -> bytes:
    """Wrap a payload in the container of an .om."""
    table = struct.pack("<II", 1, 0) + struct.pack("<IIQQ", PARTITION, 0, 0, len(payload))
    head = bytearray(256)
    length = len(table) + len(payload)
    struct.pack_into("<II", head, 0, 0x444F4D49, 256)
    struct.pack_into("<I", head, 76, length)
    head[84:89] = b"model"
    struct.pack_into("<Q", head, 184, length)
    if simulated:
        head[MARK_OFFSET : MARK_OFFSET + len(MARK)] = MARK
    return bytes(head) + table + payload


def numpy_type(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def spec(
    name: str,
    dims: Sequence[int],
    dtype: str = "float32",
    *,
    onnx_name: str | None = None,
    ranges: Sequence[tuple[int, int]] = (),
    largest: Sequence[int] | None = None,
) -> TensorSpec:
    kind = numpy_type(dtype)
    biggest = dims if largest is None else largest
    size = 0 if any(d < 0 for d in biggest) else int(np.prod(biggest, dtype=int)) * kind.itemsize
    return TensorSpec(
        name, onnx_name or name, dtype, dtype, acl_dtype(kind), 2, tuple(dims), tuple(ranges), size
    )


def write(path: Path, payload: Payload) -> Path:
    path.write_bytes(om_bytes(payload.to_bytes()))
    return path


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Sequence[onnx.TensorProto] = (),
    dtype: int = FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, dtype, d) for n, d in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, d) for n, d in outputs.items()],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def sum_model(batch: int | str, width: int | str = 4) -> onnx.ModelProto:
    """total = a + b, twice = total * 2: two inputs and two outputs of one shape."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["total"], "Add_1"),
        helper.make_node("Add", ["total", "total"], ["twice"], "Add_2"),
    ]
    dims = [batch, width]
    return model_of(nodes, {"a": dims, "b": dims}, {"total": dims, "twice": dims})


def expected(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    return {"total": a + b, "twice": (a + b) * 2}


def _sum_specs(
    dims: Sequence[int], **more: object
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs = tuple(spec(n, dims, **more) for n in ("a", "b"))  # type: ignore[arg-type]
    more.pop("ranges", None)
    outputs = tuple(
        spec(f"Add_{i}:0:{n}", dims, onnx_name=n, **more)  # type: ignore[arg-type]
        for i, n in ((1, "total"), (2, "twice"))
    )
    return inputs, outputs


def static_payload() -> Payload:
    inputs, outputs = _sum_specs((2, 4))
    model = sum_model(2).SerializeToString()
    return Payload("Ascend310P3", "static", inputs, outputs, model, work_size=512, weight_size=64)


def gear_payload(mode: str) -> Payload:
    """Gears of batch 1, 2 and 4 (``batch``, ``dims``), or of batch and width (``image``)."""
    open_dims = (-1, 4) if mode == "batch" else (-1, -1)
    shapes = [(1, 4), (2, 4), (4, 8)] if mode != "batch" else [(1, 4), (2, 4), (4, 4)]
    inputs, outputs = _sum_specs(open_dims, largest=shapes[-1])
    gears = {
        "batch": [(s[0],) for s in shapes],
        "image": shapes,
        "dims": [(*s, *s) for s in shapes],
    }[mode]
    both = tuple((s, s) for s in shapes)
    model = sum_model("n", 4 if mode == "batch" else "w").SerializeToString()
    return Payload(
        "Ascend310P3", mode, inputs, outputs, model,
        gears=tuple(gears), gear_inputs=both, gear_outputs=both, work_size=512, weight_size=64,
    )  # fmt: skip


def dynamic_payload(high: int = 8) -> Payload:
    """Batch from 1 to ``high`` (-1: open); output sizes are not known before the run."""
    bound = [high, 4] if high > 0 else None
    inputs = tuple(
        spec(n, (-1, 4), ranges=((1, high), (4, 4)), largest=bound or (-1, 4)) for n in ("a", "b")
    )
    outputs = tuple(
        spec(f"Add_{i}:0:{n}", (-1, 4), onnx_name=n) for i, n in ((1, "total"), (2, "twice"))
    )
    model = sum_model("n").SerializeToString()
    return Payload("Ascend310P3", "dynamic", inputs, outputs, model, work_size=512)


def bfloat16_payload() -> Payload:
    """Twice x in bf16, as ATC makes it of a float model."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"], "A")]
    model = model_of(nodes, {"x": [3]}, {"y": [3]}, dtype=TensorProto.FLOAT)
    x, y = spec("x", (3,), "bfloat16"), spec("A:0:y", (3,), "bfloat16", onnx_name="y")
    inside = [replace(one, onnx_dtype="float32") for one in (x, y)]
    return Payload("Ascend910B3", "static", (inside[0],), (inside[1],), model.SerializeToString())


def slow_payload() -> Payload:
    """Some 30 million multiplications a run, on inputs of any size."""
    side = 300
    nodes = [helper.make_node("MatMul", ["x", "x"], ["t0"], "M0")]
    nodes += [
        helper.make_node("MatMul", [f"t{i}", "x"], [f"t{i + 1}"], f"M{i + 1}") for i in range(8)
    ]
    nodes.append(helper.make_node("Identity", ["t8"], ["y"], "I"))
    shape = [side, side]
    model = model_of(nodes, {"x": shape}, {"y": shape}).SerializeToString()
    inside = spec("x", shape), spec("I:0:y", shape, onnx_name="y")
    return Payload("Ascend310P3", "static", (inside[0],), (inside[1],), model)


PAYLOADS: dict[str, Callable[[], Payload]] = {
    "static": static_payload,
    "batch": lambda: gear_payload("batch"),
    "image": lambda: gear_payload("image"),
    "dims": lambda: gear_payload("dims"),
    "dynamic": dynamic_payload,
    "open": lambda: dynamic_payload(-1),
}


def feeds(rows: int = 2, width: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {n: draw.standard_normal((rows, width)).astype(np.float32) for n in ("a", "b")}
