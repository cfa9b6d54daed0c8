"""What every device offers: open a model, look at its inputs and outputs, run it.

Three devices run the same artefacts: ``host`` (onnxruntime), ``sim`` (simulated toolchain) and
``ascend`` (real ACL).  Nothing falls back silently from one to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omfuse.errors import UsageError

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype and shape of one model input or output; a dim is an int or a symbol."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


class Session(Protocol):
    """A loaded model on one device."""

    device: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    kernels: dict[str, str]  # FlashAttention node -> what computes it

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; arrays by name in, arrays by name out."""
        ...

    def close(self) -> None:
        """Free the model; safe to call twice."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_session(path: str | Path, device: str = "host", **options: Any) -> Session:
    """Open ``path`` on a device.

    Args:
        path: an ``.onnx`` (host) or ``.om`` (sim, ascend) file.
        device: ``host``, ``sim`` or ``ascend``.
        options: passed to the device's own session.

    Raises:
        UsageError: ``unknown-device`` or ``wrong-artefact``.
    """
    if device not in ("host", "sim", "ascend"):
        raise UsageError("unknown-device", f"no device {device!r}", hint="use host, sim or ascend")
    suffix = Path(path).suffix.lower()
    if (suffix == ".om") == (device == "host"):
        raise UsageError(
            "wrong-artefact",
            f"device {device} does not run {suffix or 'this kind of'} files",
            where=str(path),
            hint="host runs .onnx, sim and ascend run .om; `omfuse compile` makes an .om",
        )
    if device == "host":
        from omfuse.host.session import HostSession

        return HostSession(path, **options)
    from omfuse.acl.opening import open_om

    return open_om(path, device=device, **options)
