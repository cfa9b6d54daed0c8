"""Compute a simulated model: its stored ONNX in onnxruntime, converted at the interface.

The numbers are those of onnxruntime and of what computes FlashAttention here, never a chip's.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from omfuse.errors import ModelError, NotAvailableError, ToolchainError
from omfuse.host.tensors import named_dtype
from omfuse.session_protocol import Array
from omfuse.sim.builtin import builtin_of
from omfuse.sim.payload import Payload, TensorSpec
from omfuse.sim.restore import restore

if TYPE_CHECKING:
    from omfuse.host.session import HostSession

_REFUSAL = "the Ascend C kernel refuses: "
Transform = Callable[[onnx.ModelProto], onnx.ModelProto]
Mutate = Callable[[Mapping[str, Array], "list[Array]"], "list[Array]"]


class LoadedModel:
    """One loaded model of the simulated device; runs are serialised.

    Args:
        payload: what the .om holds.
        transform: changes the runnable model before it is opened; for tests of the comparison.
        mutate: changes the outputs of each run; for tests of the comparison.
        kernel: what computes FlashAttention: ``auto`` is the Ascend C kernel emulated for the
            chip of the compile where this machine can build it, else what the host device uses;
            ``ascendc``, ``ascendc-310p`` and ``cpu`` are as on the host device.

    Raises:
        OmfuseError: what restoring and onnxruntime have to say.
    """

    def __init__(
        self,
        payload: Payload,
        transform: Transform | None = None,
        mutate: Mutate | None = None,
        kernel: str = "auto",
    ) -> None:
        from omfuse.diff.inputs import is_half

        self._payload = payload
        self._mutate = mutate
        self._lock = threading.Lock()
        model = runnable_model(payload)
        if transform is not None:
            model = transform(model)
        self._folder = _write_weights(payload)
        self._model, self._strict = model, kernel != "auto"
        self._options: dict[str, Any] = {
            "base_dir": None if self._folder is None else self._folder.name,
            # fp16 models may crash onnxruntime natively: the device, not the caller, must die.
            "isolated": is_half(model),
        }
        try:
            self._session, self.kernels = _open(
                model,
                _emulated(payload.soc) if kernel == "auto" else kernel,
                strict=self._strict,
                **self._options,
            )
        except BaseException:
            self._drop_weights()
            raise

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
            made = self._compute(feeds)
        outputs = [_as_shown(made[spec.onnx_name], spec) for spec in self._payload.outputs]
        return outputs if self._mutate is None else self._mutate(feeds, outputs)

    def _compute(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return self._session.run(feeds)
        except ToolchainError as error:
            _, refusal, why = error.message.partition(_REFUSAL)
            if not refusal or self._strict:
                raise
        # Sizes may be known only now: the tiling decides when the operator runs.
        self._session.close()
        self._session, kernels = _open(self._model, "cpu", strict=True, **self._options)
        note = f" (the Ascend C kernel refuses, as it would on the chip: {why.strip()})"
        self.kernels.update({node: used + note for node, used in kernels.items()})
        return self._session.run(feeds)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        with self._lock:
            self._session.close()
            self._drop_weights()

    def _drop_weights(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _emulated(soc: str) -> str:
    """Return the emulated kernel of a chip: chips with one coupled core have another."""
    return "ascendc-310p" if soc.startswith(("Ascend310P", "Ascend310B")) else "ascendc"


def _open(
    model: onnx.ModelProto, kernel: str, *, strict: bool, **options: Any
) -> tuple[HostSession, dict[str, str]]:
    """Open the model, and say what computes each attention and why it is not the chip's kernel."""
    from omfuse.host.lower import contains_flash_attention
    from omfuse.host.session import HostSession

    builtin = sorted({b for n in model.graph.node if (b := builtin_of(n))})
    why = f" (stands in for CANN's {', '.join(builtin)})" if builtin else ""
    if not builtin and kernel != "cpu" and contains_flash_attention(model):
        try:
            session = HostSession(model, kernel=kernel, **options)
        except (NotAvailableError, ToolchainError) as error:
            if strict:
                raise
            why = f" (no emulated Ascend C kernel: {error.message})"
        else:
            used = session.kernels
            if not strict:  # the device chose it; the host session says that it was asked for
                used = {node: text.partition(":")[0] for node, text in used.items()}
            return session, used
    session = HostSession(model, **options)
    return session, {node: used + why for node, used in session.kernels.items()}


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
