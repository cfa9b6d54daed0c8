"""The host device: run an ONNX model in onnxruntime on this CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import onnx

from omfuse.errors import UsageError
from omfuse.host.engine import Engine, EngineOptions
from omfuse.host.isolated import IsolatedEngine
from omfuse.session_protocol import Array, TensorInfo, from_bits


class HostSession:
    """An ONNX model in onnxruntime, each FlashAttention node lowered to what runs best here.

    Args:
        model: path of an ``.onnx`` file, or a model in memory (it is not changed).
        lowering: ``auto`` chooses for each node; ``body`` runs the portable function body as it
            is; a name of ``omfuse.host.rules.LOWERINGS`` asks for one lowering, and nodes it
            cannot express get ``plain``.
        input_shapes: sizes of inputs by name, for the choice when the model declares symbols.
        optimize: let onnxruntime optimise the graph; false for a golden run.
        threads: threads inside an operator; onnxruntime's default when None.
        extra_outputs: names of inner tensors of the main graph to return as well.
        custom_ops: paths of onnxruntime custom operator libraries that the model needs.
        base_dir: folder of the external data of a model in memory, or the file it was read
            from.
        isolated: run onnxruntime in a process of its own, so that a crash of native code is an
            error and not the end of this process.

    Attributes:
        device: always ``"host"``.
        inputs: what must be fed.
        outputs: what comes back.
        kernels: FlashAttention node name -> lowering and reason.

    Raises:
        ModelError: ``model-not-found``, ``model-unreadable``, ``model-too-large``,
            ``external-data-missing``, ``unknown-op``, ``model-rejected``, ``unsupported-type``.
        UsageError: ``unknown-lowering``, ``unknown-tensor``, ``unknown-kernel``.
        NotAvailableError: ``no-compiler`` for an emulated kernel.
        ToolchainError: ``onnxruntime-failed``, ``onnxruntime-crashed`` (isolated only).
    """

    device = "host"

    def __init__(
        self,
        model: str | Path | onnx.ModelProto,
        lowering: str = "auto",
        *,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        optimize: bool = True,
        threads: int | None = None,
        extra_outputs: Sequence[str] = (),
        custom_ops: Sequence[str | Path] = (),
        base_dir: str | Path | None = None,
        isolated: bool = False,
        kernel: str = "cpu",
    ) -> None:
        library = None
        if kernel != "cpu":
            # The emulation is built by `ops`, which builds on this package.
            from omfuse.ops.ascendc_op import library as ascendc_library

            library = str(ascendc_library(kernel))
            lowering = "kernel"
        options = EngineOptions(
            lowering=lowering,
            input_shapes={name: tuple(dims) for name, dims in (input_shapes or {}).items()},
            optimize=optimize,
            threads=threads,
            extra_outputs=tuple(extra_outputs),
            custom_ops=tuple(str(path) for path in custom_ops),
            base_dir=None if base_dir is None else str(Path(base_dir).absolute()),
            kernel_library=library,
            kernel_name="" if library is None else f"{kernel} (emulated)",
        )
        source = model if isinstance(model, onnx.ModelProto) else Path(model)
        self._engine: Engine | IsolatedEngine | None = (
            IsolatedEngine(source, options) if isolated else Engine(source, options)
        )
        self.inputs: list[TensorInfo] = self._engine.inputs
        self.outputs: list[TensorInfo] = self._engine.outputs
        self.kernels: dict[str, str] = self._engine.kernels

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: one array for each input, dtype and shape as in ``inputs``.

        Raises:
            UsageError: ``bad-feed``, ``session-closed``.
            ToolchainError: ``onnxruntime-run-failed``, ``onnxruntime-crashed`` (isolated only).
        """
        if self._engine is None:
            raise UsageError("session-closed", "this session is closed", hint="open a new one")
        coded = [t for t in self.inputs if t.dtype.kind == "V" and t.name in feeds]
        if coded:
            feeds = {**feeds, **{t.name: from_bits(feeds[t.name], t.dtype) for t in coded}}
        return self._engine.run(feeds)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        engine, self._engine = self._engine, None
        if isinstance(engine, IsolatedEngine):
            engine.close()

    def __enter__(self) -> HostSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
