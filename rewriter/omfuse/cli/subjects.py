"""Open what the user names and find inputs for it; shared by `run` and `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfuse.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from omfuse.session_protocol import Array, Session


_MOST_DEVICES = 256  # more is a slip of the pen


def device_of(model: str, device: str | None) -> str:
    """Return the device: as named, else host for an .onnx.

    Raises:
        UsageError: ``no-device`` for an .om without one: which of the two is never guessed.
    """
    if device is not None:
        return device
    if Path(model).suffix.lower() != ".om":
        return "host"
    raise UsageError(
        "no-device",
        "an .om runs on a device",
        where=model,
        hint="--device ascend on a board, --device sim for a simulated .om",
    )


def parse_devices(text: str) -> list[int]:
    """Read ``0-3`` or ``0,2,5``.

    Raises:
        UsageError: ``bad-argument``.
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers = (
                range(int(first), int(last) + 1) if dash else range(int(first), int(first) + 1)
            )
            found += numbers[: _MOST_DEVICES + 1]
    except ValueError:
        found = []
    if not 1 <= len(found) <= _MOST_DEVICES or min(found) < 0:
        raise UsageError("bad-argument", f"--devices {text!r}", hint="for example 0-3 or 0,2")
    return found


def feeds_for(
    session: Session,
    model: str,
    arrays: Mapping[str, Array],
    dims: Mapping[str, int],
    seed: int,
) -> dict[str, Array]:
    """Return inputs for a session: those given, the rest realistic and random.

    Raises:
        ModelError: ``no-inputs-found``.
        UsageError: ``unknown-dim``, ``bad-dim``, ``bad-shape``.
    """
    from omfuse.diff.inputs import plan_inputs, settle
    from omfuse.host.feeding import sizes_of

    sizes = {**sizes_of(session.inputs, arrays), **dims}
    if session.device == "host":
        from omfuse.graph.model_io import load_model

        plan = plan_inputs(load_model(model), sizes)
        return settle(plan, session.run, sizes, seed).make(seed) | dict(arrays)
    shapes: dict[str, Sequence[int]] = session.default_dims(sizes)  # type: ignore[attr-defined]
    plan = plan_inputs(_stored_model(session, model, shapes))

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return session.run(_fitting(session, feeds) | dict(arrays))

    return _fitting(session, settle(plan, run, None, seed).make(seed)) | dict(arrays)


def _fitting(session: Session, feeds: Mapping[str, Any]) -> dict[str, Array]:
    """Convert to the dtypes of the interface, which ATC may have changed."""
    return {t.name: feeds[t.name].astype(t.dtype, copy=False) for t in session.inputs}


def _stored_model(
    session: Session, path: str, shapes: Mapping[str, Sequence[int]]
) -> onnx.ModelProto:
    """Return a model that tells what the inputs mean: their names alone for a real .om."""
    import onnx
    from onnx import helper

    if session.device == "sim":
        from omfuse.sim.execute import runnable_model
        from omfuse.sim.payload import load_payload

        model = runnable_model(load_payload(path))
    else:
        graph = helper.make_graph([], "inputs", [], [])
        model = helper.make_model(graph)
        for tensor in session.inputs:
            kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
            value = helper.make_tensor_value_info(tensor.name, kind, list(shapes[tensor.name]))
            model.graph.input.append(value)
    for value in model.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
        ):
            dim.Clear()
            dim.dim_value = size
    assert isinstance(model, onnx.ModelProto)
    return model


def timing_note(devices: Sequence[str]) -> str | None:
    """Return what must be said beside times of a simulated device."""
    if "sim" not in devices:
        return None
    return "simulated: times of this machine's CPU, no measure of a chip"
