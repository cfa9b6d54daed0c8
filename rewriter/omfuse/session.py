"""Open a model on a device.

Three devices run the same artefacts: ``host`` (onnxruntime), ``sim`` (simulated toolchain) and
``ascend`` (real ACL).  Nothing falls back silently from one to another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omfuse.errors import UsageError
from omfuse.session_protocol import Session


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
