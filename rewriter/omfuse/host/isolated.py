"""One model inside onnxruntime, in a process of its own.

Some exports make onnxruntime crash in native code (1.31 did on fp16 encoders); there the process
that asked survives and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import onnx

from omfuse import errors
from omfuse.errors import ToolchainError
from omfuse.host import frames
from omfuse.host.engine import EngineOptions
from omfuse.host.tensors import named_dtype
from omfuse.session_protocol import Array, TensorInfo

_CLOSE_SECONDS = 5


class IsolatedEngine:
    """The face of :class:`omfuse.host.engine.Engine` for a model in a worker process."""

    def __init__(self, source: Path | onnx.ModelProto, options: EngineOptions) -> None:
        self._where = str(source) if isinstance(source, Path) else None
        self._doing = "loading the model"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "omfuse.host.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            with tempfile.TemporaryDirectory(prefix="omfuse-") as folder:
                path = source if isinstance(source, Path) else Path(folder, "model.onnx")
                if isinstance(source, onnx.ModelProto):
                    path.write_bytes(source.SerializeToString())
                request = {"model": str(path.resolve()), "options": dataclasses.asdict(options)}
                head, _ = self._ask(request, {})
        except BaseException:
            self.close()
            raise
        self._doing = "running"
        self.kernels: dict[str, str] = head["kernels"]
        self.inputs = [_info(entry) for entry in head["inputs"]]
        self.outputs = [_info(entry) for entry in head["outputs"]]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        return self._ask({}, feeds)[1]

    def close(self) -> None:
        """End the worker; safe to call twice."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):  # the worker is gone already
                    pipe.close()
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(
        self, header: dict[str, Any], arrays: Mapping[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            frames.send(cast(BinaryIO, self._process.stdin), header, arrays)
            head, results = frames.receive(cast(BinaryIO, self._process.stdout))
        except (EOFError, BrokenPipeError) as error:
            raise self._crashed() from error
        if "error" in head:
            kind = getattr(errors, head["error"].pop("class"))
            raise kind(**head["error"])
        return head, results

    def _crashed(self) -> ToolchainError:
        code = self._process.wait()
        how = f"ended with code {code}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        return ToolchainError(
            "onnxruntime-crashed",
            f"onnxruntime {how} while {self._doing}",
            where=self._where,
            hint="a bug or memory limit of onnxruntime: try another version, optimize=False, "
            "or export in fp32",
        )


def _info(entry: dict[str, Any]) -> TensorInfo:
    dims = tuple(entry["shape"])
    return TensorInfo(entry["name"], named_dtype(entry["dtype"]), dims)
