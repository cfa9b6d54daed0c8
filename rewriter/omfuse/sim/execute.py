"""Compute a simulated model: its stored ONNX in onnxruntime, converted at the interface.

The numbers are those of onnxruntime and of what computes FlashAttention here, never a chip's.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from omfuse.errors import ModelError
from omfuse.host.tensors import named_dtype
from omfuse.session import Array
from omfuse.sim.payload import Payload, TensorSpec
from omfuse.sim.restore import restore

Transform = Callable[[onnx.ModelProto], onnx.ModelProto]
Mutate = Callable[[Mapping[str, Array], "list[Array]"], "list[Array]"]


class LoadedModel:
    """One loaded model of the simulated device; runs are serialised.

    Args:
        payload: what the .om holds.
        transform: changes the runnable model before it is opened; for tests of the comparison.
        mutate: changes the outputs of each run; for tests of the comparison.
        lowering: how FlashAttention runs, as in :class:`omfuse.host.session.HostSession`.

    Raises:
        OmfuseError: what restoring and onnxruntime have to say.
    """

    def __init__(
        self,
        payload: Payload,
        transform: Transform | None = None,
        mutate: Mutate | None = None,
        lowering: str = "auto",
    ) -> None:
        from omfuse.diff.inputs import is_half
        from omfuse.host.session import HostSession

        self._payload = payload
        self._mutate = mutate
        self._lock = threading.Lock()
        model = runnable_model(payload)
        if transform is not None:
            model = transform(model)
        self._folder = _write_weights(payload)
        try:
            # fp16 models may crash onnxruntime natively: the device, not the caller, must die.
            self._session = HostSession(
                model,
                lowering,
                base_dir=None if self._folder is None else self._folder.name,
                isolated=is_half(model),
            )
        except BaseException:
            self._drop_weights()
            raise
        self.kernels = self._session.kernels

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run once; arrays in the order and with the dtypes of the interface.

        Raises:
            OmfuseError: as the host session.
        """
        feeds = {
            spec.onnx_name: array.astype(named_dtype(spec.onnx_dtype), copy=False)
            for spec, array in zip(self._payload.inputs, inputs, strict=True)
        }
        with self._lock:
            made = self._session.run(feeds)
        outputs = [_as_shown(made[spec.onnx_name], spec) for spec in self._payload.outputs]
        return outputs if self._mutate is None else self._mutate(feeds, outputs)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        with self._lock:
            self._session.close()
            self._drop_weights()

    def _drop_weights(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def runnable_model(payload: Payload) -> onnx.ModelProto:
    """Return the stored model in a form that onnxruntime runs.

    Raises:
        ModelError: ``bad-payload`` when the stored model is damaged, and see ``restore``.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(payload.model)
    except DecodeError as error:
        raise ModelError("bad-payload", "the model stored in the .om is damaged") from error
    restore(model, {spec.onnx_name: spec.dims for spec in payload.inputs})
    return model


def _write_weights(payload: Payload) -> tempfile.TemporaryDirectory[str] | None:
    if not payload.external:
        return None
    folder = tempfile.TemporaryDirectory(prefix="omfuse-sim-")
    root = Path(folder.name).resolve()
    for name, data in payload.external.items():
        target = (root / name).resolve()
        if root not in target.parents:
            folder.cleanup()
            raise ModelError("bad-payload", f"weight file {name!r} lies outside its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def _as_shown(array: Array, spec: TensorSpec) -> Array:
    shown = np.asarray(array).astype(named_dtype(spec.dtype), copy=False)
    return np.ascontiguousarray(shown).reshape(shown.shape)
